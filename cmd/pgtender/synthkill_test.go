package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/soak"
)

// rack is a repository with a full backup and some incremental ones, that this
// program has taken as pgtender.
type rack struct {
	program, dir, data string // the program; its working directory; the server's
	system             pg.SystemID
}

// TestSoakKilledSyntheses kills pgtender backup --kind synthetic at a random
// moment, then the one that goes on with its work, until one comes through. Each
// time every listed backup must be whole; in the end the new one too, byte for
// byte the one it is made of, and nothing else left. Without PGTENDER_SOAK it
// has a few rounds.
func TestSoakKilledSyntheses(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	rounds := 3
	if soak.Wanted() {
		rounds = 100
	}
	s := newRack(t)
	base := filepath.Join(s.dir, "base")
	parent := s.newest(t, base)
	want := s.restored(t, base, parent.ID)
	began := time.Now()
	s.copied(t, base, "undisturbed")
	s.must(t, filepath.Join(s.dir, "undisturbed"), "backup", "--kind", "synthetic")
	whole := time.Since(began)

	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	count := soak.Tally{}
	for round := range rounds {
		dir := s.copied(t, base, fmt.Sprintf("round-%d", round))
		for killed := 0; ; killed++ {
			after := time.Duration(random.Int64N(int64(whole) * int64(3+killed) / 4))
			log, ended := s.killAfter(t, dir, after)
			if strings.Contains(log, "going on with a synthetic backup") {
				count["resumed"]++
			}
			if ended {
				break
			}
			count["kills"]++
			s.must(t, dir, "verify")
			if s.newest(t, dir).Kind == repo.Synthetic {
				count["committed"]++ // killed behind its last step
				break
			}
		}
		b := s.newest(t, dir)
		if b.Kind != repo.Synthetic || b.Parent != parent.ID {
			t.Fatalf("seed %d, round %d: the newest is %s, %s of %s", seed, round, b.ID, b.Kind, b.Parent)
		}
		s.must(t, dir, "verify", "--deep")
		if diff := cmp.Diff(want, s.restored(t, dir, b.ID)); diff != "" {
			t.Fatalf("seed %d, round %d: %s", seed, round, diff)
		}
		for range 3 {
			s.must(t, dir, "expire", "--yes")
		}
		s.nothingLeft(t, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d, an undisturbed run takes %s; %d rounds: %s", seed, whole.Round(time.Millisecond), rounds, count)
	if count["kills"] == 0 {
		t.Error("nothing was killed")
	}
}

func newRack(t *testing.T) *rack {
	t.Helper()
	s := &rack{program: pgtest.Install(t, "pgtender"), dir: pgtest.Dir(t)}
	base := filepath.Join(s.dir, "base")
	p := pgtest.New(t, pgtest.Options{Checksums: true, Config: map[string]string{
		"archive_mode": "on", "archive_command": fmt.Sprintf("%s -c %s.yml archive-push %%p", s.program, base),
	}})
	s.data = p.DataDir
	s.configure(t, base)
	_, control, err := pg.ReadControl(t.Context(), s.data)
	if err != nil {
		t.Fatal(err)
	}
	s.system = control.SystemID
	// Content that does not compress, so that there are several packs.
	rows := 12000
	p.Exec(t, fmt.Sprintf("CREATE TABLE bulk AS SELECT i, (SELECT string_agg(md5(random()::text || i || j), '') FROM generate_series(1, 100) j) AS v FROM generate_series(1, %d) i", rows),
		"ALTER TABLE bulk ALTER v SET STORAGE EXTERNAL")
	s.must(t, base, "backup")
	for n := range 3 {
		p.Exec(t, fmt.Sprintf("UPDATE bulk SET i = i + 1 WHERE i %% 40 = %d", n))
		s.must(t, base, "backup")
	}
	p.Stop(t, pgtest.Fast)
	return s
}

// configure writes the configuration of a repository beside it.
func (s *rack) configure(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, dir)
	text := fmt.Sprintf("repository: file://%s\ncluster: main\ndata_dir: %s\nbackup: {workers: 2, synthetic_share: 0}\nexpire: {keep_backups: 50, grace: 1ms}\nserver: {user: postgres}\n", dir, s.data)
	if err := os.WriteFile(dir+".yml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// copied makes another repository of the same objects.
func (s *rack) copied(t *testing.T, base, name string) string {
	t.Helper()
	dir := filepath.Join(s.dir, name)
	s.configure(t, dir)
	if out, err := pgtest.Command(t.Context(), t, "/bin/cp", "-al", base+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// must runs a command that must succeed, and gives its output.
func (s *rack) must(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	cmd := pgtest.Command(t.Context(), t, s.program, append([]string{"-c", dir + ".yml"}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s in %s: %v\n%s%s", args, dir, err, out, errs.String())
	}
	return out
}

// killAfter makes a synthetic backup and kills the process after a time; it
// reports whether that had ended before.
func (s *rack) killAfter(t *testing.T, dir string, after time.Duration) (log string, ended bool) {
	t.Helper()
	cmd := pgtest.Command(t.Context(), t, s.program, "-c", dir+".yml", "backup", "--kind", "synthetic")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	if err != nil && !cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return out.String(), err == nil
}

func (s *rack) newest(t *testing.T, dir string) repo.Backup {
	t.Helper()
	var info struct {
		Backups []struct {
			ID     repo.BackupID `json:"id"`
			Status string        `json:"status"`
		} `json:"backups"`
	}
	if err := json.Unmarshal(s.must(t, dir, "--json", "info"), &info); err != nil {
		t.Fatal(err)
	}
	id := repo.BackupID(0)
	for _, b := range info.Backups {
		if b.Status == string(backup.Complete) {
			id = max(id, b.ID)
		}
	}
	m, err := s.open(t, dir).OpenManifest(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return m.Backup
}

func (s *rack) open(t *testing.T, dir string) *repo.Repo {
	t.Helper()
	store, err := file.Open(t.Context(), file.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return repo.Open(store, repo.ClusterID{Scope: "main", SystemID: s.system}, repo.Options{})
}

// restored gives the files that a backup restores to, by their digests.
func (s *rack) restored(t *testing.T, dir string, id repo.BackupID) map[string]string {
	t.Helper()
	root := filepath.Join(s.dir, "restored")
	s.must(t, dir, "restore", "--target-dir", root, "--backup", id.String(), "--target-immediate")
	defer os.RemoveAll(root)
	out := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || strings.HasPrefix(e.Name(), "postgresql.auto.conf") {
			return err // its restore_command names the repository
		}
		content, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, root)] = fmt.Sprint(len(content), " ", repo.DigestOf(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// nothingLeft fails if there are markers, or packs that no backup names.
func (s *rack) nothingLeft(t *testing.T, dir string) {
	t.Helper()
	r := s.open(t, dir)
	if marked, err := r.RunningBackups(t.Context()); err != nil || len(marked) > 0 {
		t.Errorf("%s: markers %v, %v", dir, marked, err)
	}
	stored, err := r.StoredPacks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.Backups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[repo.PackRef]bool)
	for _, l := range list {
		if l.Err != nil {
			continue // a tombstone
		}
		m, err := r.OpenManifest(t.Context(), l.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range m.Packs {
			named[p.PackRef] = true
		}
	}
	for _, packs := range stored {
		for _, p := range packs {
			if !named[p.PackRef] {
				t.Errorf("%s: pack %s is named by no backup", dir, p.PackRef)
			}
		}
	}
}
