package ha_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/patroni"
)

// order gives the candidates' names, refused ones in brackets.
func order(d ha.Decision) string {
	var out []string
	for _, c := range d.Candidates {
		name := c.Member
		if !c.Eligible {
			name = "(" + name + ")"
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

func TestTheSourceOfABackup(t *testing.T) {
	noSync := func(v *view) { v.Cluster.Sync = patroni.Sync{} }
	quorum := func(v *view) { v.Cluster.Sync.Ambiguous = true; v.Cluster.Sync.Standbys = []string{"pg2", "pg3"} }
	tests := []struct {
		name   string
		view   view
		order  string
		source string
		reason string
	}{
		{"the synchronous standby", healthy(), "pg2 pg3 pg1", "pg2", "it is a synchronous standby, it lags by 0 B"},
		{"the synchronous standby, though it lags more than others", healthy().lag("pg2", 100<<20), "pg2 pg3 pg1", "pg2",
			"it is a synchronous standby, it lags by 100.0 MB"},
		{"the replica that lags least, without synchronous standbys", healthy().change(noSync).lag("pg2", 20<<20), "pg3 pg2 pg1", "pg3", "it is a replica, it lags by 0 B"},
		{"by name, where lags differ by less than a segment", healthy().change(noSync).lag("pg2", 5<<20), "pg2 pg3 pg1", "pg2", "it is a replica, it lags by 5.0 MB"},
		{"by lag among a quorum's voters", healthy().change(quorum).lag("pg2", 20<<20), "pg3 pg2 pg1", "pg3",
			"it is one of the quorum's voters, which guarantees nothing of a single one, it lags by 0 B"},
		{"a stale sync key counts for nothing", healthy().change(func(v *view) { v.Cluster.Sync.Valid = false }).lag("pg2", 20<<20), "pg3 pg2 pg1", "pg3", "it is a replica, it lags by 0 B"},
		{"a replica that serves no clients", healthy().change(noSync).tag("pg3", "noloadbalance", "true"), "pg3 pg2 pg1", "pg3",
			"it is a replica, it lags by 0 B, it serves no clients (noloadbalance)"},
		{"a replica that is never promoted", healthy().change(noSync).tag("pg3", "nofailover", "true"), "pg3 pg2 pg1", "pg3",
			"it is a replica, it lags by 0 B, it will not be promoted (nofailover)"},
		{"a replica tagged backup before the synchronous standby", healthy().tag("pg3", "backup", "true"), "pg3 pg2 pg1", "pg3", "it is a replica, it is tagged backup, it lags by 0 B"},
		{"the tag backup does not draw backups to the leader", healthy().tag("pg1", "backup", "true"), "pg2 pg3 pg1", "pg2", "it is a synchronous standby, it lags by 0 B"},
		{"another replica while a restart of the first is pending", healthy().member("pg2", func(m *patroni.Member) { m.PendingRestart = true }), "pg3 pg2 pg1", "pg3", "it is a replica, it lags by 0 B"},
		{"the first all the same if it is pending everywhere",
			healthy().member("pg2", func(m *patroni.Member) { m.PendingRestart = true }).member("pg3", func(m *patroni.Member) { m.PendingRestart = true }),
			"pg2 pg3 pg1", "pg2", "it is a synchronous standby, it lags by 0 B; but a restart of it is pending"},
		{"a restart at a fixed time counts too", healthy().member("pg2", func(m *patroni.Member) { m.ScheduledRestart = "2026-08-01T04:00:00Z" }), "pg3 pg2 pg1", "pg3", "it is a replica, it lags by 0 B"},
		{"a replica that follows the archive after those that stream", healthy().member("pg2", func(m *patroni.Member) { m.Replication = patroni.InArchiveRecovery }), "pg3 pg2 pg1", "pg3", "it is a replica, it lags by 0 B"},
		{"a nostream replica if there is no other",
			healthy().state("pg2", patroni.StateStopped).tag("pg3", "nostream", "true").member("pg3", func(m *patroni.Member) { m.Replication = "" }),
			"pg3 pg1 (pg2)", "pg3", "it is a replica, it lags by 0 B; but it follows the archive, it does not stream"},
		{"the leader if no replica can", healthy().state("pg2", patroni.StateStopped).state("pg3", patroni.StateCrashed), "pg1 (pg2) (pg3)", "pg1", "it is the leader, and no replica can be the source"},
		{"nobody, if policy keeps it off the leader", healthy().state("pg2", patroni.StateStopped).state("pg3", patroni.StateStopped).change(func(v *view) { v.Policy.Leader = ha.LeaderNever }),
			"(pg2) (pg3) (pg1)", "", "no member can be the source"},
		{"the leader alone, if policy wants it", healthy().change(func(v *view) { v.Policy.Leader = ha.LeaderOnly }), "pg1 (pg2) (pg3)", "pg1", "it is the leader, as policy leader: only wants"},
		{"an old member says nothing of replication", healthy().member("pg2", func(m *patroni.Member) { m.Version, m.Replication = "3.0.2", "" }), "pg2 pg3 pg1", "pg2", "it is a synchronous standby, it lags by 0 B"},
		{"a cascading replica whose upstream is well", healthy().change(noSync).tag("pg2", "replicatefrom", "pg3"), "pg2 pg3 pg1", "pg2", "it is a replica, it lags by 0 B"},
		{"a cascading replica whose upstream is gone", healthy().tag("pg2", "replicatefrom", "pg9"), "pg2 pg3 pg1", "pg2", "it is a synchronous standby, it lags by 0 B"},
		{"a replica of a standby cluster", healthy().change(noSync).change(standbyCluster), "pg2 pg3 pg1", "pg2", "it is a replica, it lags by 0 B"},
		{"the leader of a standby cluster", healthy().change(noSync).change(standbyCluster).state("pg2", patroni.StateStopped).state("pg3", patroni.StateStopped), "pg1 (pg2) (pg3)", "pg1",
			"it is the leader of a standby cluster, and no replica can be the source"},
		{"a paused cluster is backed up all the same", healthy().change(func(v *view) { v.Cluster.Dynamic.Pause = true }), "pg2 pg3 pg1", "pg2", "it is a synchronous standby, it lags by 0 B"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := ha.Decide(tt.view.View)
			if got := order(d); got != tt.order {
				t.Errorf("order %s, want %s", got, tt.order)
			}
			if d.Source != tt.source || d.Reason != tt.reason {
				t.Errorf("source %q because %q, want %q because %q", d.Source, d.Reason, tt.source, tt.reason)
			}
			if len(d.Candidates) != 3 {
				t.Errorf("%d candidates of 3", len(d.Candidates))
			}
		})
	}
}

func standbyCluster(v *view) {
	v.Cluster.Dynamic.StandbyCluster.Host = "h"
	v.member("pg1", func(m *patroni.Member) { m.Role = patroni.RoleStandbyLeader })
}

func TestReasonsAgainstAMember(t *testing.T) {
	tests := []struct {
		name   string
		view   view
		member string
		want   []string
	}{
		{"it is being rebuilt", healthy().state("pg2", patroni.StateCreatingReplica), "pg2", []string{"it is being rebuilt (creating replica)"}},
		{"it is stopped", healthy().state("pg2", patroni.StateStopped), "pg2", []string{"its PostgreSQL is not running (state stopped)"}},
		{"it is in a state of the future", healthy().member("pg2", func(m *patroni.Member) { m.State, m.RawState = patroni.StateUnknown, "dreaming" }), "pg2",
			[]string{"its PostgreSQL is not running (state dreaming)"}},
		{"it is on another timeline", healthy().member("pg2", func(m *patroni.Member) { m.Timeline = 6 }), "pg2", []string{"it is on timeline 6, the leader on 7"}},
		{"its timeline is unknown", healthy().member("pg2", func(m *patroni.Member) { m.Timeline = 0 }), "pg2", []string{"its timeline is not known"}},
		{"it thinks it is a primary", healthy().member("pg2", func(m *patroni.Member) { m.Role = patroni.RolePrimary }), "pg2",
			[]string{"it says that its role is primary, but does not hold the leader key"}},
		{"it was demoted", healthy().member("pg2", func(m *patroni.Member) { m.Role = patroni.RoleDemoted }), "pg2",
			[]string{"it says that its role is demoted, but does not hold the leader key"}},
		{"it receives nothing", healthy().member("pg2", func(m *patroni.Member) { m.Replication = "" }), "pg2", []string{"it receives no WAL"}},
		{"it lags too far", healthy().lag("pg2", 300<<20), "pg2", []string{"it lags by 300.0 MB, more than the 256.0 MB allowed"}},
		{"it lags more than policy allows", healthy().lag("pg2", 2<<20).change(func(v *view) { v.Policy.MaxLag = 1 << 20 }), "pg2", []string{"it lags by 2.0 MB, more than the 1.0 MB allowed"}},
		{"its position is unknown", healthy().member("pg2", func(m *patroni.Member) { m.LSN, m.ReplayLSN = 0, 0 }), "pg2", []string{"its position is not known"}},
		{"the leader's position is unknown", healthy().change(func(v *view) { v.Cluster.Status.LSN = 0 }).member("pg1", func(m *patroni.Member) { m.LSN = 0 }), "pg2",
			[]string{"the leader's position is not known, and so neither is its lag"}},
		{"it is tagged nobackup", healthy().tag("pg2", "nobackup", "true"), "pg2", []string{"it is tagged nobackup"}},
		{"the leader is tagged nobackup", healthy().tag("pg1", "nobackup", "true"), "pg1", []string{"it is tagged nobackup"}},
		{"it streams from a member that lags", healthy().tag("pg2", "replicatefrom", "pg3").lag("pg3", gib), "pg2", []string{"it streams from pg3, which lags by 1.0 GB"}},
		{"it streams from a member that is down", healthy().tag("pg2", "replicatefrom", "pg3").state("pg3", patroni.StateCrashed), "pg2", []string{"it streams from pg3, which is not running (state crashed)"}},
		{"policy keeps backups off the leader", healthy().change(func(v *view) { v.Policy.Leader = ha.LeaderNever }), "pg1", []string{"it leads, and policy leader: never keeps backups off the leader"}},
		{"policy wants the leader", healthy().change(func(v *view) { v.Policy.Leader = ha.LeaderOnly }), "pg2", []string{"it does not lead, and policy leader: only takes backups from the leader"}},
		{"its REST API is silent", healthy().confirm("pg2", ha.Confirmation{Err: errors.New("timeout")}), "pg2", []string{"its REST API does not answer: timeout"}},
		{"its REST API says it stopped", healthy().confirm("pg2", ha.Confirmation{State: patroni.StateStopped}), "pg2", []string{"its REST API says that it is not running (state stopped)"}},
		{"its REST API shows another database", healthy().confirm("pg2", ha.Confirmation{State: patroni.StateRunning, SystemID: 5}), "pg2",
			[]string{"it has system identifier 5, the cluster has 7301234567890123456"}},
		{"its REST API shows another timeline", healthy().confirm("pg2", ha.Confirmation{State: patroni.StateRunning, Timeline: 6}), "pg2", []string{"it is on timeline 6, the leader on 7"}},
		{"its REST API shows another role", healthy().confirm("pg2", ha.Confirmation{State: patroni.StateRunning, Role: patroni.RoleDemoted}), "pg2",
			[]string{"it says that its role is demoted, but does not hold the leader key"}},
		{"several at once", healthy().tag("pg2", "nobackup", "true").lag("pg2", gib).member("pg2", func(m *patroni.Member) { m.Timeline = 6 }), "pg2",
			[]string{"it is on timeline 6, the leader on 7", "it is tagged nobackup", "it lags by 1.0 GB, more than the 256.0 MB allowed"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := ha.Decide(tt.view.View)
			for _, c := range d.Candidates {
				if c.Member != tt.member {
					continue
				}
				if diff := cmp.Diff(tt.want, c.Against); diff != "" || c.Eligible {
					t.Errorf("eligible %v: %s", c.Eligible, diff)
				}
			}
			if d.Source == tt.member {
				t.Errorf("%s is the source", tt.member)
			}
			if got, want := d.Why(tt.member), tt.member+" is no source: "+strings.Join(tt.want, "; "); got != want {
				t.Errorf("why: %s", got)
			}
		})
	}
}

func TestAClusterThatHasNoSource(t *testing.T) {
	tests := []struct {
		name   string
		view   view
		reason string
	}{
		{"the DCS is down", healthy().change(func(v *view) { v.Err = dcs.ErrUnavailable }), "the cluster is unknown: DCS is unavailable"},
		{"there is no leader", healthy().change(func(v *view) { v.Cluster.Leader = "" }), "the cluster has no leader"},
		{"the leader has no member key", healthy().change(func(v *view) { v.Cluster.Leader = "pg9" }), "the leader pg9 has no member key"},
		{"the leader's timeline is unknown", healthy().member("pg1", func(m *patroni.Member) { m.Timeline, m.State, m.RawState = 0, patroni.StateStarting, "starting" }),
			"the timeline of the leader pg1 is not known (state starting)"},
		{"the leader was elected and is not yet promoted", healthy().member("pg1", func(m *patroni.Member) { m.Role = patroni.RoleReplica }),
			"the leader pg1 says that its role is replica: a failover is under way"},
		{"the leader says over REST that it was demoted", healthy().confirm("pg1", ha.Confirmation{Role: patroni.RoleDemoted, State: patroni.StateStopped}),
			"the leader pg1 says that its role is demoted: a failover is under way"},
		{"it is being bootstrapped", healthy().change(func(v *view) { v.Cluster.Init = patroni.Bootstrapping }), "the cluster is being bootstrapped"},
		{"there are no members", healthy().change(func(v *view) { v.Cluster.Members = nil }), "the leader pg1 has no member key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, demanded := range []string{"", "pg2"} {
				v := tt.view.View
				v.Policy.Member = demanded
				d := ha.Decide(v)
				want := tt.reason
				if demanded != "" && len(d.Candidates) == 0 && v.Err == nil {
					want = "pg2 is no member of the cluster"
				}
				if d.Source != "" || d.Reason != want {
					t.Errorf("source %q because %q", d.Source, d.Reason)
				}
				if len(d.Candidates) != len(v.Cluster.Members) && v.Err == nil {
					t.Errorf("%d candidates of %d members", len(d.Candidates), len(v.Cluster.Members))
				}
			}
		})
	}
}

func TestTheLeadersOwnWordCompletesItsKey(t *testing.T) {
	v := healthy().member("pg1", func(m *patroni.Member) { m.Timeline = 0 }).
		confirm("pg1", ha.Confirmation{Role: patroni.RolePrimary, State: patroni.StateRunning, Timeline: 7})
	if d := ha.Decide(v.View); d.Source != "pg2" {
		t.Errorf("source %q because %q", d.Source, d.Reason)
	}
}

func TestAMemberAskedForByName(t *testing.T) {
	ask := func(member string) func(*view) { return func(v *view) { v.Policy.Member = member } }
	tests := []struct {
		name, source, reason string
		view                 view
	}{
		{"is taken before better ones", "pg3", "pg3 was asked for", healthy().change(ask("pg3"))},
		{"is taken though it is the leader", "pg1", "pg1 was asked for", healthy().change(ask("pg1"))},
		{"is taken though it is tagged nobackup", "pg3", "pg3 was asked for", healthy().change(ask("pg3")).tag("pg3", "nobackup", "true")},
		{"is taken though it lags", "pg3", "pg3 was asked for", healthy().change(ask("pg3")).lag("pg3", gib)},
		{"is refused if it does not run", "", "pg3 was asked for, but its PostgreSQL is not running (state stopped)", healthy().change(ask("pg3")).state("pg3", patroni.StateStopped)},
		{"is refused on another timeline", "", "pg3 was asked for, but it is on timeline 6, the leader on 7", healthy().change(ask("pg3")).member("pg3", func(m *patroni.Member) { m.Timeline = 6 })},
		{"is refused if policy forbids the leader", "", "pg1 was asked for, but it leads, and policy leader: never keeps backups off the leader",
			healthy().change(ask("pg1")).change(func(v *view) { v.Policy.Leader = ha.LeaderNever })},
		{"is refused if there is no such member", "", "pg9 is no member of the cluster", healthy().change(ask("pg9"))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := ha.Decide(tt.view.View)
			if d.Source != tt.source || d.Reason != tt.reason {
				t.Errorf("source %q because %q, want %q because %q", d.Source, d.Reason, tt.source, tt.reason)
			}
		})
	}
}

func TestEveryNodeIsToldWhyItIsNotTheSource(t *testing.T) {
	d := ha.Decide(healthy().View)
	for member, want := range map[string]string{
		"pg2": "it is a synchronous standby, it lags by 0 B",
		"pg3": "the source is pg2: it is a synchronous standby, it lags by 0 B",
		"":    "the source is pg2: it is a synchronous standby, it lags by 0 B",
	} {
		if got := d.Why(member); got != want {
			t.Errorf("%q is told %q", member, got)
		}
	}
	if !d.IsSource("pg2") || d.IsSource("pg3") || (ha.Decision{}).IsSource("") {
		t.Error("IsSource is wrong")
	}
	if got := ha.Decide(healthy().change(func(v *view) { v.Cluster.Leader = "" }).View).Why("pg9"); got != "the cluster has no leader" {
		t.Errorf("without a source: %q", got)
	}
}

func TestADecisionHasStableJSON(t *testing.T) {
	got, err := json.Marshal(ha.Decide(healthy().state("pg3", patroni.StateCreatingReplica).View))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"source":"pg2","reason":"it is a synchronous standby, it lags by 0 B","candidates":[` +
		`{"member":"pg2","class":"sync_standby","eligible":true,"lag":0,"lag_known":true,"for":["it is a synchronous standby","it lags by 0 B"]},` +
		`{"member":"pg1","class":"leader","eligible":true,"lag":0,"lag_known":true,"for":["it is the leader"]},` +
		`{"member":"pg3","class":"replica","eligible":false,"lag":0,"lag_known":false,"for":["it is a replica"],"against":["it is being rebuilt (creating replica)"]}]}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestLeaderPolicies(t *testing.T) {
	for text, want := range map[string]ha.LeaderPolicy{"": ha.LeaderAllowed, "allow": ha.LeaderAllowed, "never": ha.LeaderNever, "only": ha.LeaderOnly} {
		got, err := ha.ParseLeaderPolicy(text)
		if err != nil || got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	if _, err := ha.ParseLeaderPolicy("maybe"); err == nil || err.Error() != `leader policy "maybe" is none of allow, never, only` {
		t.Errorf("error %v", err)
	}
}
