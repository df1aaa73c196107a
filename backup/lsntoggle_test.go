package backup_test

import (
	"testing"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// While neither checksums nor wal_log_hints are on, vacuum marks a page
// all-visible without a new LSN. The visibility map is stored whole and says so; a
// page that was kept would not.
func TestPagesDoNotTellWhatHappenedWhileTheyWereNotLogged(t *testing.T) {
	t.Run("checksums", func(t *testing.T) {
		c := newChain(t, pgtest.Options{Checksums: true}, 11)
		if !c.primary.CanSetChecksums() {
			t.Skipf("no pg_checksums for PostgreSQL %d is installed", c.primary.Major)
		}
		offForAWhile(t, c, func(on bool) {
			c.primary.Stop(t, pgtest.Fast)
			c.primary.SetChecksums(t, on)
			c.primary.Start(t)
		})
	})
	t.Run("wal_log_hints", func(t *testing.T) {
		c := newChain(t, pgtest.Options{}, 12)
		set := func(on bool) {
			value := map[bool]string{true: "on", false: "off"}[on]
			c.primary.Exec(t, "ALTER SYSTEM SET wal_log_hints = "+value)
			c.primary.Stop(t, pgtest.Fast)
			c.primary.Start(t)
		}
		set(true)
		offForAWhile(t, c, set)
	})
}

func offForAWhile(t *testing.T, c *chain, set func(on bool)) {
	t.Helper()
	// Read once, so that no hint is left to be set.
	c.primary.Exec(t, "CREATE TABLE quiet AS SELECT i, repeat('q', 200) FROM generate_series(1, 20000) i", "SELECT count(*) FROM quiet", "CHECKPOINT")
	take(t, c.options(t, c.primary))
	set(false)
	c.primary.Exec(t, "VACUUM quiet")
	set(true)
	c.loseWAL(t)
	r := take(t, c.options(t, c.primary))
	if r.Backup.Kind != repo.Incremental || r.Plan.Method != backup.ByLSN {
		t.Fatalf("took a backup of kind %s by %q: %s", r.Backup.Kind, r.Plan.Method, r.Plan.Why)
	}
	c.compare(t, r.Backup.ID)
}
