package catchup_test

import (
	"testing"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestHintsThatAStandbyWroteDoNotSurvive is about what no WAL tells: a standby
// logs no hint bits, but they go to disk with pages that replay has changed and no
// restartpoint has written yet, even if that was before the redo point.
func TestHintsThatAStandbyWroteDoNotSurvive(t *testing.T) {
	t.Parallel()
	const major = 16
	config := map[string]string{
		"wal_keep_size": "0", "checkpoint_timeout": "1h", "autovacuum": "off", "max_prepared_transactions": "5", "wal_log_hints": "on",
	}
	l := newLab(t, pgtest.Options{Major: major, Config: config})
	old := l.primary
	old.EnableAMCheck(t)
	old.Exec(t, "CREATE TABLE doubtful AS SELECT 0 AS i", "CHECKPOINT")
	next := pgtest.StandbyOf(t, old, pgtest.Options{Config: map[string]string{"archive_mode": "on", "archive_command": l.program + "push %p"}})
	follower := pgtest.StandbyOf(t, old, pgtest.Options{Config: map[string]string{"archive_mode": "off"}})
	// Changed before the checkpoint, and in another segment, for the archive's maps
	// are of whole ones; decided after the fork.
	old.Exec(t, "BEGIN; INSERT INTO doubtful SELECT generate_series(1, 1000); PREPARE TRANSACTION 'doubt'")
	l.archived(t)
	old.Exec(t, "CHECKPOINT")
	l.archived(t)
	next.CatchUp(t, old)
	follower.CatchUp(t, old)
	next.Promote(t)
	old.Configure(t, map[string]string{"archive_command": "false"})
	old.Reload(t)
	old.Exec(t, "ROLLBACK PREPARED 'doubt'")
	next.Exec(t, "COMMIT PREPARED 'doubt'")
	follower.CatchUp(t, old)
	if n := follower.Value(t, "SELECT count(*) FROM doubtful"); n != "1" {
		t.Fatalf("the branch that is given up has %s rows", n)
	}
	follower.Exec(t, "CHECKPOINT") // writes the page, and the redo point is past its last change
	l.primary = next
	l.backup(t, next)
	l.archived(t)
	follower.Stop(t, pgtest.Fast)
	old.Stop(t, pgtest.Immediate)

	x := &branched{lab: l, branch: branch{major: major, stop: "diverged standby", protect: "hints"}, old: follower}
	p := x.back(t, catchup.ByMaps)
	if p.Lower >= p.Local.Redo {
		t.Errorf("changes count from %s on, which is not before the directory's redo point %s", p.Lower, p.Local.Redo)
	}
}
