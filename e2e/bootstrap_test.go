package e2e_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// A second cluster is made from the first one's repository, as it was at a
// moment, through Patroni's custom bootstrap. From then on both archive, each
// to its own place, and neither may write to the other's.
func TestBootstrapToAPointInTime(t *testing.T) {
	t.Parallel()
	first := startSite(t, siteOptions{Options: lab.Options{Nodes: 1, Scope: "first"}})
	origin := server(first, first.Leader())
	origin.EnableAMCheck(t)
	origin.PgbenchInit(t, 1)
	origin.Exec(t, "CREATE TABLE step (i int PRIMARY KEY)")
	first.backup(t)
	kept := takeStep(t, origin, 1)
	want := withoutPasswords(origin.Dump(t))
	takeStep(t, origin, 2) // what the second cluster is to be without
	origin.Value(t, "SELECT pg_switch_wal()")
	segmentArchived(t, origin)

	second := prepareSite(t, siteOptions{
		Options: lab.Options{Patroni: "4.1", DCS: "consul", Nodes: 2, Scope: "second"}, Repo: first.repo,
		Bootstrap: fmt.Sprintf("--cluster first --target-time '%s'", kept.time),
	})
	second.up(t)
	leader := second.Leader()
	copied := server(second, leader)
	if got := withoutPasswords(copied.Dump(t)); got != want {
		t.Errorf("the second cluster differs from the first one as it was:\n%s", firstDifference(want, got))
	}
	copied.AMCheck(t)
	second.useMethod(t, map[string]any{"keep_data": true})
	checksAreClean(t, second)

	// Both go on.
	takeStep(t, origin, 3)
	takeStep(t, copied, 30)
	for _, c := range []*pgtest.Cluster{origin, copied} {
		c.Value(t, "SELECT pg_switch_wal()")
		segmentArchived(t, c)
	}
	for _, s := range []*site{first, second} {
		if holes := s.info(t, s.Nodes[0]).holes(); holes != "" {
			t.Errorf("the archive of %s lacks %s", s.Scope, holes)
		}
	}
	if got := len(second.info(t, leader).complete(t)); got != 0 {
		t.Errorf("the second cluster has %d backups before it took one", got)
	}
	taken := second.backup(t)
	equalsAt(t, second, taken, mark(t, copied, "on its own"))
	replica := second.WaitSyncStandby()
	second.Reinit(replica)
	second.WaitStreaming(1)
	rebuiltByUs(t, replica)
	sameContent(t, second, second.Leader(), replica)

	// A member that is told the other cluster's name is not let in.
	segment := copied.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	path := filepath.Join(leader.DataDir, "pg_wal", segment)
	second.refused(t, leader, []string{"--cluster", "first", "archive-push", path}, "belongs to another cluster", "pgtender adopt")
	if alarms := first.info(t, first.Nodes[0]).Alarms; len(alarms) > 0 {
		t.Errorf("the first cluster's archive has alarms: %+v", alarms)
	}
}

// segmentArchived waits until the last segment that the server has ended is archived.
func segmentArchived(t testing.TB, c *pgtest.Cluster) {
	t.Helper()
	name := c.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	waitFor(t, "segment "+name+" to be archived", func() bool {
		return c.Value(t, "SELECT coalesce(last_archived_wal >= '"+name+"', false) FROM pg_stat_archiver") == "t"
	})
}

// withoutPasswords leaves out the lines with roles' passwords: Patroni sets them
// anew in a cluster that it bootstraps.
func withoutPasswords(dump string) string {
	var out strings.Builder
	for line := range strings.Lines(dump) {
		if !strings.HasPrefix(line, "ALTER ROLE ") {
			out.WriteString(line)
		}
	}
	return out.String()
}
