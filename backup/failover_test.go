package backup_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
)

func TestAFailoverWhileWALIsAwaitedIsFollowed(t *testing.T) {
	l := newLab(t, pgtest.Options{})
	l.primary.PgbenchInit(t, 1)
	s := l.standby(t)
	var leader atomic.Pointer[pgtest.Cluster]
	leader.Store(l.primary)
	o := l.options(t, s)
	o.Primary = func(ctx context.Context) (*server.Conn, error) { return connect(leader.Load())(ctx) }
	o.Progress = func(p backup.Progress) {
		if p.Phase == backup.PhaseWAL {
			// The segment with the stop will exist as the new timeline's only.
			l.primary.Crash(t)
			s.Promote(t)
			leader.Store(s)
		}
	}
	b := take(t, o).Backup
	if b.Stop.Timeline != 1 {
		t.Errorf("stopped at %s", b.Stop)
	}
	s.Exec(t, "CREATE TABLE later AS SELECT 1 AS i", "SELECT pg_switch_wal()")
	s.WaitFor(t, "SELECT (last_archived_wal >= '000000020000000000000004')::text FROM pg_stat_archiver", "true")
	l.wal.drain(t)
	c := l.restore(t, b.ID)
	c.Start(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	if got := c.Value(t, "SELECT i FROM later"); got != "1" {
		t.Errorf("later holds %s", got)
	}
}

func TestABackupOfADeadBranchIsNotCommitted(t *testing.T) {
	l := newLab(t, pgtest.Options{})
	source, winner := l.standby(t), l.standby(t)
	// What the source has replayed beyond the winner lives on its branch only.
	winner.Exec(t, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
	winner.WaitFor(t, "SELECT count(*)::text FROM pg_stat_wal_receiver", "0")
	l.primary.Exec(t, "CREATE TABLE lost AS SELECT generate_series(1, 1000) AS i")
	source.CatchUp(t, l.primary)
	var leader atomic.Pointer[pgtest.Cluster]
	leader.Store(l.primary)
	o := l.options(t, source)
	o.ArchiveTimeout = 30 * time.Second
	o.Primary = func(ctx context.Context) (*server.Conn, error) { return connect(leader.Load())(ctx) }
	o.Progress = func(p backup.Progress) {
		if p.Phase == backup.PhaseWAL {
			l.primary.Crash(t)
			winner.Promote(t)
			leader.Store(winner)
		}
	}
	_, err := backup.Take(t.Context(), o)
	if !errors.Is(err, backup.ErrDeadBranch) {
		t.Fatalf("got %v", err)
	}
	if ids := listed(t, l.repo); len(ids) != 0 {
		t.Errorf("listed: %v", ids)
	}
}

// TestWhileThePrimaryIsSilentArchivedHistoriesCount: all WAL of the backup was
// archived by the leader that was left behind.
func TestWhileThePrimaryIsSilentArchivedHistoriesCount(t *testing.T) {
	l := newLab(t, pgtest.Options{})
	source, winner := l.standby(t), l.standby(t)
	winner.Exec(t, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
	winner.WaitFor(t, "SELECT count(*)::text FROM pg_stat_wal_receiver", "0")
	l.primary.Exec(t, "CREATE TABLE lost AS SELECT generate_series(1, 1000) AS i")
	source.CatchUp(t, l.primary)
	var silent atomic.Bool
	o := l.options(t, source)
	o.ArchiveTimeout = 3 * time.Second
	o.Primary = func(ctx context.Context) (*server.Conn, error) {
		if silent.Load() {
			return nil, errors.New("no route")
		}
		return connect(l.primary)(ctx)
	}
	o.Progress = func(p backup.Progress) {
		if p.Phase == backup.PhaseWAL {
			silent.Store(true)
			ended := l.primary.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
			l.primary.WaitFor(t, fmt.Sprintf("SELECT (last_archived_wal >= '%s')::text FROM pg_stat_archiver", ended), "true")
			l.primary.Crash(t)
			winner.Promote(t)
			winner.WaitFor(t, "SELECT (archived_count > 0)::text FROM pg_stat_archiver", "true")
			l.wal.drain(t)
		}
	}
	_, err := backup.Take(t.Context(), o)
	var pending *backup.PendingError
	if !errors.As(err, &pending) || !strings.Contains(pending.Why, "left the backup's before its stop") || !strings.Contains(pending.Why, "no route") {
		t.Fatalf("got %v", err)
	}
	if ids := listed(t, l.repo); len(ids) != 0 {
		t.Errorf("listed: %v", ids)
	}
}

func TestAStandbyThatFollowsAFailoverDuringTheCopyIsBackedUp(t *testing.T) {
	l := newLab(t, pgtest.Options{})
	l.primary.PgbenchInit(t, 1)
	source, winner := l.standby(t), l.standby(t)
	var leader atomic.Pointer[pgtest.Cluster]
	leader.Store(l.primary)
	o := l.options(t, source)
	o.Primary = func(ctx context.Context) (*server.Conn, error) { return connect(leader.Load())(ctx) }
	o.Progress = func(p backup.Progress) {
		if p.Phase == backup.PhaseCopy && p.Done == 0 && leader.Load() == l.primary {
			l.primary.Crash(t)
			winner.Promote(t)
			leader.Store(winner)
			source.Exec(t, fmt.Sprintf("ALTER SYSTEM SET primary_conninfo = '%s'", winner.ConnString()), "SELECT pg_reload_conf()")
			winner.Exec(t, "CREATE TABLE later AS SELECT 1 AS i", "CHECKPOINT")
			source.CatchUp(t, winner)
			source.Exec(t, "CHECKPOINT") // a restartpoint, which notes the new timeline
		}
	}
	b := take(t, o).Backup
	if b.Start.Timeline != 1 || b.Stop.Timeline != 2 || len(b.History) != 1 {
		t.Errorf("from %s to %s, history %v", b.Start, b.Stop, b.History)
	}
	c := l.restore(t, b.ID)
	c.Start(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	if got := c.Value(t, "SELECT i FROM later"); got != "1" {
		t.Errorf("later holds %s", got)
	}
}
