package ha_test

import (
	"testing"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

func TestTheRoleInArchiving(t *testing.T) {
	as := func(name string) func(*view) { return func(v *view) { v.Self = name } }
	role := func(r patroni.Role) func(*patroni.Member) { return func(m *patroni.Member) { m.Role = r } }
	tests := []struct {
		name     string
		view     view
		timeline pg.Timeline
		want     ha.Role
		why      string
	}{
		{"the leader", healthy().change(as("pg1")), 7, ha.RoleLeader, "pg1 holds the leader key"},
		{"the leader archiving an older timeline", healthy().change(as("pg1")), 6, ha.RoleLeader, "pg1 holds the leader key"},
		{"the leader of a standby cluster", healthy().change(as("pg1")).member("pg1", role(patroni.RoleStandbyLeader)), 7, ha.RoleLeader, "pg1 holds the leader key"},
		{"a member that has just won", healthy().change(as("pg1")).member("pg1", role(patroni.RoleReplica)), 7, ha.RoleUnknown, "pg1 holds the leader key, but says that its role is replica"},
		{"a member in promotion", healthy().change(as("pg1")).member("pg1", role(patroni.RolePromoted)), 7, ha.RoleUnknown, "pg1 holds the leader key, but says that its role is promoted"},
		{"a leader that is stepping down", healthy().change(as("pg1")).member("pg1", role(patroni.RoleDemoted)), 7, ha.RoleUnknown, "pg1 holds the leader key, but says that its role is demoted"},
		{"a leader whose server has crashed", healthy().change(as("pg1")).state("pg1", patroni.StateCrashed), 7, ha.RoleUnknown, "pg1 holds the leader key, but its PostgreSQL is not running (state crashed)"},
		{"a leader without a member key", healthy().change(as("pg9")).change(func(v *view) { v.Cluster.Leader = "pg9" }), 7, ha.RoleUnknown, "pg9 holds the leader key and has no member key"},
		{"a leader that is not on that timeline yet", healthy().change(as("pg1")), 8, ha.RoleUnknown, "pg1 holds the leader key on timeline 7, not on 8"},

		{"a replica", healthy(), 7, ha.RoleReplica, "pg2 is a replica of pg1"},
		{"a replica whose timeline is not told", healthy(), 0, ha.RoleReplica, "pg2 is a replica of pg1"},
		{"a replica that led an older timeline archives the present one", healthy().change(as("pg3")), 7, ha.RoleReplica, "pg3 is a replica of pg1"},
		{"a replica archives a timeline that another led", healthy(), 6, ha.RoleReplica, "pg2 is a replica of pg1"},

		{"a former leader by the history, now a replica", healthy().change(as("pg3")), 6, ha.RoleExLeader, "pg3 led timeline 6, now pg1 leads"},
		{"a former leader by the history, stopped", healthy().change(as("pg3")).state("pg3", patroni.StateStopped), 6, ha.RoleExLeader, "pg3 led timeline 6, now pg1 leads"},
		{"a former leader whose key has expired", healthy().change(as("pg3")).change(func(v *view) { v.Cluster.Members = v.Cluster.Members[:2] }), 6, ha.RoleExLeader, "pg3 led timeline 6, now pg1 leads"},
		{"a former leader by its own word, where the history is silent", healthy().member("pg2", role(patroni.RoleDemoted)), 5, ha.RoleExLeader, "pg2 led timeline 5, now pg1 leads"},
		{"a former leader that has not noticed", healthy().member("pg2", role(patroni.RolePrimary)).change(func(v *view) { v.Cluster.Timeline = patroni.Timelines{} }), 7, ha.RoleExLeader, "pg2 led timeline 7, now pg1 leads"},
		{"a primary on a timeline nobody knows", healthy().member("pg2", role(patroni.RolePrimary)), 8, ha.RoleUnknown, "pg2 does not lead and is no running replica (role primary, state running)"},
		{"a demoted member archives a timeline that another led", healthy().member("pg2", role(patroni.RoleDemoted)), 6, ha.RoleUnknown, "pg2 does not lead and is no running replica (role demoted, state running)"},

		{"a stopped member that led nothing", healthy().state("pg2", patroni.StateStopped), 7, ha.RoleUnknown, "pg2 does not lead and is no running replica (role replica, state stopped)"},
		{"a member without a key", healthy().change(as("pg9")), 7, ha.RoleUnknown, "pg9 has no member key"},
		{"a node that is no member", healthy().change(as("")), 7, ha.RoleUnknown, "this node is no member"},
		{"no leader", healthy().change(func(v *view) { v.Cluster.Leader = "" }), 7, ha.RoleUnknown, "the cluster has no leader"},
		{"the DCS is down", healthy().change(as("pg1")).change(func(v *view) { v.Err = dcs.ErrUnavailable }), 7, ha.RoleUnknown, "the cluster is unknown: DCS is unavailable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, why := ha.ArchiveRole(tt.view.View, tt.timeline)
			if got != tt.want || why != tt.why {
				t.Errorf("%s because %q, want %s because %q", got, why, tt.want, tt.why)
			}
		})
	}
}
