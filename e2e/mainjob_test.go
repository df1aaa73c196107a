package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// The main job, whole: a cluster under load is backed up from its synchronous
// standby, the copy restored and compared, and after the leader's death a wiped
// member is rebuilt from the repository. Each pair of Patroni, DCS and store
// occurs, and each major version of PostgreSQL. One is on disk and syncs, which is
// what users have; the others lie in memory.
func TestMainJob(t *testing.T) {
	for _, row := range []struct {
		patroni, dcs string
		s3           bool
		major        int
		durable      bool
	}{
		{"3.0", "etcd", false, 15, false},
		{"4.1", "consul", false, 18, true},
		{"3.0", "consul", true, 13, false},
		{"4.1", "etcd", true, 16, false},
		{"4.1", "etcd", false, 14, false},
		{"4.1", "consul", true, 17, false},
	} {
		store := map[bool]string{false: "directory", true: "S3"}[row.s3]
		t.Run(fmt.Sprintf("Patroni %s, %s, %s, PostgreSQL %d", row.patroni, row.dcs, store, row.major), func(t *testing.T) {
			t.Parallel() // much of it is waiting
			mainJob(t, siteOptions{Options: lab.Options{Patroni: row.patroni, DCS: row.dcs, Major: row.major, Durable: row.durable}, S3: row.s3})
		})
	}
}

func mainJob(t *testing.T, o siteOptions) {
	began := time.Now()
	step := func(format string, args ...any) {
		t.Helper()
		t.Logf("%5.1fs %s", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	s := startSite(t, o)
	step("three members stream")
	leader, standby := s.Leader(), s.WaitSyncStandby()
	primary := server(s, leader)
	primary.EnableAMCheck(t)
	primary.PgbenchInit(t, 3)
	work := startLoad(t, primary, 1)

	topologyNames(t, s, leader, standby)
	s.refused(t, leader, []string{"backup"}, leader.Name+" is not the source", standby.Name)
	taken := backUpOnce(t, s, leader, standby)
	step("backup %s of %s under load: %d bytes, %d stored", taken.ID, standby.Name, taken.Backup.Bytes, taken.Backup.StoredBytes)
	work.end(t)
	s.useMethod(t, map[string]any{"keep_data": true}) // check asks for it
	checksAreClean(t, s)

	want := mark(t, primary, "before the failover")
	equalsAt(t, s, taken, want)
	step("the restored copy equals the source")

	failedOver := failOver(t, s, leader)
	step("%s leads after the death of %s", failedOver.Name, leader.Name)
	s.Wipe(leader)
	s.StartNode(leader)
	s.WaitStreaming(2)
	step("%s was rebuilt from the repository and streams", leader.Name)
	rebuiltByUs(t, leader)
	server(s, failedOver).Exec(t, "CREATE TABLE after_failover AS SELECT generate_series(1, 1000) AS i")
	sameContent(t, s, failedOver, leader)
	if holes := s.info(t, failedOver).holes(); holes != "" {
		t.Errorf("WAL is missing after the failover: %s", holes)
	}
}

func topologyNames(t *testing.T, s *site, leader, standby *lab.Node) {
	t.Helper()
	var got struct {
		Leader, Source string
		Members        []struct {
			Name, Role string
			Against    []string
			Drawbacks  []string
		}
	}
	s.query(t, leader, &got, "topology")
	if got.Leader != leader.Name || got.Source != standby.Name || len(got.Members) != len(s.Nodes) {
		t.Errorf("topology shows leader %s, source %s and %d members, want %s, %s, %d", got.Leader, got.Source, len(got.Members), leader.Name, standby.Name, len(s.Nodes))
	}
}

// backUpOnce runs backup --elect on every member at once. One takes the backup,
// from its own data directory alone; the others have nothing to do, and while it
// runs no further one is let in.
func backUpOnce(t *testing.T, s *site, leader, standby *lab.Node) infoBackup {
	t.Helper()
	runs := map[*lab.Node]*running{}
	for _, n := range s.Nodes {
		runs[n] = s.start(t, n, "backup", "--elect", "--max-rate", "15MB")
	}
	w := watch(runs[standby].cmd.Process.Pid)
	waitFor(t, "the copy to begin", func() bool { return len(w.below(standby.DataDir)) > 0 })
	s.refused(t, standby, []string{"backup"}, standby.Name, "hint: ")
	for n, run := range runs {
		o := run.wait(t)
		if o.code != 0 || n != standby && o.stdout != "" {
			t.Errorf("backup --elect on %s: %v", n.Name, o)
		}
	}
	w.end()
	if own := w.below(standby.DataDir); len(own) < 10 {
		t.Errorf("only %v of the standby's files were seen open", own)
	}
	if foreign := w.below(leader.DataDir); len(foreign) > 0 {
		t.Errorf("the backup read the primary's files %v", foreign)
	}
	list := s.info(t, leader).complete(t)
	if len(list) != 1 {
		t.Fatalf("%d backups are listed, want one: %+v", len(list), list)
	}
	b := list[0]
	if b.Backup.SourceMember != standby.Name || b.Backup.SourceRole != "standby" || b.Backup.ServerNumber/10000 != s.Major {
		t.Errorf("listed as %+v, want it taken from %s", b.Backup, standby.Name)
	}
	return b
}

// checksAreClean runs check on each member twice, for the first round tells the
// members of each other, and wants nothing found.
func checksAreClean(t *testing.T, s *site) {
	t.Helper()
	a := startAgents(t, s, "")
	defer a.killAll()
	for _, n := range s.Nodes {
		s.must(t, n, "check")
	}
	for _, n := range s.Nodes {
		if got := s.must(t, n, "check"); !strings.Contains(got.stdout, "0 errors, 0 warnings") {
			t.Errorf("check finds faults with a sound cluster: %v", got)
		}
	}
}

// moment is a named restore point and what the database held there.
type moment struct {
	name    string
	content string
}

// mark makes a restore point, and returns when it is archived. Nobody may write
// meanwhile.
func mark(t testing.TB, primary *pgtest.Cluster, name string) moment {
	t.Helper()
	m := moment{name: name, content: primary.Dump(t)}
	primary.Value(t, fmt.Sprintf("SELECT pg_create_restore_point('%s')", name))
	segmentArchived(t, primary)
	return m
}

// equalsAt restores a backup on a bare host up to a restore point, and compares.
func equalsAt(t *testing.T, s *site, b infoBackup, want moment) {
	t.Helper()
	c := s.restore(t, "--backup", b.ID, "--target-name", want.name, "--target-action", "promote")
	c.Start(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	if got := c.Dump(t); got != want.content {
		t.Errorf("the restored content differs from the source's at %q:\n%s", want.name, firstDifference(want.content, got))
	}
	c.AMCheck(t)
	c.Checksums(t)
	c.Stop(t, pgtest.Fast)
}

// failOver kills the leader and gives the next one.
func failOver(t *testing.T, s *site, leader *lab.Node) *lab.Node {
	t.Helper()
	leader.Kill()
	s.Expire(leader)
	return s.WaitLeader()
}

// rebuiltByUs fails the test unless the member's latest clone was ours.
func rebuiltByUs(t *testing.T, n *lab.Node) {
	t.Helper()
	if !strings.Contains(n.Log(2000), "replica has been created using pgtender") {
		t.Errorf("%s was not created by pgtender", n.Name)
	}
}

// sameContent compares a replica with the leader, at the leader's position of now.
func sameContent(t *testing.T, s *site, leader, replica *lab.Node) {
	t.Helper()
	primary, standby := server(s, leader), server(s, replica)
	standby.CatchUp(t, primary)
	if want, got := primary.Dump(t), standby.Dump(t); got != want {
		t.Errorf("%s differs from the leader %s:\n%s", replica.Name, leader.Name, firstDifference(want, got))
	}
	standby.AMCheck(t)
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d: want %s\n     got %s", i+1, w[i], g[i])
		}
	}
	return fmt.Sprintf("want %d lines, got %d", len(w), len(g))
}

// waitFor waits for a state.
func waitFor(t testing.TB, what string, reached func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !reached(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
