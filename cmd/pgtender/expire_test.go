package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/internal/pg"
)

// shelf is a repository in a directory with backups that hold no files, and the
// program run on it.
type shelf struct {
	t   *testing.T
	dir string
	r   *repo.Repo
	env []string
}

func newShelf(t *testing.T, env ...string) *shelf {
	dir := t.TempDir()
	s, err := file.Open(t.Context(), file.Options{Dir: dir, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	cluster := repo.ClusterID{Scope: "main", SystemID: scriptSystemID}
	env = append(env, "PGTENDER_REPOSITORY=file://"+dir, "PGTENDER_CLUSTER="+cluster.String())
	return &shelf{t, dir, repo.Open(s, cluster, repo.Options{}), env}
}

// backup stores one that needs segment n of timeline 1.
func (s *shelf) backup(n int) repo.BackupID {
	s.t.Helper()
	ctx, id := s.t.Context(), repotest.ID(n)
	b := repotest.Backup(id)
	b.Scope, b.SystemID = "main", scriptSystemID
	b.SegmentSize, b.History, b.Tablespaces = scriptSegmentSize, nil, nil
	at := b.SegmentSize.Start(pg.SegmentNumber(n))
	b.Start, b.Stop = pg.Pos{Timeline: 1, LSN: at + 40}, pg.Pos{Timeline: 1, LSN: at + 300}
	b.Redo, b.Checkpoint = b.Start.LSN, b.Start.LSN+64
	w, err := s.r.Create(ctx, id, repo.WriteOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Close()
	p := w.Pack()
	f, err := p.WriteBundle(ctx, []repo.Member{{File: 1, Data: []byte("17\n")}})
	if err == nil {
		err = p.Close(ctx)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	entry := repo.Entry{File: 1, Path: "PG_VERSION", Mode: 0o600, Modified: id.Time(), Size: 3, Digest: repo.DigestOf([]byte("17\n")), Bundle: &repo.BundleRef{Place: f.Place}}
	if _, err := w.Commit(ctx, repo.Contents{Backup: b, Entries: func(yield func(repo.Entry, error) bool) { yield(entry, nil) }}); err != nil {
		s.t.Fatal(err)
	}
	s.segment(n)
	return id
}

func (s *shelf) segment(n int) {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), pg.Segment{Timeline: 1, Number: pg.SegmentNumber(n)}.Name(scriptSegmentSize))
	err := os.WriteFile(path, segment(uint64(n), uint64(n-1)<<20+40), 0o600)
	if err == nil {
		_, err = archive.Push(s.t.Context(), s.r, archive.PushOptions{Path: path, SystemID: scriptSystemID})
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// run runs the program, which must end with a status, and gives what it printed.
func (s *shelf) run(status int, args ...string) (stdout, stderr string) {
	s.t.Helper()
	var out, err bytes.Buffer
	if got := run(s.t.Context(), args, s.env, streams{strings.NewReader(""), &out, &err}); got != status {
		s.t.Fatalf("pgtender %s: exit status %d, want %d\n%s%s", strings.Join(args, " "), got, status, out.String(), err.String())
	}
	return out.String(), err.String()
}

func (s *shelf) expire(args ...string) expiry {
	s.t.Helper()
	out, _ := s.run(0, append([]string{"expire", "--json"}, args...)...)
	var x expiry
	if err := json.Unmarshal([]byte(out), &x); err != nil {
		s.t.Fatal(err)
	}
	return x
}

func contains(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in:\n%s", w, text)
		}
	}
}

func TestExpireDeletePinAndAnnotate(t *testing.T) {
	s := newShelf(t, "PGTENDER_EXPIRE_KEEP_BACKUPS=2", "PGTENDER_EXPIRE_GRACE=0")
	one, two, three := s.backup(1), s.backup(2), s.backup(3)

	// What removes asks, or is told.
	_, text := s.run(2, "expire")
	contains(t, text, "--yes", "--dry-run")
	_, text = s.run(2, "delete", two.String())
	contains(t, text, "--yes")

	out, _ := s.run(0, "expire", "--dry-run")
	contains(t, out, "condemn", "2 good backups are newer", "it is the newest good backup", "1 backups lean on them")
	if x := s.expire("--dry-run"); !x.DryRun || x.Condemned != 0 {
		t.Errorf("dry run: %+v", x)
	}
	if x := s.expire("--yes"); x.Condemned != 1 || x.Removed != 0 {
		t.Errorf("first run: %+v", x)
	}
	out, _ = s.run(0, "info")
	contains(t, out, "condemned", "2 good backups are newer")

	// A pin brings it back.
	out, _ = s.run(0, "pin", one.String(), "--until", "2199-12-31", "--reason", "audit")
	contains(t, out, "is pinned until")
	if x := s.expire("--yes"); x.Condemned+x.Removed != 0 {
		t.Errorf("pinned: %+v", x)
	}
	out, _ = s.run(0, "info")
	contains(t, out, "pinned until", "audit")
	if strings.Contains(out, "condemned") {
		t.Errorf("still condemned:\n%s", out)
	}
	_, text = s.run(1, "delete", one.String(), "--yes")
	contains(t, text, "it is pinned", "hint: ")
	s.run(0, "pin", one.String(), "--remove")
	s.expire("--yes")
	if x := s.expire("--yes"); x.Removed == 0 {
		t.Errorf("without the pin: %+v", x)
	}
	_, text = s.run(1, "pin", one.String())
	contains(t, text, one.String(), "hint: pgtender info")

	_, text = s.run(1, "delete", three.String(), "--yes")
	contains(t, text, "newest good backup")
	s.run(0, "delete", two.String(), "--yes", "--reason", "taken by mistake")
	_, text = s.run(1, "delete", two.String(), "--yes")
	contains(t, text, "deleted already")
	s.expire("--yes")
	out, _ = s.run(0, "info")
	if strings.Contains(out, two.String()) {
		t.Errorf("deleted, and still listed:\n%s", out)
	}

	out, _ = s.run(0, "annotate", three.String(), "ticket=OPS-1", "release=9", "release=")
	contains(t, out, "ticket=OPS-1")
	out, _ = s.run(0, "info", "--json")
	contains(t, out, `"ticket": "OPS-1"`)
	s.run(2, "annotate", three.String(), "ticket")
	s.run(2, "annotate", three.String(), "ticket=1\nalarm 2026-11-23: none of ours")
	s.run(2, "pin", three.String(), "--reason", "\x1b[2Jnothing to see")
	s.run(2, "delete", three.String(), "--yes", "--reason", "a\nb")
	// Another release may have stored one.
	if err := backup.Annotate(t.Context(), s.r, three, map[string]string{"release": "9\nalarm"}); err != nil {
		t.Fatal(err)
	}
	out, _ = s.run(0, "info")
	contains(t, out, "release=9 alarm")
	s.run(2, "annotate", three.String())
	s.run(2, "pin", "yesterday's")
	s.run(2, "pin", three.String(), "--until", "1999-01-01")
	s.run(2, "pin", three.String(), "--until", "2199-01-01", "--remove")
}

func TestWithoutAPolicyNothingExpires(t *testing.T) {
	s := newShelf(t, "PGTENDER_EXPIRE_GRACE=0")
	for n := range 4 {
		s.backup(n + 1)
	}
	for range 3 {
		x := s.expire("--yes")
		if x.Condemned+x.Removed != 0 {
			t.Errorf("%+v", x)
		}
	}
	out, _ := s.run(0, "expire", "--dry-run")
	contains(t, out, "no retention is configured")
}

func TestDatesOfPins(t *testing.T) {
	for text, want := range map[string]string{
		"2027-01-31":                fmt.Sprint(time.Date(2027, 2, 1, 0, 0, 0, 0, time.Local)),
		"2027-01-31 10:00:00+00:00": fmt.Sprint(time.Date(2027, 1, 31, 10, 0, 0, 0, time.UTC).Local()),
	} {
		if got, err := parseDate(text); err != nil || fmt.Sprint(got.Local()) != want {
			t.Errorf("%s is %s (%v), want %s", text, got, err, want)
		}
	}
}

// With a damaged owner object nothing can be archived: there must be a way out.
func TestADamagedOwnerIsReplaced(t *testing.T) {
	s := newShelf(t)
	s.backup(1)
	s.run(0, "adopt", "--yes")
	path := filepath.Join(s.dir, "main", scriptSystemID.String(), "owner", "00000001")
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"info"}, {"expire", "--yes"}} {
		_, text := s.run(1, args...)
		contains(t, text, "owner/00000001 is damaged", "hint: ", "pgtender adopt")
	}
	out, _ := s.run(1, "verify")
	contains(t, out, "owner/00000001 is damaged")
	s.run(0, "adopt", "--yes")
	for _, args := range [][]string{{"info"}, {"verify"}, {"expire", "--yes"}} {
		s.run(0, args...)
	}
}

func TestVerifyNamesWhatIsWrong(t *testing.T) {
	s := newShelf(t, "HOME="+t.TempDir())
	s.run(1, "verify")
	one := s.backup(1)
	s.backup(2)
	out, _ := s.run(0, "verify")
	contains(t, out, "ok     backup "+one.String(), "quick: 2 backups, 2 packs", "2 WAL segments")
	out, _ = s.run(0, "verify", "--deep", "--json", one.String())
	contains(t, out, `"depth": "deep"`, `"ok": true`)
	out, _ = s.run(0, "info")
	contains(t, out, "verified (deep)", "verified (quick)", "in order")
	pack := filepath.Join(s.dir, "main", scriptSystemID.String(), "pack", one.String(), "00000001")
	content, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	content[100] ^= 4
	if err := os.WriteFile(pack, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(0, "verify")
	out, _ = s.run(1, "verify", "--deep")
	contains(t, out, "error  backup "+one.String(), "pack/"+one.String()+"/00000001 is damaged at byte 64")
	if err := os.Remove(pack); err != nil {
		t.Fatal(err)
	}
	out, _ = s.run(1, "verify", "--json")
	contains(t, out, "is missing", `"ok": false`)
	out, _ = s.run(0, "info")
	contains(t, out, "verified (quick)", "1 faults, the first: pack")
	s.run(2, "verify", "--deep", "--restore")
	s.run(2, "verify", "yesterday's")
}
