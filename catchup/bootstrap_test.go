package catchup_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestABootstrapEndsRecoveryByItself: Patroni starts the server with hot_standby
// off and waits without limit until it has left recovery.
func TestABootstrapEndsRecoveryByItself(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	s := pgtest.StandbyOf(t, l.primary, pgtest.Options{Config: map[string]string{"archive_mode": "off"}})
	l.primary.Exec(t, "CREATE TABLE t AS SELECT 1 AS i")
	s.CatchUp(t, l.primary)
	l.backup(t, s) // which has a standby.signal
	l.primary.Exec(t, "SELECT pg_create_restore_point('here')", "INSERT INTO t VALUES (2)")
	l.archived(t)
	dir := pgtest.Dir(t)
	// An action that Patroni could not live with is not taken over.
	l.restore(t, catchup.GatherOptions{Purpose: catchup.Bootstrap, Dir: dir, Target: catchup.Target{Kind: catchup.AtName, Name: "here", Action: "pause"}})
	for name, want := range map[string]bool{"recovery.signal": true, "standby.signal": false} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	pgtest.Own(t, dir)
	c := pgtest.Adopt(t, dir, pgtest.Options{Config: map[string]string{"archive_mode": "off", "hot_standby": "off"}})
	c.Start(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if got := c.Value(t, "SELECT string_agg(i::text, ',') FROM t"); got != "1" {
		t.Errorf("holds %s", got)
	}
	if got := c.Value(t, "SELECT timeline_id FROM pg_control_checkpoint()"); got != "2" {
		t.Errorf("on timeline %s", got)
	}
}
