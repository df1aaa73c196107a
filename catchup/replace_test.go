package catchup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// replaced is a member with a tablespace and a pg_wal of its own place, whose
// data is old: it is a former primary that went on after the other took over.
type replaced struct {
	*lab
	old     *pgtest.Cluster
	version string
	space   string // where the tablespace's files are
}

func newReplaced(t *testing.T) replaced {
	l := newLab(t, pgtest.Options{Checksums: true})
	space := pgtest.Dir(t)
	l.primary.Exec(t, fmt.Sprintf("CREATE TABLESPACE away LOCATION '%s'", space),
		"CREATE TABLE t TABLESPACE away AS SELECT generate_series(1, 20000) AS i")
	l.primary.Exec(t, "INSERT INTO t SELECT 1 FROM pg_switch_wal()")
	s := pgtest.StandbyOf(t, l.primary, pgtest.Options{Config: map[string]string{"archive_command": l.program + "push %p"}})
	s.CatchUp(t, l.primary)
	b := l.backup(t, s)
	s.Promote(t)
	s.Exec(t, "INSERT INTO t VALUES (0)")
	old := l.primary
	// What only the old primary has, and its archiver does not get rid of.
	old.Configure(t, map[string]string{"archive_command": "false"})
	old.Reload(t)
	old.WaitFor(t, "SHOW archive_command", "false")
	old.Exec(t, "CREATE TABLE lost AS SELECT 1 AS i", "SELECT pg_switch_wal()", "INSERT INTO lost VALUES (2)")
	old.Stop(t, pgtest.Immediate)
	l.primary = s
	l.archived(t)
	return replaced{lab: l, old: old, version: pg.TablespaceVersionDir(b.Major(), b.CatalogVersion), space: space}
}

func (r replaced) options(t *testing.T, archive func(context.Context, string) error, log ...string) catchup.ReplicaOptions {
	// The new leader has its tablespace elsewhere: here it stays where it was.
	f := r.gather(t, catchup.GatherOptions{Purpose: catchup.Replica, Dir: r.old.DataDir, Leader: r.asLeader(t)})
	from := f.Candidates[len(f.Candidates)-1].Backup.Tablespaces[0].Location
	return catchup.ReplicaOptions{
		Gather: catchup.GatherOptions{Repo: r.repo, Dir: r.old.DataDir, Leader: r.asLeader(t), Tablespaces: map[string]string{from: r.space}, Rung: catchup.FullRestore},
		Run:    catchup.RunOptions{Repo: r.repo, Archive: archive, Log: testLog(t, log...)},
		Log:    testLog(t, log...),
	}
}

func TestOldDataIsReplacedAndItsUnarchivedWALKept(t *testing.T) {
	t.Parallel()
	r := newReplaced(t)
	var pushed []string
	o := r.options(t, func(_ context.Context, path string) error {
		if pushed = append(pushed, filepath.Base(path)); len(pushed) == 1 {
			return nil
		}
		return errors.New("refused")
	}, "unarchived WAL")
	// Nothing is done while the tablespace's disk is away.
	if err := os.Rename(filepath.Join(r.space, r.version), r.space+".away"); err != nil {
		t.Fatal(err)
	}
	o.Gather.Purpose = catchup.Replica
	var refusal *catchup.RefusalError
	if _, err := catchup.Decide(r.gather(t, o.Gather)); !errors.As(err, &refusal) || refusal.Permanent || !strings.Contains(err.Error(), "leads to "+r.space) {
		t.Fatalf("without its disk: %v", err)
	}
	if err := os.Rename(r.space+".away", filepath.Join(r.space, r.version)); err != nil {
		t.Fatal(err)
	}
	if err := catchup.CreateReplica(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	kept, err := filepath.Glob(filepath.Join(catchup.SavedWAL(r.old.DataDir), "*"))
	if err != nil {
		t.Fatal(err)
	}
	// One was offered and taken; the one being written was not offered.
	if len(pushed) == 0 || len(kept) == 0 {
		t.Fatalf("pushed %v, kept %v", pushed, kept)
	}
	for _, k := range kept {
		if slices.Contains(pushed[:1], filepath.Base(k)) {
			t.Errorf("%s was pushed and kept", k)
		}
		if info, err := os.Stat(k); err != nil || info.Size() != int64(pg.DefaultSegmentSize) {
			t.Errorf("%s is not a whole segment: %v", k, err)
		}
	}
	c := r.follow(t, r.old.DataDir, nil)
	if diff := cmp.Diff(r.primary.Dump(t), c.Dump(t)); diff != "" {
		t.Error(diff)
	}
	if location := c.Value(t, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'away'"); location != r.space {
		t.Errorf("the tablespace is at %s", location)
	}
}

// TestNothingIsRemovedBeforeThePlanIsProved: each of these fails, and the old
// data can still be started.
func TestNothingIsRemovedBeforeThePlanIsProved(t *testing.T) {
	t.Parallel()
	r := newReplaced(t)
	before := tree(t, child{Dir: r.old.DataDir})
	ctx, cancel := context.WithCancel(t.Context())
	unreachable := r.options(t, nil, "trying again")
	tried := 0
	unreachable.Gather.Leader = func(context.Context) (*catchup.LeaderFacts, error) {
		if tried++; tried == 2 {
			cancel()
		}
		l := r.leader(t)
		l.Flush += 1 << 30 // the archive does not lead there
		return l, nil
	}
	if err := catchup.CreateReplica(ctx, unreachable); err == nil || !strings.Contains(err.Error(), "no backup leads to where the leader can be followed") {
		t.Errorf("without WAL: %v", err)
	}

	o := r.options(t, nil)
	f, err := catchup.Gather(t.Context(), func() catchup.GatherOptions { o.Gather.Purpose = catchup.Replica; return o.Gather }())
	if err != nil {
		t.Fatal(err)
	}
	p, err := catchup.Decide(f)
	if err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(r.store, "*", "*", "pack", p.Backup.ID.String(), "*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("no packs: %v", err)
	}
	if err := os.Rename(packs[0], packs[0]+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := catchup.Run(t.Context(), p, o.Run); err == nil {
		t.Error("a pack is missing, and nobody noticed")
	}
	if err := os.Rename(packs[0]+".away", packs[0]); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tree(t, child{Dir: r.old.DataDir})); diff != "" {
		t.Error(diff)
	}
	r.old.Start(t)
}

// TestAReplacementIsResumed kills it while old data is being removed, and
// later.
func TestAReplacementIsResumed(t *testing.T) {
	t.Parallel()
	r := newReplaced(t)
	o := r.options(t, nil, "unarchived WAL")
	from := ""
	for k := range o.Gather.Tablespaces {
		from = k
	}
	c := child{Dir: r.old.DataDir, Purpose: catchup.Replica, Leader: r.leader(t), Tablespaces: map[string]string{from: r.space}, Rung: catchup.FullRestore}
	killed := 0
	for _, stage := range []string{".pgtender/pg_control.old", ".pgtender/stage", ".pgtender/stage/base", ".pgtender/journal"} {
		cmd := r.command(t, "077", c)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		for waiting := true; waiting; {
			if _, err := os.Stat(filepath.Join(c.Dir, stage)); err == nil {
				cmd.Process.Kill()
				<-done
				waiting = false
				continue
			}
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				waiting = false
			default:
			}
		}
		if _, err := os.Stat(filepath.Join(c.Dir, ".pgtender", "state.json")); err != nil {
			t.Logf("killed too late at %s", stage)
			break
		}
		killed++
		if _, err := os.Stat(filepath.Join(c.Dir, pg.ControlPath)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("killed at %s, a server could start: %v", stage, err)
		}
	}
	if killed == 0 {
		t.Fatal("nothing was killed")
	}
	f := r.gather(t, catchup.GatherOptions{Purpose: catchup.Replica, Dir: c.Dir, Leader: r.asLeader(t), Tablespaces: c.Tablespaces})
	if f.Dir.State != catchup.DirUnfinished {
		t.Fatalf("it left %+v", f.Dir)
	}
	if err := catchup.CreateReplica(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if kept, _ := filepath.Glob(filepath.Join(catchup.SavedWAL(c.Dir), "*")); len(kept) == 0 {
		t.Error("unarchived WAL was not kept")
	}
	s := r.follow(t, c.Dir, nil)
	if diff := cmp.Diff(r.primary.Dump(t), s.Dump(t)); diff != "" {
		t.Error(diff)
	}
}
