package backup_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// lab is a primary whose WAL goes into a repository in memory. Whatever is in
// the repository at the end of the test must be whole.
type lab struct {
	primary *pgtest.Cluster
	store   storage.Store
	repo    *repo.Repo
	wal     *archiver
}

func newLab(t *testing.T, o pgtest.Options) *lab {
	t.Helper()
	inner := mem.New()
	t.Cleanup(func() { repotest.Check(t, inner) })
	return newLabOn(t, o, storagetest.Enforce(t, inner, nil))
}

// newLabOn is newLab with a store of the caller's.
func newLabOn(t *testing.T, o pgtest.Options, store storage.Store) *lab {
	t.Helper()
	spool := pgtest.Dir(t)
	config := map[string]string{
		"archive_mode":    "on",
		"archive_command": fmt.Sprintf("cp %%p %[1]s/%%f.tmp && mv %[1]s/%%f.tmp %[1]s/%%f", spool),
	}
	for k, v := range o.Config {
		config[k] = v
	}
	o.Config = config
	l := &lab{primary: pgtest.New(t, o), store: store}
	l.repo = repo.Open(l.store, cluster(t, l.primary), repo.Options{})
	l.wal = newArchiver(t, l.repo, spool)
	return l
}

func cluster(t *testing.T, c *pgtest.Cluster) repo.ClusterID {
	t.Helper()
	_, control, err := pg.ReadControl(t.Context(), c.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	return repo.ClusterID{Scope: "demo", SystemID: control.SystemID}
}

// standby makes a standby that does not archive.
func (l *lab) standby(t *testing.T) *pgtest.Cluster {
	t.Helper()
	s := pgtest.StandbyOf(t, l.primary, pgtest.Options{})
	s.CatchUp(t, l.primary)
	return s
}

// options are those of a backup of c, which may be the primary.
func (l *lab) options(t *testing.T, c *pgtest.Cluster) backup.Options {
	return backup.Options{
		Repo: l.repo, DataDir: c.DataDir, Source: connect(c), Primary: connect(l.primary),
		Member: "m1", Host: "h1", ToolVersion: "test", Workers: 2, Fast: true,
		ArchiveTimeout: time.Minute, ArchiveGrace: 30 * time.Second,
		Log: slog.New(slog.NewTextHandler(writer{t}, nil)),
	}
}

func connect(c *pgtest.Cluster) func(context.Context) (*server.Conn, error) {
	return func(ctx context.Context) (*server.Conn, error) { return server.Connect(ctx, c.Options()) }
}

// writer sends log records to the test's log.
type writer struct{ t testing.TB }

func (w writer) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

// archiver pushes what archive_command has put into a directory.
type archiver struct {
	repo *repo.Repo
	dir  string

	mu     sync.Mutex
	paused bool
	last   string // segments behind it are not pushed, "": all are
	done   map[string]bool
}

func newArchiver(t *testing.T, r *repo.Repo, dir string) *archiver {
	a := &archiver{repo: r, dir: dir, done: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if err := a.round(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("archive: %v", err)
				return
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return a
}

func (a *archiver) round(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	files, err := os.ReadDir(a.dir)
	if err != nil || a.paused {
		return err
	}
	for _, f := range files {
		if a.done[f.Name()] || strings.HasSuffix(f.Name(), ".tmp") || a.last != "" && f.Name() > a.last {
			continue
		}
		_, err := archive.Push(ctx, a.repo, archive.PushOptions{Path: filepath.Join(a.dir, f.Name())})
		if err != nil {
			return err
		}
		a.done[f.Name()] = true
	}
	return nil
}

// pause holds the archiver, or lets it go on.
func (a *archiver) pause(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.paused = on
}

// stopAfter holds the archiver behind a segment; "" lets it go on.
func (a *archiver) stopAfter(segment string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = segment
}

// drain pushes what is there.
func (a *archiver) drain(t *testing.T) {
	t.Helper()
	if err := a.round(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// restore brings a backup into a new directory the simplest way, and gives a
// cluster that recovers from the archive to its end when it is started.
func (l *lab) restore(t *testing.T, id repo.BackupID) *pgtest.Cluster {
	t.Helper()
	return l.restoreWith(t, id, l.extractWAL(t))
}

// restoreWith is restore with the archive in a directory, as extractWAL gives it.
func (l *lab) restoreWith(t *testing.T, id repo.BackupID, wal string) *pgtest.Cluster {
	t.Helper()
	dir := filepath.Join(pgtest.Dir(t), "data")
	m, err := l.repo.OpenManifest(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := extract(t.Context(), m, dir); err != nil {
		t.Fatal(err)
	}
	remapTablespaces(t, &m.Backup, dir)
	if err := os.WriteFile(filepath.Join(dir, "recovery.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, "standby.signal")) // of a standby's backup; the other signal wins anyway
	return pgtest.Adopt(t, dir, pgtest.Options{Major: m.Backup.Major(), Config: map[string]string{
		"restore_command": fmt.Sprintf("cp %s/%%f %%p", wal), "archive_mode": "off", "primary_conninfo": "",
	}})
}

// extract writes the files of a backup. Tablespaces go beside the directory.
func extract(ctx context.Context, m *repo.Manifest, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	var wants []repo.Want
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for e, err := range m.Entries(ctx) {
		if err != nil {
			return err
		}
		name := filepath.Join(dir, e.Path)
		if space, ok := strings.CutPrefix(e.Path, "pg_tblspc/"); ok && e.Dir && !strings.Contains(space, "/") {
			if err := os.Mkdir(dir+"."+space, 0o700); err != nil {
				return err
			}
			if err := os.Symlink(dir+"."+space, name); err != nil {
				return err
			}
			continue
		}
		if e.Dir {
			if err := os.Mkdir(name, e.Mode); err != nil {
				return err
			}
			continue
		}
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, e.Mode)
		if err != nil {
			return err
		}
		if err := f.Truncate(e.Size); err != nil {
			return err
		}
		files = append(files, f)
		wants = append(wants, repo.Want{Tag: int64(len(files) - 1), Entry: e})
		if len(files) == 500 { // within the limit of open files
			if err := fetch(ctx, m, wants, files); err != nil {
				return err
			}
			for _, f := range files {
				f.Close()
			}
			wants, files = nil, nil
		}
	}
	return fetch(ctx, m, wants, files)
}

func fetch(ctx context.Context, m *repo.Manifest, wants []repo.Want, files []*os.File) error {
	return m.Fetch(ctx, m.Locate(ctx, repo.Values(wants)), repo.FetchOptions{}, func(_ context.Context, rd repo.Read, raw []byte) error {
		if rd.Kind == repo.FrameBundle {
			_, err := files[rd.Tag].WriteAt(raw, 0)
			return err
		}
		for first, b := range rd.Runs(raw, m.Backup.BlockSize) {
			if _, err := files[rd.Tag].WriteAt(b, int64(first)*int64(m.Backup.BlockSize)); err != nil {
				return err
			}
		}
		return nil
	})
}

// remapTablespaces makes tablespace_map lead to where extract put them.
func remapTablespaces(t *testing.T, b *repo.Backup, dir string) {
	t.Helper()
	var spaces []pg.Tablespace
	for _, s := range b.Tablespaces {
		spaces = append(spaces, pg.Tablespace{OID: s.OID, Location: fmt.Sprintf("%s.%d", dir, s.OID)})
		pgtest.Own(t, spaces[len(spaces)-1].Location)
	}
	name := filepath.Join(dir, "tablespace_map")
	content, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) && len(spaces) == 0 {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if listed, err := pg.ParseTablespaceMap(content); err != nil || len(listed) != len(spaces) {
		t.Fatalf("tablespace_map lists %v (%v), the manifest %v", listed, err, b.Tablespaces)
	}
	if err := os.WriteFile(name, pg.EncodeTablespaceMap(spaces), 0o600); err != nil {
		t.Fatal(err)
	}
}

// extractWAL writes all archived segments and histories into a directory.
func (l *lab) extractWAL(t *testing.T) string {
	t.Helper()
	dir := pgtest.Dir(t)
	write := func(name string, f func(*os.File) error) {
		file, err := os.Create(filepath.Join(dir, name))
		if err == nil {
			err = errors.Join(f(file), file.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_, control, err := pg.ReadControl(t.Context(), l.primary.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := l.repo.Incarnations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range lines {
		for o, err := range l.repo.Segments(t.Context(), i, control.SegmentSize, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if !o.Plain() {
				continue
			}
			write(o.Segment.Name(control.SegmentSize), func(f *os.File) error {
				_, err := l.repo.ReadWAL(t.Context(), o.Object.Key, f)
				return err
			})
		}
	}
	histories, err := l.repo.Histories(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range histories {
		write(pg.HistoryName(i.Timeline), func(f *os.File) error {
			_, content, err := l.repo.History(t.Context(), i)
			if err == nil {
				_, err = f.Write(content)
			}
			return err
		})
	}
	pgtest.Own(t, dir)
	return dir
}

// take is Take of a backup that must succeed.
func take(t *testing.T, o backup.Options) backup.Result {
	t.Helper()
	r, err := backup.Take(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// listed gives the ids of the committed backups.
func listed(t *testing.T, r *repo.Repo) []repo.BackupID {
	t.Helper()
	list, err := backup.List(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var ids []repo.BackupID
	for _, s := range list {
		if s.Status == backup.Complete {
			ids = append(ids, s.ID)
		}
	}
	return ids
}
