package catchup_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestChecksumsThatWereTurnedOnSinceProveNothing: a transaction that was in progress
// at a checkpoint before the fork commits past it, on the branch that is given up.
// Without checksums and wal_log_hints its rows are marked as committed on pages that
// no WAL names; then pg_checksums gives these pages what they lacked.
func TestChecksumsThatWereTurnedOnSinceProveNothing(t *testing.T) {
	t.Parallel()
	config := map[string]string{"wal_log_hints": "off", "autovacuum": "off", "checkpoint_timeout": "1h", "max_prepared_transactions": "5"}
	l := newLab(t, pgtest.Options{Config: config})
	next := pgtest.StandbyOf(t, l.primary, pgtest.Options{Config: map[string]string{"archive_mode": "on", "archive_command": l.program + "push %p"}})
	l.primary.EnableAMCheck(t)
	l.primary.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i",
		"BEGIN; INSERT INTO t SELECT generate_series(1001, 2000); PREPARE TRANSACTION 'one'")
	l.primary.Exec(t, "CHECKPOINT")
	next.CatchUp(t, l.primary)
	next.Exec(t, "CHECKPOINT")
	// As one turns them on without an outage: a standby first.
	next.Stop(t, pgtest.Fast)
	next.SetChecksums(t, true)
	next.Start(t)
	next.CatchUp(t, l.primary)
	old := l.primary
	next.Promote(t)
	old.Exec(t, "COMMIT PREPARED 'one'", "SELECT count(*) FROM t", "CHECKPOINT")
	old.Stop(t, pgtest.Fast)
	l.primary = next
	next.Exec(t, "ROLLBACK PREPARED 'one'")
	l.backup(t, next)
	l.archived(t)
	anHourAgo(t, old.DataDir)
	old.SetChecksums(t, true)

	x := &branched{lab: l, branch: branch{major: pgtest.DefaultMajor, protect: "checksums"}, old: old}
	p, closed := x.chosen(t, catchup.ByMaps)
	if p.Choice != catchup.ByHashes || !strings.Contains(closed, "checksums may have been off") {
		t.Errorf("chose %q; block maps: %q", p.Choice, closed)
	}
	x.back(t, catchup.ByHashes)
}

// anHourAgo makes it that long ago that a server was shut down, and all of its files
// were written.
func anHourAgo(t *testing.T, dir string) {
	t.Helper()
	at := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	name := filepath.Join(dir, filepath.FromSlash(pg.ControlPath))
	raw, err := os.ReadFile(name)
	if err == nil {
		raw, err = pg.EditControl(raw, func(c *pg.Control) { c.CheckpointCopy.Time = at })
	}
	if err == nil {
		err = os.WriteFile(name, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		return os.Chtimes(path, at, at)
	})
	if err != nil {
		t.Fatal(err)
	}
}
