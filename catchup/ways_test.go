package catchup_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// copied gives the same cluster with a copy of the member's directory, so that
// one failover serves many tests. What tablespaces have lies beside the copy.
func (x *branched) copied(t testing.TB) *branched {
	t.Helper()
	base := pgtest.Dir(t)
	dir := filepath.Join(base, "data")
	clone(t, x.old.DataDir, dir)
	links, err := filepath.Glob(filepath.Join(dir, "pg_tblspc", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		from, err := os.Readlink(link)
		to := filepath.Join(base, "space-"+filepath.Base(link))
		if err == nil {
			clone(t, from, to)
			err = os.Remove(link)
		}
		if err == nil {
			err = os.Symlink(to, link)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	y := *x
	y.old = pgtest.Adopt(t, dir, pgtest.Options{Major: x.major, Config: map[string]string{"archive_mode": "off"}})
	return &y
}

// clone copies a tree with all that belongs to its files.
func clone(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// damage changes 16 bytes of a file of the member's: more than lie between two
// WAL records, where no checksum covers them (MAXALIGN, 8 bytes).
func (x *branched) damage(t testing.TB, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(x.old.DataDir, name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 16)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= 0x40
	}
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// create lets create-replica do it, and gives the way it took last.
func (x *branched) create(t testing.TB, o catchup.RunOptions, expected ...string) catchup.RungName {
	t.Helper()
	var way catchup.RungName
	o.Repo, o.Log = x.repo, testLog(t, append(expected, "unarchived WAL")...)
	err := catchup.CreateReplica(t.Context(), catchup.ReplicaOptions{
		Gather: x.gatherOptions(t), Run: o, Log: o.Log, Planned: func(p catchup.Plan) { way = p.Choice },
	})
	if err != nil {
		t.Fatal(err)
	}
	return way
}

// chosen gives the choice of a plan, and why a rung is closed.
func (x *branched) chosen(t testing.TB, rung catchup.RungName) (p catchup.Plan, closed string) {
	t.Helper()
	p = x.plan(t, x.gatherOptions(t))
	for _, r := range p.Rungs {
		if r.Name == rung && !r.Open {
			closed = r.Reason
		}
	}
	return p, closed
}

// TestADivergedMember is one former primary, crashed past the fork, brought back
// again and again from copies of its directory.
func TestADivergedMember(t *testing.T) {
	t.Parallel()
	x := newBranched(t, branch{major: 15, stop: "diverged, crashed", taken: "after the fork", protect: "checksums", seed: 11})
	t.Run("what is lost is counted", func(t *testing.T) {
		p, _ := x.chosen(t, catchup.ByMaps)
		l := p.Local
		if p.Choice != catchup.ByMaps || !l.Diverged || l.Lost == nil || l.Lost.Commits < x.lost || l.Lost.From != l.Fork || l.Lost.To != l.End || l.Lost.Uncounted != "" {
			t.Errorf("chose %q; %+v, lost %+v", p.Choice, l, l.Lost)
		}
	})
	t.Run("with a damaged pg_control", func(t *testing.T) {
		y := x.copied(t)
		y.damage(t, pg.ControlPath, 40)
		p, closed := y.chosen(t, catchup.ByMaps)
		if p.Choice != catchup.ByHashes || !strings.Contains(closed, "pg_control") {
			t.Errorf("chose %q, since %s", p.Choice, closed)
		}
		y.back(t, catchup.ByHashes)
	})
	t.Run("a copy that was never started is not gone by", func(t *testing.T) {
		y := x.copied(t)
		y.old.Append(t, "backup_label", "START WAL LOCATION: 0/2000028\n")
		if p, closed := y.chosen(t, catchup.ByMaps); p.Choice != catchup.ByHashes || !strings.Contains(closed, "backup_label") {
			t.Errorf("chose %q, since %s", p.Choice, closed)
		}
	})
	t.Run("a bound past the redo point is refused", x.wrongBound)
	t.Run("a page that the block maps do not explain", x.unexplained)
	t.Run("its own WAL is spoilt", x.spoiltWAL)
	t.Run("what is found equal is made durable", x.synced)
	t.Run("WAL is missing", x.missingWAL)
	t.Run("a pack is lost in the middle", x.lostRepository)
	t.Run("a disk is full", x.fullDisk)
	t.Run("a killed run is resumed", x.killed)
	t.Run("a server that ran before it was parked", x.ranMeanwhile)
	t.Run("root's files go to the server's user", x.owned)
}

// synced: a page that a killed server or run wrote may be right, and in memory only.
// All files that were compared are synced, and so in the journal.
func (x *branched) synced(t *testing.T) {
	y := x.copied(t)
	o := y.gatherOptions(t)
	o.Rung = catchup.ByHashes
	noted := 0
	run := catchup.RunOptions{Repo: y.repo, Log: testLog(t, "unarchived WAL")}
	run.SetStep(func(name string) {
		if name == "fetched" {
			b, err := os.ReadFile(filepath.Join(y.old.DataDir, ".pgtender", "journal"))
			if err != nil {
				t.Error(err)
			}
			noted = strings.Count(string(b), "\n") - 1
		}
	})
	r, err := catchup.Run(t.Context(), y.plan(t, o), run)
	if err != nil {
		t.Fatal(err)
	}
	const operators = 10 // files of the configuration, at most, which are not looked at
	if r.Kept < 500 || int64(noted) > r.Files+r.Kept || int64(noted) < r.Files+r.Kept-operators {
		t.Errorf("%d files are in the journal; %d were written and %d kept", noted, r.Files, r.Kept)
	}
}

// wrongBound is the negative control of the lower bound: with the fork in its
// place the result would have stale pages, and nobody would notice.
func (x *branched) wrongBound(t *testing.T) {
	y := x.copied(t)
	p, _ := y.chosen(t, catchup.ByMaps)
	if p.Lower >= p.Local.Fork {
		t.Fatalf("the lower bound %s is not before the fork %s", p.Lower, p.Local.Fork)
	}
	before := tree(t, child{Dir: y.old.DataDir})
	p.SetLower(p.Local.Fork)
	_, err := catchup.Run(t.Context(), p, catchup.RunOptions{Repo: y.repo, Log: testLog(t)})
	if !errors.Is(err, catchup.ErrDoubt) || finding.Hint(err) == "" {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, tree(t, child{Dir: y.old.DataDir})); diff != "" {
		t.Error(diff)
	}
}

// unexplained changes a page behind the maps' back. The audit finds it before
// anything is touched, and the next attempt compares pages.
func (x *branched) unexplained(t *testing.T) {
	y := x.copied(t)
	path, page := y.keptPage(t)
	b, err := os.ReadFile(filepath.Join(y.old.DataDir, path))
	if err != nil {
		t.Fatal(err)
	}
	b[page*blockSize+1] = 0x7f // the LSN's high word
	if err := os.WriteFile(filepath.Join(y.old.DataDir, path), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if way := y.create(t, catchup.RunOptions{Audit: true}, "block maps cannot be gone by"); way != catchup.ByHashes {
		t.Errorf("it went by %q", way)
	}
	p := y.newest(t)
	y.equalsARestore(t, p)
}

// newest gives the newest backup.
func (x *branched) newest(t testing.TB) repo.BackupID {
	t.Helper()
	all, err := x.repo.Backups(t.Context())
	if err != nil || len(all) == 0 {
		t.Fatalf("%d backups, %v", len(all), err)
	}
	return all[len(all)-1].ID
}

// keptPage finds a page that is kept: of a system catalog that nobody changes.
func (x *branched) keptPage(t *testing.T) (string, int) {
	t.Helper()
	return "base/1/1255", 3 // pg_proc of template1
}

// missingWAL takes a segment of the leader's branch, before the backup, out of
// the archive: what changed there is not known.
func (x *branched) missingWAL(t *testing.T) {
	y := x.copied(t)
	p, _ := y.chosen(t, catchup.ByMaps)
	size := p.Backup.SegmentSize
	if size.SegmentOf(p.Backup.Start.LSN) == size.SegmentOf(p.Lower) {
		t.Fatalf("the backup starts in the segment of the lower bound %s", p.Lower)
	}
	name := pg.Segment{Timeline: p.Timeline, Number: size.SegmentBefore(p.Backup.Start.LSN)}
	if size.Offset(p.Backup.Start.LSN) > 0 {
		name.Number = size.SegmentOf(p.Local.Fork) // which the new timeline begins in
	}
	if name.Number >= size.SegmentOf(p.Backup.Start.LSN) {
		t.Fatalf("fork %s and backup %s are in one segment", p.Local.Fork, p.Backup.Start)
	}
	defer y.loseSegment(t, name.Name(size))()
	if p, closed := y.chosen(t, catchup.ByMaps); p.Choice != catchup.ByHashes || !strings.Contains(closed, "is not known") {
		t.Errorf("chose %q, since %q", p.Choice, closed)
	}
}

// loseSegment takes a segment out of the archive until its result is called.
func (l *lab) loseSegment(t testing.TB, name string) (back func()) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(l.store, "*", "*", "wal", "*", "*", name))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: found %q, %v", name, found, err)
	}
	away := filepath.Join(pgtest.Dir(t), "away")
	if err := os.Rename(found[0], away); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Rename(away, found[0]); err != nil {
			t.Fatal(err)
		}
	}
}

// lostRepository fails all reads after some; what was done is not lost.
func (x *branched) lostRepository(t *testing.T) {
	y := x.copied(t)
	p, _ := y.chosen(t, catchup.ByMaps)
	inner, err := file.Open(t.Context(), file.Options{Dir: x.store, DirMode: 0o777, FileMode: 0o666})
	if err != nil {
		t.Fatal(err)
	}
	lost := errors.New("the repository is gone")
	for reads := int64(1); ; reads *= 2 {
		broken := repo.Open(&mortal{Store: inner, err: lost, left: reads}, x.repo.Cluster(), repo.Options{})
		_, err := catchup.Run(t.Context(), p, catchup.RunOptions{Repo: broken, Audit: true, Log: testLog(t, "unarchived WAL", "marker", "nothing keeps the backup")})
		if err == nil {
			break
		}
		if !errors.Is(err, lost) {
			t.Fatalf("after %d reads: %v", reads, err)
		}
		if reads > 500 {
			t.Fatal("it never comes through")
		}
		p, _ = y.chosen(t, catchup.ByMaps)
		if p.Choice != catchup.ByMaps {
			t.Fatalf("after %d reads it goes on by %q", reads, p.Choice)
		}
	}
	y.equalsARestore(t, p.Backup.ID)
}

// mortal is a store that fails for good after some reads.
type mortal struct {
	storage.Store
	err  error
	left int64
}

func (m *mortal) Get(ctx context.Context, key string, off, length int64) (io.ReadCloser, error) {
	if atomic.AddInt64(&m.left, -1) < 0 {
		return nil, m.err
	}
	return m.Store.Get(ctx, key, off, length)
}

// ranMeanwhile starts the server after the state was written and before
// pg_control was parked: what the state says is not true any more.
func (x *branched) ranMeanwhile(t *testing.T) {
	y := x.copied(t)
	if !y.childRun(t, catchup.ByMaps, "state", 0) {
		t.Fatal("nothing was killed")
	}
	f := y.gather(t, y.gatherOptions(t))
	if f.Dir.State != catchup.DirUnfinished {
		t.Errorf("no server has run, and it is %q", f.Dir.State)
	}
	y.old.Start(t)
	y.old.Exec(t, "CREATE TABLE later AS SELECT generate_series(1, 5000) AS i")
	y.old.Crash(t)
	if f := y.gather(t, y.gatherOptions(t)); f.Dir.State != catchup.DirData || f.Local == nil {
		t.Errorf("a server has run, and it is %q", f.Dir.State)
	}
	// By maps, or by hashes where the server has removed WAL since.
	y.create(t, catchup.RunOptions{Audit: true})
	y.equalsARestore(t, y.newest(t))
}

// owned: whoever starts the server must own the files.
func (x *branched) owned(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it is about a run as root: no other user can give files away")
	}
	y := x.copied(t)
	y.create(t, catchup.RunOptions{})
	info, err := os.Stat(y.old.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	want := info.Sys().(*syscall.Stat_t).Uid
	if want == 0 {
		t.Fatal("the data directory is root's")
	}
	err = filepath.WalkDir(filepath.Dir(y.old.DataDir), func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Sys().(*syscall.Stat_t).Uid != want {
			t.Errorf("%s is not the server's", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAMemberWhoseWALIsThereIsNotTouched(t *testing.T) {
	t.Parallel()
	x := newBranched(t, branch{major: 16, stop: "lagging, crashed", taken: "before the fork", protect: "none", seed: 21})
	p, _ := x.chosen(t, catchup.ByReplay)
	if p.Choice != catchup.ByReplay {
		t.Fatalf("chose %q: %+v", p.Choice, p.Rungs)
	}
	const size = pg.DefaultSegmentSize
	if size.Offset(p.Local.End) == 0 {
		t.Fatalf("its WAL ends with a segment, at %s", p.Local.End)
	}
	back := x.loseSegment(t, pg.Segment{Timeline: 1, Number: size.SegmentOf(p.Local.End)}.Name(size))
	if f := x.gather(t, x.gatherOptions(t)); !strings.Contains(f.Replay.Closed, "neither in pg_wal nor archived") {
		t.Errorf("without the segment in which its WAL ends, replay is closed for %q", f.Replay.Closed)
	}
	back()
	before := tree(t, child{Dir: filepath.Join(x.old.DataDir, "base")})
	if _, err := catchup.Run(t.Context(), p, catchup.RunOptions{Repo: x.repo, Log: testLog(t)}); err != nil {
		t.Fatal(err)
	}
	// Called again with nothing gained, it does not try the same.
	if again, closed := x.chosen(t, catchup.ByReplay); again.Choice == catchup.ByReplay || !strings.Contains(closed, "tried before") {
		t.Errorf("it would choose %q again, since %q", again.Choice, closed)
	}
	after := tree(t, child{Dir: filepath.Join(x.old.DataDir, "base")})
	for name := range before {
		if strings.HasPrefix(name, "/base/") && before[name] != after[name] {
			t.Errorf("%s was changed", name)
		}
	}
	x.returns(t)
}

func TestAMemberThatDivergedWithoutProtectedHintsIsComparedByHashes(t *testing.T) {
	t.Parallel()
	x := newBranched(t, branch{major: 17, stop: "diverged, clean", taken: "before the fork", protect: "none", seed: 32, space: true})
	if p, closed := x.chosen(t, catchup.ByMaps); p.Choice != catchup.ByHashes || !strings.Contains(closed, "hint bits") {
		t.Errorf("chose %q, since %s", p.Choice, closed)
	}
	x.back(t, catchup.ByHashes)
}
