package e2e_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// Parts of the network go, one after the other: the leader's way to the
// repository and to the DCS, and then the DCS itself. Archiving goes on or
// catches up without a hole.
func TestPartitions(t *testing.T) {
	t.Parallel()
	f := startFaults(t, siteOptions{Options: lab.Options{Nodes: 2}, S3: true, Links: true, Archive: gated})
	f.partitions(t, []faultStep{
		{"the leader is cut from the repository", (*faults).leaderWithoutRepository},
		{"the leader is cut from the DCS", (*faults).leaderWithoutDCS},
		{"the leader dies and nobody reaches the repository", (*faults).leaderDiesWithoutRepository},
		{"the DCS is down", (*faults).withoutDCS},
	})
}

// TestSoakPartitions adds those that hit a running backup, whose patience they
// wait out. It runs with PGTENDER_SOAK=1.
func TestSoakPartitions(t *testing.T) {
	if os.Getenv("PGTENDER_SOAK") == "" {
		t.Skip("PGTENDER_SOAK is not set")
	}
	for _, dcs := range []string{"etcd", "consul"} {
		t.Run(dcs, func(t *testing.T) {
			f := startFaults(t, siteOptions{Options: lab.Options{Nodes: 2, DCS: dcs}, S3: true, Links: true, Archive: gated})
			for range 5 {
				f.partitions(t, []faultStep{
					{"the leader is cut from the repository", (*faults).leaderWithoutRepository},
					{"a backup whose source is cut from the repository", (*faults).sourceWithoutRepository},
					{"a backup whose source is cut from the DCS", (*faults).sourceWithoutDCS},
					{"the leader is cut from the DCS", (*faults).leaderWithoutDCS},
					{"the leader dies and nobody reaches the repository", (*faults).leaderDiesWithoutRepository},
					{"the DCS is down", (*faults).withoutDCS},
				})
			}
		})
	}
}

// partitions runs the steps. Everything acknowledged through all of them is in
// the archive.
func (f *faults) partitions(t *testing.T, steps []faultStep) {
	t.Helper()
	server(f.site, f.Leader()).Exec(t, "CREATE TABLE IF NOT EXISTS acknowledged (i int, v text)")
	taken := f.backup(t)
	f.restored[taken.ID] = true
	f.steps(t, steps)
	f.next(t)
	f.allRestore(t)
	f.marks++
	equalsAt(t, f.site, taken, mark(t, server(f.site, f.Leader()), fmt.Sprintf("after round %d", f.marks)))
}

// archived is what the tests of the archive know to do with the site.
func (f *faults) archived() *archived { return &archived{site: f.site} }

// verified wants the archive to be whole, by pgtender's own judgement.
func (s *site) verified(t *testing.T) {
	t.Helper()
	s.must(t, s.Leader(), "wal", "verify")
	if alarms := s.info(t, s.Leader()).Alarms; len(alarms) > 0 {
		t.Errorf("the archive has alarms: %+v", alarms)
	}
}

// archivingFails waits until the server's archiver has failed once more than
// before.
func archivingFails(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	const failures = "SELECT failed_count FROM pg_stat_archiver"
	before := c.Value(t, failures)
	c.Value(t, "SELECT pg_create_restore_point('not to be archived')")
	c.Value(t, "SELECT pg_switch_wal()")
	waitFor(t, "archiving to fail", func() bool { return c.Value(t, failures) != before })
}

// leaderWithoutRepository lets the others reach the repository, but not the
// leader.
func (f *faults) leaderWithoutRepository(t *testing.T) {
	a, leader := f.archived(), f.Leader()
	f.store[leader.Name].Cut()
	a.work(t, server(f.site, leader))
	archivingFails(t, server(f.site, leader))
	if log := leader.Log(200); !strings.Contains(log, "connection refused") {
		t.Errorf("the log does not say why archiving fails:\n%s", log)
	}
	if o := f.run(t, leader, "check"); o.code != 1 || !strings.Contains(o.stdout+o.stderr, "connection refused") {
		t.Errorf("check does not say that the repository cannot be reached: %v", o)
	}
	f.store[leader.Name].Mend()
	a.whole(t)
	f.verified(t)
}

// leaderDiesWithoutRepository: a standby is promoted all the same, and what it has
// of the leader's WAL comes into the archive later.
func (f *faults) leaderDiesWithoutRepository(t *testing.T) {
	a, leader, next := f.archived(), f.Leader(), f.WaitSyncStandby()
	for _, way := range f.store {
		way.Cut()
	}
	a.work(t, server(f.site, leader))
	if got := failOver(t, f.site, leader); got != next {
		t.Errorf("%s leads, want %s", got.Name, next.Name)
	}
	for _, way := range f.store {
		way.Mend()
	}
	a.work(t, server(f.site, next))
	f.healed(t)
	a.whole(t)
	f.verified(t)
}

func (f *faults) sourceWithoutRepository(t *testing.T) {
	source := f.WaitSyncStandby()
	b, before := f.begin(t, source), f.listed(t)
	f.store[source.Name].Cut()
	if o := b.ends(t); o.code != 1 || !strings.Contains(o.stderr, "connection refused") {
		t.Errorf("want the backup to fail for want of a repository: %v", o)
	}
	f.store[source.Name].Mend()
	if after := f.listed(t); after != before {
		t.Errorf("listed were %s, and are now %s", before, after)
	}
	f.next(t)
}

// sourceWithoutDCS lets a backup's lease lapse in earnest.
func (f *faults) sourceWithoutDCS(t *testing.T) {
	source := f.WaitSyncStandby()
	b := f.begin(t, source, "--max-rate", "500KB")
	f.links[source.Name].Hang()
	f.fails(t, b, "lease lost")
	f.refused(t, source, []string{"backup", "--elect"}, "DCS is unavailable") // nobody says who the source is
	f.links[source.Name].Mend()
	f.WaitStreaming(1)
	f.next(t)
}

// leaderWithoutDCS cuts the leader from the DCS with a backlog of WAL. Patroni
// demotes it, and it archives its backlog all the same. Then the other member
// leads.
func (f *faults) leaderWithoutDCS(t *testing.T) {
	a, old, next := f.archived(), f.Leader(), f.WaitSyncStandby()
	f.closeGate(t, old)
	a.work(t, server(f.site, old))
	last := server(f.site, old).Value(t, "SELECT pg_walfile_name(pg_current_wal_lsn() - 16 * 1024 * 1024)")
	f.links[old.Name].Hang()
	waitFor(t, "Patroni to demote "+old.Name, func() bool {
		return strings.Contains(old.Log(100), "demoting self because DCS is not accessible")
	})
	openGate(t, old)
	waitFor(t, old.Name+" to archive its backlog", func() bool { return strings.Contains(old.Log(500), "msg=archived file="+last) })
	if err := f.DCS.Delete(t.Context(), "service/"+f.Scope+"/leader"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, next.Name+" to lead", func() bool {
		now, err := f.Cluster.Leader(t.Context())
		return err == nil && now == next
	})
	f.WaitLeader() // accepts writes
	a.work(t, server(f.site, next))
	f.links[old.Name].Mend()
	f.WaitStreaming(1)
	f.WaitSyncStandby()
	a.whole(t)
	f.verified(t)
}

// withoutDCS takes the DCS away from all. In Patroni's failsafe mode the leader
// goes on as long as it reaches the other members.
func (f *faults) withoutDCS(t *testing.T) {
	f.PatchConfig(map[string]any{"failsafe_mode": true})
	leader := f.Leader()
	waitFor(t, "failsafe mode to be in force", func() bool {
		_, err := leader.REST(t.Context(), "GET", "/failsafe", nil)
		return err == nil
	})
	primary, a, before := server(f.site, leader), f.archived(), f.listed(t)
	f.DCS.Kill()
	a.work(t, primary)
	segmentArchived(t, primary)
	last := primary.Value(t, "SELECT last_archived_wal FROM pg_stat_archiver")
	absent := primary.Value(t, "SELECT pg_walfile_name(pg_current_wal_lsn() + 2 * 16 * 1024 * 1024)")
	for _, n := range f.Nodes {
		f.serves(t, n, last, absent)
		f.refused(t, n, []string{"backup", "--elect"}, "DCS is unavailable")
	}
	if after := f.listed(t); after != before {
		t.Errorf("listed were %s, and are now %s", before, after)
	}
	if err := f.DCS.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.WaitLeader()
	f.WaitStreaming(1)
	f.WaitSyncStandby()
	a.whole(t)
	f.verified(t)
}

// serves wants archive-get on a member to hand over an archived segment as it
// is in the leader's pg_wal, and to say of another one that it is not there.
func (f *faults) serves(t *testing.T, n *lab.Node, archived, absent string) {
	t.Helper()
	dest := filepath.Join(n.Dir, "fetched")
	defer os.Remove(dest)
	f.must(t, n, "archive-get", archived, dest)
	got, err := os.ReadFile(dest)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(f.Leader().DataDir, "pg_wal", archived))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("archive-get on %s gives another segment %s than the leader has (%v)", n.Name, archived, err)
	}
	if o := f.run(t, n, "archive-get", absent, dest+"-absent"); o.code != 1 || exists(dest+"-absent") {
		t.Errorf("want status 1 for a segment that is proved not to be there: %v", o)
	}
}
