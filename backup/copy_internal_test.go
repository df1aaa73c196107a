package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/internal/pg"
)

// source is a directory that looks like a data directory to the scan.
type source struct {
	dir *pg.DataDir
	t   testing.TB
}

func newSource(t testing.TB) *source {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"base/5", "global", "pg_wal", "pg_tblspc", "pg_xact"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := pg.OpenDataDir(root, pg.Layout{Major: 17, VersionDir: "PG_17_202406281"})
	if err != nil {
		t.Fatal(err)
	}
	return &source{dir, t}
}

func (s *source) write(name string, data []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir.Root, name), data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// relation gives n sound pages of a relation's fork.
func relation(n int) []byte {
	var b []byte
	for i := range n {
		b = append(b, soundPage(uint32(i), 0x1000)...)
	}
	return b
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

// copied runs scan, then change, then the copy, and gives the backup's content.
func copied(t *testing.T, s *source, workers int, change func()) map[string][]byte {
	t.Helper()
	r, _ := repotest.New(t)
	files, err := scan(t.Context(), s.dir, testPage, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change()
	}
	id := repotest.ID(1)
	w, err := r.Create(t.Context(), id, repo.WriteOptions{PackSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p := testPages(false)
	p.segment = 131072
	c := &copier{root: s.dir.Root, blockSize: testPage, writer: w, pages: p, rate: &rate{}}
	if err := c.run(t.Context(), files, workers); err != nil {
		t.Fatal(err)
	}
	img := &image{files: files}
	if _, err := w.Commit(t.Context(), repo.Contents{Backup: repotest.Backup(id), Entries: img.entries()}); err != nil {
		t.Fatal(err)
	}
	return content(t, r, id)
}

// content reads a backup back; directories end in a slash.
func content(t *testing.T, r *repo.Repo, id repo.BackupID) map[string][]byte {
	t.Helper()
	m, err := r.OpenManifest(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	var paths []string
	wants := func(yield func(repo.Want, error) bool) {
		for e, err := range m.Entries(t.Context()) {
			if e.Dir {
				out[e.Path+"/"] = nil
				continue
			}
			out[e.Path] = make([]byte, e.Size)
			paths = append(paths, e.Path)
			if !yield(repo.Want{Tag: int64(len(paths) - 1), Entry: e}, err) {
				return
			}
		}
	}
	var all []repo.Want
	for w, err := range wants {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	var mu sync.Mutex
	err = m.Fetch(t.Context(), m.Locate(t.Context(), repo.Values(all)), repo.FetchOptions{}, func(_ context.Context, rd repo.Read, raw []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if rd.Kind == repo.FrameBundle {
			copy(out[paths[rd.Tag]], raw)
			return nil
		}
		for first, b := range rd.Runs(raw, testPage) {
			copy(out[paths[rd.Tag]][int(first)*testPage:], b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestFilesOfAllSizesAreCopiedAsTheyAre(t *testing.T) {
	s := newSource(t)
	want := map[string][]byte{
		"base/": nil, "base/5/": nil, "global/": nil, "pg_wal/": nil, "pg_wal/archive_status/": nil, "pg_wal/summaries/": nil, "pg_tblspc/": nil, "pg_xact/": nil,
		"base/5/1":          {},
		"base/5/2":          relation(1),
		"base/5/3":          relation(7),
		"base/5/4":          relation(8), // just too large to share a frame
		"base/5/5":          relation(9),
		"base/5/6":          relation(200),
		"base/5/5_fsm":      relation(12),
		"base/5/PG_VERSION": []byte("17\n"),
		"pg_xact/0000":      noise(smallFile - 1),
		"pg_xact/0001":      noise(smallFile),
		"pg_xact/0002":      noise(3*readSize + 17),
	}
	for i := range bundleFiles + 10 { // more than a frame may hold
		want[fmt.Sprintf("global/x%05d", i)] = []byte{byte(i)}
	}
	for name, data := range want {
		if data != nil {
			s.write(name, data)
		}
	}
	for _, workers := range []int{1, 4} {
		compare(t, want, copied(t, s, workers, nil))
	}
}

func compare(t *testing.T, want, got map[string][]byte) {
	t.Helper()
	for name, data := range want {
		if g, ok := got[name]; !ok || !bytes.Equal(g, data) {
			t.Errorf("%s: %d bytes, there: %v, want %d bytes", name, len(g), ok, len(data))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is too much", name)
		}
	}
}

func TestALargeFileIsSplitAmongWorkers(t *testing.T) {
	s := newSource(t)
	data := make([]byte, rangeSize+3*testPage) // zero pages, with others at the seam
	for _, n := range []int{0, rangeSize/testPage - 1, rangeSize / testPage, rangeSize/testPage + 2} {
		copy(data[n*testPage:], soundPage(uint32(n), 0x1000))
	}
	s.write("base/5/1", data)
	got := copied(t, s, 3, nil)
	if !bytes.Equal(got["base/5/1"], data) {
		t.Error("the copy differs")
	}
}

func TestFilesThatChangeAfterTheScan(t *testing.T) {
	s := newSource(t)
	long, short := relation(40), relation(3)
	s.write("base/5/10", long)                                // vanishes
	s.write("base/5/11", short)                               // vanishes, a small one
	s.write("base/5/12", long)                                // shrinks
	s.write("base/5/13", short)                               // shrinks, a small one
	s.write("base/5/14", short)                               // grows
	s.write("base/5/15", append(slices.Clone(short), 1, 2))   // half a page has been added
	s.write("base/5/16", long)                                // is emptied
	s.write("base/5/17", nil)                                 // gets its first page
	s.write("patroni.dynamic.json", []byte("{}"))             // grows
	s.write("pg_hba.conf", nil)                               // is written anew at the scan
	s.write("pg_xact/0000", noise(100))                       // grows out of a shared frame
	s.write("pg_xact/0001", noise(2*repo.MaxFrame))           // is emptied
	s.write("postgresql.conf", bytes.Repeat([]byte("#"), 99)) // shrinks
	got := copied(t, s, 2, func() {
		for _, name := range []string{"base/5/10", "base/5/11"} {
			if err := os.Remove(filepath.Join(s.dir.Root, name)); err != nil {
				t.Fatal(err)
			}
		}
		s.write("base/5/12", long[:11*testPage])
		s.write("base/5/13", short[:testPage])
		s.write("base/5/14", relation(30))
		s.write("base/5/16", nil)
		s.write("base/5/17", short)
		s.write("pg_hba.conf", []byte("local all all trust\n"))
		s.write("patroni.dynamic.json", []byte(`{"loop_wait": 10}`))
		s.write("pg_xact/0000", noise(3*repo.MaxFrame))
		s.write("pg_xact/0001", nil)
		s.write("postgresql.conf", []byte("port = 1\n"))
	})
	zeros := func(data []byte, n int) []byte { return append(slices.Clone(data), make([]byte, n-len(data))...) }
	compare(t, map[string][]byte{
		"base/": nil, "base/5/": nil, "global/": nil, "pg_wal/": nil, "pg_wal/archive_status/": nil, "pg_wal/summaries/": nil, "pg_tblspc/": nil, "pg_xact/": nil,
		"base/5/12":            zeros(long[:11*testPage], len(long)), // WAL replay cuts it again
		"base/5/13":            zeros(short[:testPage], len(short)),
		"base/5/14":            short, // the rest is in the WAL
		"base/5/15":            short,
		"base/5/16":            zeros(nil, len(long)),
		"base/5/17":            {},
		"pg_hba.conf":          []byte("local all all trust\n"),
		"patroni.dynamic.json": []byte(`{"loop_wait": 10}`),
		"pg_xact/0000":         noise(3 * repo.MaxFrame),
		"pg_xact/0001":         {},
		"postgresql.conf":      []byte("port = 1\n"),
	}, got)
}

func TestAFileThatVanishesBetweenItsRangesIsLeftOut(t *testing.T) {
	s := newSource(t)
	s.write("base/5/1", make([]byte, rangeSize+testPage))
	s.write("base/5/2", relation(20))
	r, _ := repotest.New(t)
	files, err := scan(t.Context(), s.dir, testPage, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w, err := r.Create(t.Context(), repotest.ID(1), repo.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p := testPages(false)
	p.segment = 131072
	c := &copier{root: s.dir.Root, blockSize: testPage, writer: w, pages: p, rate: &rate{}}
	work := &worker{copier: c, packs: w.Pack(), chunk: readSize, buf: make([]byte, readSize+repo.MaxFrame)}
	for task := range c.split(files) {
		if err := work.do(t.Context(), task); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(s.dir.Root, "base/5/1")); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if err := work.packs.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	img := &image{files: files}
	if _, err := w.Commit(t.Context(), repo.Contents{Backup: repotest.Backup(repotest.ID(1)), Entries: img.entries()}); err != nil {
		t.Fatal(err)
	}
	got := content(t, r, repotest.ID(1))
	if _, ok := got["base/5/1"]; ok || !bytes.Equal(got["base/5/2"], relation(20)) {
		t.Errorf("base/5/1 is there: %v, base/5/2 has %d bytes", ok, len(got["base/5/2"]))
	}
}

func TestTheCopyStopsWithItsContext(t *testing.T) {
	s := newSource(t)
	s.write("base/5/1", relation(100))
	r, _ := repotest.New(t)
	files, err := scan(t.Context(), s.dir, testPage, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w, err := r.Create(t.Context(), repotest.ID(1), repo.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("lease lost")
	cancel(why)
	c := &copier{root: s.dir.Root, blockSize: testPage, writer: w, pages: testPages(false), rate: &rate{}}
	if err := because(ctx, c.run(ctx, files, 2)); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}
