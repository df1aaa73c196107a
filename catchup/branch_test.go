package catchup_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// branch is one way in which a member gets old data, and a leader that it is to
// follow again.
type branch struct {
	major    int
	stop     string // how the member ended: see (*branched).leave
	taken    string // when the backup was taken: see branched
	protect  string // checksums, hints, or none
	space    bool   // with a tablespace
	archives bool   // a former primary archives its branch, as far as it gets
	seed     uint64
}

func (b branch) String() string {
	return fmt.Sprintf("%d, %s, backup %s, %s, space %t, archives %t, seed %d", b.major, b.stop, b.taken, b.protect, b.space, b.archives, b.seed)
}

// The ways a member ends, and the times of a backup.
var (
	stops = []string{"lagging, clean", "lagging, crashed", "diverged, clean", "diverged, crashed", "diverged, killed in recovery", "diverged standby", "two timelines behind"}
	takes = []string{"before the fork", "after the fork", "past the fork", "two"}
)

// branched is a cluster after a failover: old is the member that is to come back,
// primary leads.
type branched struct {
	*lab
	branch
	old     *pgtest.Cluster
	standby *pgtest.Cluster // of the leader; nil if there is none
	found   differences     // from a restore, before any replay
	lost    int             // transactions that old's branch has committed past the fork, at least
}

func (b branch) diverged() bool { return !strings.HasPrefix(b.stop, "lagging") }

func newBranched(t testing.TB, b branch) *branched {
	t.Helper()
	config := map[string]string{"wal_keep_size": "0", "checkpoint_timeout": "1h", "autovacuum_naptime": "1s"}
	if b.protect == "hints" {
		config["wal_log_hints"] = "on"
	}
	x := &branched{branch: b, lab: newLab(t, pgtest.Options{Major: b.major, Checksums: b.protect == "checksums", Config: config})}
	x.primary.EnableAMCheck(t)
	work := x.primary.Workload(b.seed)
	if b.space {
		x.primary.Exec(t, fmt.Sprintf("CREATE TABLESPACE away LOCATION '%s'", pgtest.Dir(t)))
		work.Tablespaces = []string{"away"}
	}
	x.primary.Exec(t, "CREATE TABLE plain AS SELECT i, repeat(md5(i::text), 6) AS pad FROM generate_series(1, 40000) AS i", "CREATE INDEX ON plain (i)")
	work.Run(t, 6)
	archiving := pgtest.Options{Config: map[string]string{"archive_mode": "on", "archive_command": x.program + "push %p"}}
	next := pgtest.StandbyOf(t, x.primary, archiving)
	next.CatchUp(t, x.primary)
	if b.taken == "before the fork" || b.taken == "two" {
		x.lab.backup(t, next)
		work.Run(t, 3)
	}
	if !b.diverged() {
		return x.lag(t, next, work)
	}
	next.CatchUp(t, x.primary)
	return x.fork(t, next, work)
}

// lag stops the standby, and lets the primary go on until it cannot be followed.
func (x *branched) lag(t testing.TB, old *pgtest.Cluster, work *pgtest.Workload) *branched {
	old.CatchUp(t, x.primary)
	if x.stop == "lagging, clean" {
		old.Stop(t, pgtest.Fast)
	} else {
		old.Exec(t, "CHECKPOINT")
		work.Run(t, 2)
		old.CatchUp(t, x.primary)
		old.Crash(t)
	}
	x.old = old
	work.Run(t, 5)
	if x.taken != "before the fork" {
		x.lab.backup(t, x.primary)
	}
	work.Run(t, 2)
	x.archived(t)
	return x
}

// fork promotes next while the primary goes on, and stops that.
func (x *branched) fork(t testing.TB, next *pgtest.Cluster, work *pgtest.Workload) *branched {
	old := x.primary
	var follower *pgtest.Cluster
	cascaded := func() *pgtest.Cluster {
		return pgtest.StandbyOf(t, next, pgtest.Options{Config: map[string]string{"archive_mode": "off", "recovery_target_timeline": "latest"}})
	}
	if x.stop == "diverged standby" {
		// It follows the primary that is left behind.
		follower = pgtest.StandbyOf(t, old, pgtest.Options{Config: map[string]string{"archive_mode": "off"}})
		follower.CatchUp(t, old)
	}
	promote := func() { next.Promote(t) }
	if x.taken == "past the fork" {
		x.standby = cascaded()
		x.standby.CatchUp(t, old)
		promoted := false
		b := x.takeMeanwhile(t, x.standby, func() *pgtest.Cluster {
			if !promoted {
				return old
			}
			return next
		}, func() {
			if !promoted {
				promote()
				promoted = true
				next.Exec(t, "CREATE TABLE meanwhile AS SELECT generate_series(1, 1000)", "CHECKPOINT")
				x.standby.CatchUp(t, next)
				x.standby.Exec(t, "CHECKPOINT") // its minimum recovery point, where the backup ends
			}
		})
		if b.Start.Timeline == b.Stop.Timeline {
			t.Fatalf("the backup from %s to %s does not end past the fork", b.Start, b.Stop)
		}
	} else {
		promote()
	}
	if !x.archives {
		old.Configure(t, map[string]string{"archive_command": "false"})
		old.Reload(t)
		old.WaitFor(t, "SHOW archive_command", "false")
	}
	// Both go on: the same tables change here and there.
	x.lose(t, old, work)
	if follower != nil {
		follower.CatchUp(t, old)
		follower.Exec(t, "CHECKPOINT")
		old.Exec(t, "UPDATE plain SET pad = 'standby' WHERE i % 13 = 5")
		follower.CatchUp(t, old)
	}
	x.primary, x.old = next, old
	on := next.Workload(x.seed + 1000)
	if x.space {
		on.Tablespaces = []string{"away"}
	}
	next.Exec(t, "UPDATE plain SET pad = 'new' WHERE i % 11 = 3", "DELETE FROM plain WHERE i % 17 = 1")
	on.Run(t, 4)
	if x.stop == "two timelines behind" {
		third := pgtest.StandbyOf(t, next, pgtest.Options{Config: map[string]string{"archive_mode": "on", "archive_command": x.program + "push %p"}})
		third.CatchUp(t, next)
		x.archived(t)
		next.Stop(t, pgtest.Fast)
		third.Promote(t)
		third.Exec(t, "UPDATE plain SET pad = 'third' WHERE i % 23 = 3")
		x.primary = third
	}
	if x.taken == "after the fork" || x.taken == "two" {
		x.lab.backup(t, x.primary)
	}
	x.primary.Exec(t, "VACUUM plain")
	x.primary.Workload(x.seed+2000).Run(t, 2)
	x.archived(t)
	if follower != nil {
		x.old = follower
		old.Stop(t, pgtest.Immediate)
		follower.Stop(t, pgtest.Fast)
		return x
	}
	x.leave(t)
	return x
}

// lose changes the branch that is given up.
func (x *branched) lose(t testing.TB, old *pgtest.Cluster, work *pgtest.Workload) {
	t.Helper()
	old.Exec(t, "CREATE DATABASE wrong", "CREATE TABLE lost AS SELECT generate_series(1, 3000) AS i",
		"UPDATE plain SET pad = 'lost' WHERE i % 7 = 3", "SELECT count(*) FROM plain")
	x.lost += 3
	work.Run(t, 4)
	if x.seed%2 == 0 {
		old.Exec(t, "CHECKPOINT")
	}
	old.Exec(t, "UPDATE plain SET pad = 'lost too' WHERE i % 19 = 3", "SELECT count(pad) FROM plain")
	x.lost++
	switch x.seed % 3 {
	case 0: // its WAL ends with a segment
		old.Exec(t, "SELECT pg_switch_wal()")
	case 2: // or well within a segment that holds nothing from before the fork
		old.Exec(t, "SELECT pg_switch_wal()", "UPDATE plain SET pad = 'lost at last' WHERE i < 3000")
		x.lost++
	}
}

// leave ends the former primary.
func (x *branched) leave(t testing.TB) {
	t.Helper()
	switch x.stop {
	case "diverged, clean", "two timelines behind":
		x.old.Stop(t, pgtest.Fast)
	case "diverged, crashed":
		x.old.Crash(t)
	case "diverged, killed in recovery":
		x.old.Crash(t)
		before := strings.Count(x.old.Log(), "redo starts at")
		x.old.Launch(t)
		for deadline := time.Now().Add(time.Minute); strings.Count(x.old.Log(), "redo starts at") == before; {
			if time.Now().After(deadline) {
				t.Fatal("recovery has not begun")
			}
		}
		x.old.Crash(t)
	default:
		t.Fatalf("no such stop: %q", x.stop)
	}
}

// takeMeanwhile takes a backup of c; once files are copied, it calls f.
func (x *branched) takeMeanwhile(t testing.TB, c *pgtest.Cluster, primary func() *pgtest.Cluster, f func()) repo.Backup {
	t.Helper()
	r, err := backup.Take(t.Context(), backup.Options{
		Repo: x.repo, DataDir: c.DataDir,
		Source:  func(ctx context.Context) (*server.Conn, error) { return server.Connect(ctx, c.Options()) },
		Primary: func(ctx context.Context) (*server.Conn, error) { return server.Connect(ctx, primary().Options()) },
		Member:  "m1", Host: "h1", ToolVersion: "test", Workers: 2, Fast: true,
		ArchiveTimeout: time.Minute, ArchiveGrace: 5 * time.Second,
		Progress: func(p backup.Progress) {
			if p.Phase == backup.PhaseCopy {
				f()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.Backup
}

func (x *branched) gatherOptions(t testing.TB) catchup.GatherOptions {
	return catchup.GatherOptions{Repo: x.repo, Purpose: catchup.Replica, Dir: x.old.DataDir, Leader: x.asLeader(t)}
}

// back brings the member back by one way, and checks all that can be checked.
func (x *branched) back(t testing.TB, rung catchup.RungName) catchup.Plan {
	t.Helper()
	o := x.gatherOptions(t)
	o.Rung = rung
	p := x.plan(t, o)
	t.Logf("%s: lower bound %s, local %+v", p.Choice, p.Lower, p.Local)
	if p.Choice != rung {
		t.Fatalf("chose %q: %+v", p.Choice, p.Rungs)
	}
	r, err := catchup.Run(t.Context(), p, catchup.RunOptions{Repo: x.repo, Audit: true, Log: testLog(t, "unarchived WAL")})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files, %d kept, %d bytes of %d", r.Files, r.Kept, r.Bytes, p.Backup.Bytes)
	x.proved(t, p.Backup.ID)
	return p
}

// proved checks a directory in which no server has run since it was made a
// backup's image, and then the member that it makes.
func (x *branched) proved(t testing.TB, id repo.BackupID) {
	t.Helper()
	restored, l := x.equalsARestore(t, id)
	x.replayed(t, restored, l)
	x.returns(t)
}

// returns starts the member and compares it with the leader.
func (x *branched) returns(t testing.TB) {
	t.Helper()
	if x.standby != nil && x.standby.Running() {
		x.standby.Stop(t, pgtest.Fast)
	}
	c := x.follow(t, x.old.DataDir, map[string]string{"restore_command": x.restoreCommand(x.leader(t).History.Timeline)})
	if diff := cmp.Diff(x.primary.Dump(t), c.Dump(t)); diff != "" {
		t.Error(diff)
	}
	c.AMCheck(t)
	c.Exec(t, "CHECKPOINT")
	if x.protect == "checksums" {
		c.Checksums(t)
	}
	c.Stop(t, pgtest.Fast)
}

// equalsARestore compares the directory, in which no server has run, with a full
// restore of the backup, which it gives, and what WAL says about that.
func (x *branched) equalsARestore(t testing.TB, id repo.BackupID) (restored string, l *logged) {
	t.Helper()
	spaces, of := map[string]string{}, repo.Backup{}
	base := pgtest.Dir(t)
	o := catchup.GatherOptions{Purpose: catchup.Replica, Dir: filepath.Join(base, "data"), Backup: id, Leader: x.asLeader(t)}
	listed, err := x.repo.Backups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range listed {
		if b.ID == id {
			of = b.Backup
			for _, s := range b.Backup.Tablespaces {
				spaces[s.Location] = filepath.Join(base, "space")
			}
		}
	}
	o.Tablespaces = spaces
	restored, _ = x.restore(t, o)
	l = x.loggedDuring(t, restored, of)
	diffs, err := compareTrees(t.Context(), x.old.DataDir, restored, comparison{logged: l})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range diffs.wrong {
		t.Error(d)
	}
	t.Logf("%s", diffs)
	x.found = diffs
	return restored, l
}
