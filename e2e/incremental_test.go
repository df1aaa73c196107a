package e2e_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/e2e/lab"
)

// TestIncrementalBackups: each backup of a cluster builds on the one before,
// whoever took it, and on whichever side of a failover.
func TestIncrementalBackups(t *testing.T) {
	t.Parallel()
	s := startSite(t, siteOptions{Options: lab.Options{}, Extra: "backup:\n  full_fallback: never\n  synthetic_share: 0\n"})
	leader, standby := s.Leader(), s.WaitSyncStandby()
	primary := server(s, leader)
	primary.EnableAMCheck(t)
	primary.PgbenchInit(t, 3)

	s.refused(t, standby, []string{"backup", "--kind", "incremental"}, "no backup yet", "--kind full")
	full := s.backUp(t, standby)
	if full.Backup.Kind != "full" || !strings.Contains(full.Plan.Why, "no backup yet") {
		t.Fatalf("the first backup is %s: %s", full.Backup.Kind, full.Plan.Why)
	}

	work := startLoad(t, primary, 7)
	second := s.backUp(t, standby)
	work.end(t)
	if second.Backup.Kind != "incremental" || second.Backup.Parent != full.Backup.ID || second.Backup.Member != standby.Name {
		t.Fatalf("the second backup is %s on %s: %s", second.Backup.Kind, second.Backup.Parent, second.Plan.Why)
	}
	primary.Exec(t, "UPDATE pgbench_accounts SET abalance = 7 WHERE aid % 1000 = 3")

	next := failOver(t, s, leader)
	s.StartNode(leader)
	s.WaitStreaming(2)
	now := server(s, next)
	now.Exec(t, "CREATE TABLE after_failover AS SELECT generate_series(1, 1000) AS i", "UPDATE pgbench_accounts SET abalance = 8 WHERE aid % 1000 = 4")
	source := s.WaitSyncStandby()
	plan := s.must(t, source, "backup", "--dry-run")
	if !strings.Contains(plan.stdout, "incremental on "+second.Backup.ID) {
		t.Errorf("dry run after the failover: %v", plan)
	}
	third := s.backUp(t, source)
	if third.Backup.Kind != "incremental" || third.Backup.Parent != second.Backup.ID || third.Backup.Member != source.Name {
		t.Fatalf("the third backup is %s on %s: %s", third.Backup.Kind, third.Backup.Parent, third.Plan.Why)
	}
	if third.Read*3 > third.Backup.Bytes {
		t.Errorf("the third backup read %d of %d bytes", third.Read, third.Backup.Bytes)
	}
	var synthetic taken
	s.query(t, next, &synthetic, "backup", "--kind", "synthetic")
	if synthetic.Backup.Kind != "synthetic" || synthetic.Backup.Parent != third.Backup.ID || synthetic.Backup.Bytes != third.Backup.Bytes {
		t.Errorf("made %+v of %+v", synthetic.Backup, third.Backup)
	}
	if plan := s.must(t, source, "backup", "--dry-run"); !strings.Contains(plan.stdout, "incremental on "+synthetic.Backup.ID) {
		t.Errorf("dry run after the synthetic backup: %v", plan)
	}
	s.extra = "backup:\n  synthetic_share: 100\n"
	s.configure(t, source)
	waitFor(t, "the second after the synthetic backup's", func() bool { // ids of one second do not sort by time
		return time.Now().UTC().Format("20060102T150405Z") > synthetic.Backup.ID[:16]
	})
	due := s.backUp(t, source)
	if due.Synthetic == nil || due.Synthetic.Kind != "synthetic" || due.Synthetic.Parent != due.Backup.ID {
		t.Errorf("after %+v the policy made %+v", due.Backup, due.Synthetic)
	}
	want := mark(t, now, "after it all")
	equalsAt(t, s, infoBackup{ID: synthetic.Backup.ID}, want)
	equalsAt(t, s, infoBackup{ID: third.Backup.ID}, want)
}

// taken is what backup --json prints, as far as it matters here.
type taken struct {
	Backup struct {
		ID     string
		Kind   string
		Parent string
		Member string `json:"source_member"`
		Bytes  int64
	}
	Plan struct {
		Why string
	}
	Synthetic *struct{ ID, Kind, Parent string }
	Read      int64 `json:"read_bytes"`
}

// backUp takes a backup on a member that is the source.
func (s *site) backUp(t *testing.T, n *lab.Node) (r taken) {
	t.Helper()
	s.query(t, n, &r, "backup")
	return r
}
