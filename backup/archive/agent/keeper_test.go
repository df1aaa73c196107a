package agent_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/agent"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// keeping is a keeper at work beside a server.
type keeping struct {
	*agent.Keeper
	stop func()
}

// keep runs a keeper beside a server until stop is called.
func keep(t testing.TB, c *pgtest.Cluster, r *repo.Repo, grace time.Duration, role agent.Role) keeping {
	t.Helper()
	walDir := filepath.Join(c.DataDir, "pg_wal")
	pusher := &agent.Pusher{
		WALDir: walDir, Timeout: time.Minute, Ahead: archive.AheadOptions{Workers: 2},
		Archive: func(ctx context.Context, path string, _ agent.How) (archive.PushResult, error) {
			return archive.Push(ctx, r, archive.PushOptions{Path: path, Assist: true})
		},
	}
	return start(t, c, &agent.Keeper{
		WALDir: walDir, Pusher: pusher, Grace: grace, MaxHold: 1 << 30,
		Repo: func(context.Context) (*repo.Repo, error) { return r, nil },
		Role: func(context.Context, pg.Timeline) agent.Role { return role },
	})
}

// start runs a keeper beside a server until the test ends.
func start(t testing.TB, c *pgtest.Cluster, k *agent.Keeper) keeping {
	t.Helper()
	k.Interval = cmp.Or(k.Interval, 50*time.Millisecond)
	if k.Connect == nil {
		k.Connect = func(ctx context.Context) (*server.Conn, error) { return server.Connect(ctx, c.Options()) }
	}
	life, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); k.Run(life); k.Pusher.Wait() }()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return keeping{k, stop}
}

// until waits for a state of the keeper.
func (k keeping) until(t testing.TB, what string, ok func(agent.KeeperStatus) bool) agent.KeeperStatus {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		s := k.Status()
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: the keeper's state is %+v", what, s)
		}
	}
}

// segmentsIn names the segments of a server's pg_wal up to the one given.
func segmentsIn(t testing.TB, c *pgtest.Cluster, upTo string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.DataDir, "pg_wal"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if pg.IsSegmentName(e.Name()) && e.Name() <= upTo {
			out = append(out, e.Name())
		}
	}
	return out
}

// TestAStandbyKeepsWhatIsNotArchived: with archive_mode=on a standby recycles
// streamed WAL whether it is archived or not. The keeper's slot holds it,
// checkpoints and a promotion notwithstanding; what is late is archived from
// there; and without the keeper it is gone.
func TestAStandbyKeepsWhatIsNotArchived(t *testing.T) {
	majors := pgtest.Majors(t)
	if os.Getenv("PGTENDER_SOAK") == "" {
		majors = slices.Compact([]int{majors[0], majors[len(majors)-1]})
	}
	for _, major := range majors {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) { keepsUnarchived(t, major) })
	}
}

func keepsUnarchived(t *testing.T, major int) {
	config := map[string]string{"archive_mode": "on", "archive_command": "/bin/false", "wal_keep_size": "0", "min_wal_size": "2MB", "max_wal_size": "4MB"}
	primary := pgtest.New(t, pgtest.Options{Major: major, WALSegSize: 1, Config: config})
	standby := pgtest.StandbyOf(t, primary, pgtest.Options{Config: config})
	bare := pgtest.StandbyOf(t, primary, pgtest.Options{Config: config}) // has no keeper
	id, err := pg.ParseSystemID(primary.Value(t, "SELECT system_identifier FROM pg_control_system()"))
	if err != nil {
		t.Fatal(err)
	}
	store := mem.New()
	r := repo.Open(store, repo.ClusterID{Scope: "demo", SystemID: id}, repo.Options{})
	patient := keep(t, standby, r, time.Hour, agent.RoleReplica)
	patient.until(t, "a slot", func(s agent.KeeperStatus) bool { return s.Slot != "" })
	primary.Exec(t, "CREATE TABLE t (i int)")
	first := primary.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	for range 8 {
		primary.Exec(t, "INSERT INTO t SELECT generate_series(1, 5000)", "SELECT pg_switch_wal()")
	}
	last := primary.Value(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
	checkpoint := func(servers ...*pgtest.Cluster) {
		t.Helper()
		for range 2 {
			primary.Exec(t, "INSERT INTO t VALUES (1)", "CHECKPOINT")
			for _, s := range servers {
				s.CatchUp(t, primary)
				s.Exec(t, "CHECKPOINT")
			}
		}
	}
	checkpoint(standby, bare)
	if got := segmentsIn(t, standby, last); !slices.Contains(got, first) {
		t.Errorf("with a keeper %s is gone: %v", first, got)
	}
	if got := segmentsIn(t, bare, last); slices.Contains(got, first) {
		t.Errorf("without one %s is still there, so that nothing is proved: %v", first, got)
	}
	s := patient.until(t, "segments that wait", func(s agent.KeeperStatus) bool { return s.Missing >= 8 })
	if s.Late != 0 || s.Assisted != 0 || s.Error != "" || s.Lapsed || s.Role != "replica" {
		t.Errorf("within the grace: %+v", s)
	}
	if slots := standby.Query(t, "SELECT slot_name, temporary, active FROM pg_replication_slots"); len(slots) != 1 || slots[0][0] != s.Slot || slots[0][1] != "t" || slots[0][2] != "t" {
		t.Errorf("slots %v", slots)
	}

	// A promotion leaves the session, and so the slot, alone.
	primary.Crash(t)
	standby.Promote(t)
	standby.Exec(t, "CHECKPOINT", "INSERT INTO t VALUES (2)", "SELECT pg_switch_wal()", "INSERT INTO t VALUES (3)", "CHECKPOINT")
	if got := segmentsIn(t, standby, last); !slices.Contains(got, first) {
		t.Errorf("after the promotion %s is gone: %v", first, got)
	}
	patient.stop()

	late := keep(t, standby, r, time.Hour, agent.RoleNoLeader) // nobody leads: all is late
	s = late.until(t, "all archived", func(s agent.KeeperStatus) bool { return s.Missing == 0 && s.Assisted >= 8 && s.Error == "" })
	size := pg.SegmentSize(1 << 20)
	from, err := pg.ParseSegment(first, size)
	if err != nil {
		t.Fatal(err)
	}
	h, err := archive.HistoryHere(t.Context(), r, filepath.Join(standby.DataDir, "pg_wal"), 2)
	if err != nil {
		t.Fatal(err)
	}
	cover, err := archive.Coverage(t.Context(), r, h, size, size.Start(from.Number))
	if err != nil || cover.Hole() || cover.Segments < 8 {
		t.Errorf("%+v, %v", cover, err)
	}
	if s.Held < cover.Until {
		s = late.until(t, "WAL let go", func(s agent.KeeperStatus) bool { return s.Held >= cover.Until })
	}
	late.stop()
	standby.WaitFor(t, "SELECT count(*) FROM pg_replication_slots", "0")
	repotest.Check(t, store)
}

// TestAKeeperInTrouble: an archive that cannot be asked lets nothing go until
// the limit is reached, and a server that comes back has its slot again.
func TestAKeeperInTrouble(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{WALSegSize: 1, Config: map[string]string{"archive_mode": "on", "archive_command": "/bin/false", "wal_keep_size": "0"}})
	down := errors.New("the store is down")
	run := start(t, c, &agent.Keeper{
		WALDir: filepath.Join(c.DataDir, "pg_wal"), Pusher: &agent.Pusher{}, Grace: time.Hour, MaxHold: 3 << 20,
		Repo: func(context.Context) (*repo.Repo, error) { return nil, down },
		Role: func(context.Context, pg.Timeline) agent.Role { return agent.RoleLeader },
	})
	s := run.until(t, "trouble", func(s agent.KeeperStatus) bool { return s.Error != "" })
	if !strings.Contains(s.Error, down.Error()) || s.Slot == "" {
		t.Errorf("%+v", s)
	}
	for range 8 {
		c.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 5000)", "DROP TABLE t", "SELECT pg_switch_wal()")
	}
	s = run.until(t, "more than may be held", func(s agent.KeeperStatus) bool { return s.Lapsed })
	if s.HeldSize > 3<<20 || s.Slot == "" || s.From == 0 || s.To > s.Held {
		t.Errorf("%+v", s)
	}
	// What was let go is not held again, however little is written now.
	last := time.Now()
	if s = run.until(t, "another look", func(s agent.KeeperStatus) bool { return s.At.After(last) && s.Error != "" }); !s.Lapsed {
		t.Errorf("forgotten: %+v", s)
	}
	// The server goes away and comes back: so does the slot.
	c.Restart(t)
	run.until(t, "a slot after the restart", func(s agent.KeeperStatus) bool { return s.Slot != "" && s.At.After(time.Now().Add(-time.Second)) })
	c.WaitFor(t, "SELECT count(*) FROM pg_replication_slots", "1")
}

// TestAKeeperThatHangsHoldsNothing: what bounds the slot is the keeper, so that one
// that is stopped, or hangs in a file system, must not leave a slot behind that
// fills the disk.
func TestAKeeperThatHangsHoldsNothing(t *testing.T) {
	majors := pgtest.Majors(t)
	c := pgtest.New(t, pgtest.Options{Major: majors[len(majors)-1], WALSegSize: 1, Config: map[string]string{"log_statement": "all"}})
	hang, asked := make(chan struct{}), make(chan struct{}, 1)
	run := start(t, c, &agent.Keeper{
		WALDir: filepath.Join(c.DataDir, "pg_wal"), Pusher: &agent.Pusher{}, Grace: time.Hour, MaxHold: 1 << 30, Silence: 500 * time.Millisecond,
		Repo: func(context.Context) (*repo.Repo, error) {
			select {
			case asked <- struct{}{}:
			default:
			}
			<-hang
			return nil, errors.New("no more")
		},
		Role: func(context.Context, pg.Timeline) agent.Role { return agent.RoleLeader },
	})
	// The slot may be gone again before anybody looks for it. The log has it.
	<-asked
	if !strings.Contains(c.Log(), "pg_create_physical_replication_slot") {
		t.Error("the keeper asks for the repository before it has made a slot")
	}
	c.WaitFor(t, "SELECT count(*) FROM pg_replication_slots", "0")
	close(hang)
	run.until(t, "a slot again", func(s agent.KeeperStatus) bool { return s.Slot != "" })
}

// TestAKeeperKnowsWhoseWALItIs: segments of the same name that another cluster
// archived say nothing about this server's.
func TestAKeeperKnowsWhoseWALItIs(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{WALSegSize: 1})
	other := repo.Open(mem.New(), repo.ClusterID{Scope: "demo", SystemID: 4711}, repo.Options{})
	k := keep(t, c, other, 0, agent.RoleLeader)
	s := k.until(t, "trouble", func(s agent.KeeperStatus) bool { return s.Error != "" })
	if !strings.Contains(s.Error, "4711") || s.Missing != 0 || s.Slot == "" {
		t.Errorf("%+v", s)
	}
	from := s.Held
	c.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 5000)", "SELECT pg_switch_wal()", "CHECKPOINT")
	last := time.Now()
	if s = k.until(t, "another look", func(s agent.KeeperStatus) bool { return s.At.After(last) }); s.Held != from {
		t.Errorf("WAL was let go: %+v", s)
	}
}

// TestAnErrorDoesNotLoseTheSlot: PostgreSQL drops a session's temporary slots with
// any error in it, and asking a server that is just being promoted is one.
func TestAnErrorDoesNotLoseTheSlot(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{WALSegSize: 1})
	asked := make(chan *server.Conn, 16)
	run := start(t, c, &agent.Keeper{
		WALDir: filepath.Join(c.DataDir, "pg_wal"), Pusher: &agent.Pusher{}, Grace: time.Hour, MaxHold: 1 << 30,
		Repo: func(context.Context) (*repo.Repo, error) { return nil, errors.New("the store is down") },
		Connect: func(ctx context.Context) (*server.Conn, error) {
			conn, err := server.Connect(ctx, c.Options())
			asked <- conn
			return conn, err
		},
		Role: func(context.Context, pg.Timeline) agent.Role { return agent.RoleLeader },
	})
	run.until(t, "a slot", func(s agent.KeeperStatus) bool { return s.Slot != "" })
	const holder = "SELECT active_pid FROM pg_replication_slots"
	before := c.Value(t, holder)
	if _, err := (<-asked).Query(t.Context(), "SELECT 1 / 0"); err == nil {
		t.Fatal("no error")
	}
	last := time.Now()
	run.until(t, "another look", func(s agent.KeeperStatus) bool { return s.At.After(last) && s.Slot != "" })
	if after := c.Query(t, holder); len(after) != 1 || after[0][0] != before {
		t.Errorf("the slot was held by session %s, now %v", before, after)
	}
}

// TestWhatARestartLetGoIsArchivedAtOnce: a server that ends ends the slot, too, and the
// one that is made after a restart begins at the last restartpoint. What lies before
// that, and the leader has not archived, is the server's to remove from then on.
func TestWhatARestartLetGoIsArchivedAtOnce(t *testing.T) {
	config := map[string]string{"archive_mode": "on", "archive_command": "/bin/false", "wal_keep_size": "0", "min_wal_size": "2MB", "max_wal_size": "4MB"}
	primary := pgtest.New(t, pgtest.Options{WALSegSize: 1, Config: config})
	standby := pgtest.StandbyOf(t, primary, pgtest.Options{Config: config})
	id, err := pg.ParseSystemID(primary.Value(t, "SELECT system_identifier FROM pg_control_system()"))
	if err != nil {
		t.Fatal(err)
	}
	store := mem.New()
	r := repo.Open(store, repo.ClusterID{Scope: "demo", SystemID: id}, repo.Options{})
	k := keep(t, standby, r, time.Hour, agent.RoleReplica)
	k.until(t, "a slot", func(s agent.KeeperStatus) bool { return s.Slot != "" })
	for range 4 {
		primary.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 5000)", "DROP TABLE t", "SELECT pg_switch_wal()")
	}
	primary.Exec(t, "CHECKPOINT")
	standby.CatchUp(t, primary)
	standby.Exec(t, "CHECKPOINT") // the slot holds them all the same
	if s := k.until(t, "segments that wait", func(s agent.KeeperStatus) bool { return s.Missing >= 4 }); s.Late != 0 || s.Lapsed {
		t.Errorf("%+v", s)
	}
	standby.Crash(t) // a shutdown would remove some, sooner or later than the keeper sees to them
	k.until(t, "what is not held to be archived before the server is back", func(s agent.KeeperStatus) bool { return s.Assisted >= 4 && s.Slot == "" })
	standby.Start(t)
	k.until(t, "nothing to be unheld", func(s agent.KeeperStatus) bool { return s.Slot != "" && !s.Lapsed && s.Error == "" })
	repotest.Check(t, store)
}

// TestAKeeperKnowsThatItsSlotIsGone: the server's end ends a temporary slot. The
// status says so at once, not at the next look, an hour away, and the slot is made
// again as soon as the server answers.
func TestAKeeperKnowsThatItsSlotIsGone(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{WALSegSize: 1})
	run := start(t, c, &agent.Keeper{
		WALDir: filepath.Join(c.DataDir, "pg_wal"), Pusher: &agent.Pusher{}, Grace: time.Hour, MaxHold: 1 << 30, Interval: time.Hour,
		Repo: func(context.Context) (*repo.Repo, error) { return nil, errors.New("the store is down") },
		Role: func(context.Context, pg.Timeline) agent.Role { return agent.RoleReplica },
	})
	before := run.until(t, "a slot", func(s agent.KeeperStatus) bool { return s.Slot != "" })
	for _, stop := range []func(testing.TB){func(t testing.TB) { c.Stop(t, pgtest.Fast) }, c.Crash} {
		stop(t)
		gone := run.until(t, "the slot to be gone", func(s agent.KeeperStatus) bool { return s.Slot == "" })
		if gone.Error == "" || gone.Held != 0 || gone.HeldSize != 0 || !gone.Since.After(before.Since) {
			t.Errorf("%+v, before %+v", gone, before)
		}
		c.Start(t)
		before = run.until(t, "a slot again", func(s agent.KeeperStatus) bool { return s.Slot != "" })
		if !before.Since.After(gone.Since) {
			t.Errorf("%+v, before %+v", before, gone)
		}
		if n := c.Value(t, "SELECT count(*) FROM pg_replication_slots WHERE active"); n != "1" {
			t.Errorf("%s slots", n)
		}
	}
	c.Exec(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
	run.until(t, "another slot", func(s agent.KeeperStatus) bool { return s.Slot != "" && s.Since.After(before.Since) })
	c.WaitFor(t, "SELECT count(*) FROM pg_replication_slots WHERE active", "1")
}
