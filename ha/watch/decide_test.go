package watch_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/ha/watch"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

const (
	gib         = 1 << 30
	leaderAt    = pg.LSN(100 * gib)
	forkedAt    = pg.LSN(90 * gib)
	fallenAt    = pg.LSN(80 * gib)
	longEnough  = time.Hour
	notYet      = time.Minute
	startMoment = "2026-08-01T03:00:00Z"
)

func moment() time.Time {
	t, err := time.Parse(time.RFC3339, startMoment)
	if err != nil {
		panic(err)
	}
	return t
}

// fallen is pg3 of a cluster on timeline 7 whose leader pg1 has recycled the
// WAL that pg3 needs; pg2 is the synchronous standby and streams.
func fallen() watch.Facts {
	member := func(name string, role patroni.Role) patroni.Member {
		return patroni.Member{Name: name, Role: role, State: patroni.StateRunning, RawState: "running",
			Timeline: 7, LSN: leaderAt, Version: "4.1.4"}
	}
	sync, behind := member("pg2", patroni.RoleReplica), member("pg3", patroni.RoleReplica)
	sync.Replication, sync.ReplayLSN = patroni.Streaming, leaderAt
	behind.Replication, behind.ReplayLSN = patroni.InArchiveRecovery, fallenAt
	return watch.Facts{
		View: ha.View{Self: "pg3", Now: moment(), Cluster: patroni.Cluster{
			Namespace: "service", Scope: "batman", Init: patroni.Initialized, Leader: "pg1",
			Members: []patroni.Member{member("pg1", patroni.RolePrimary), sync, behind},
			Sync:    patroni.Sync{Present: true, Leader: "pg1", Standbys: []string{"pg2"}, Valid: true},
			Status:  patroni.Status{LSN: leaderAt},
			Dynamic: patroni.Dynamic{Known: true, SynchronousMode: patroni.SyncOn},
			Timeline: patroni.Timelines{Known: true, Rows: []patroni.TimelineRow{
				{Parent: 1, Switch: 1 * gib}, {Parent: 2, Switch: 2 * gib}, {Parent: 3, Switch: 3 * gib},
				{Parent: 4, Switch: 4 * gib}, {Parent: 5, Switch: 5 * gib}, {Parent: 6, Switch: forkedAt, Leader: "pg1"},
			}},
		}},
		Position:  fallenAt,
		LeaderWAL: watch.HoldingNo,
	}
}

// member changes one member in place.
func member(f *watch.Facts, name string, change func(*patroni.Member)) {
	for i := range f.View.Cluster.Members {
		if f.View.Cluster.Members[i].Name == name {
			change(&f.View.Cluster.Members[i])
		}
	}
}

func TestDecide(t *testing.T) {
	rebuild := watch.Policy{Rebuild: true}
	tests := []struct {
		name   string
		change func(*watch.Facts)
		policy watch.Policy
		stood  time.Duration
		want   watch.Symptom
		acts   bool
		says   string // in the decision
	}{
		{name: "a replica whose WAL is gone is rebuilt", policy: rebuild, stood: longEnough, want: watch.LostWAL, acts: true, says: "recycled"},
		{name: "and only reported where that is all that is wanted", stood: longEnough, want: watch.LostWAL, says: "only wants it reported"},
		{name: "it gets time", policy: rebuild, stood: notYet, want: watch.Waiting},
		{name: "one that streams is well", change: func(f *watch.Facts) {
			member(f, "pg3", func(m *patroni.Member) { m.Replication = patroni.Streaming })
		}, policy: rebuild, stood: longEnough, want: watch.Well},
		{name: "one that has all there is is well", change: func(f *watch.Facts) {
			member(f, "pg3", func(m *patroni.Member) { m.ReplayLSN = leaderAt })
		}, policy: rebuild, stood: longEnough, want: watch.Well},
		{name: "the leader is well", change: func(f *watch.Facts) { f.View.Self = "pg1" }, policy: rebuild, stood: longEnough, want: watch.Well},
		{name: "one that stands still although the leader has its WAL is left alone", change: func(f *watch.Facts) {
			f.LeaderWAL = watch.HoldingYes
		}, policy: rebuild, stood: longEnough, want: watch.Stalled, says: "PostgreSQL's log"},
		{name: "and so is one of which that is not known", change: func(f *watch.Facts) {
			f.LeaderWAL = watch.HoldingUnknown
		}, policy: rebuild, stood: longEnough, want: watch.Stalled},
		{name: "one past the fork has diverged", change: func(f *watch.Facts) {
			member(f, "pg3", func(m *patroni.Member) { m.Timeline = 6 })
			f.Position, f.LeaderWAL = forkedAt+1, watch.HoldingYes
		}, policy: rebuild, stood: longEnough, want: watch.Diverged, acts: true, says: "left at"},
		{name: "one at the fork has not", change: func(f *watch.Facts) {
			member(f, "pg3", func(m *patroni.Member) { m.Timeline = 6 })
			f.Position, f.LeaderWAL = forkedAt, watch.HoldingYes
		}, policy: rebuild, stood: longEnough, want: watch.Stalled},
		{name: "one that hangs in starting is rebuilt", change: starting, policy: rebuild, stood: longEnough, want: watch.Hanging, acts: true},
		{name: "and given time before", change: starting, policy: rebuild, stood: 10 * time.Minute, want: watch.Waiting},
		{name: "one that crashed is Patroni's to mend", change: func(f *watch.Facts) {
			member(f, "pg3", func(m *patroni.Member) { m.State, m.RawState = patroni.StateCrashed, "crashed" })
		}, policy: rebuild, stood: longEnough, want: watch.Waiting, says: "Patroni's"},
		{name: "nothing is known while the DCS is down", change: func(f *watch.Facts) {
			f.View.Err = errors.New("no quorum")
		}, policy: rebuild, stood: longEnough, want: watch.Waiting, says: "no quorum"},
		{name: "nothing without a leader", change: func(f *watch.Facts) { f.View.Cluster.Leader = "" }, policy: rebuild, stood: longEnough, want: watch.Waiting},
		{name: "not in pause", change: func(f *watch.Facts) { f.View.Cluster.Dynamic.Pause = true }, policy: rebuild, stood: longEnough, want: watch.LostWAL, says: "paused"},
		{name: "not while a switchover is asked for", change: func(f *watch.Facts) {
			f.View.Cluster.Failover = patroni.Failover{From: "pg1", To: "pg2"}
		}, policy: rebuild, stood: longEnough, want: watch.LostWAL, says: "switchover"},
		{name: "not beside another rebuild", change: func(f *watch.Facts) {
			member(f, "pg2", func(m *patroni.Member) { m.State = patroni.StateCreatingReplica })
		}, policy: rebuild, stood: longEnough, want: watch.LostWAL, says: "pg2 is being rebuilt"},
		{name: "not the last synchronous standby", change: func(f *watch.Facts) {
			f.View.Cluster.Sync.Standbys = []string{"pg3"}
		}, policy: rebuild, stood: longEnough, want: watch.LostWAL, says: "last synchronous standby"},
		{name: "one of two synchronous standbys, if the other streams", change: func(f *watch.Facts) {
			f.View.Cluster.Sync.Standbys = []string{"pg2", "pg3"}
		}, policy: rebuild, stood: longEnough, want: watch.LostWAL, acts: true},
		{name: "not if the other does not", change: func(f *watch.Facts) {
			f.View.Cluster.Sync.Standbys = []string{"pg2", "pg3"}
			member(f, "pg2", func(m *patroni.Member) { m.Replication, m.ReplayLSN = "", fallenAt })
		}, policy: rebuild, stood: longEnough, want: watch.LostWAL, says: "last synchronous standby"},
		{name: "not twice in a while", change: func(f *watch.Facts) {
			f.Rebuilds = map[string]time.Time{"pg3": f.View.Now.Add(-5 * time.Hour)}
		}, policy: rebuild, stood: longEnough, want: watch.LostWAL, says: "rebuilt 5h"},
		{name: "again after a while", change: func(f *watch.Facts) {
			f.Rebuilds = map[string]time.Time{"pg3": f.View.Now.Add(-7 * time.Hour)}
		}, policy: rebuild, stood: longEnough, want: watch.LostWAL, acts: true},
		{name: "not right after another", change: func(f *watch.Facts) {
			f.Rebuilds = map[string]time.Time{"pg2": f.View.Now.Add(-time.Minute)}
		}, policy: rebuild, stood: longEnough, want: watch.LostWAL, says: "pg2 was rebuilt"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := fallen()
			if tt.change != nil {
				tt.change(&f)
			}
			trail := watch.Trail{}.Next(f)
			f.View.Now = f.View.Now.Add(tt.stood)
			// Rebuilds count from the later moment.
			for name, at := range f.Rebuilds {
				f.Rebuilds[name] = at.Add(tt.stood)
			}
			d := watch.Decide(f, trail.Next(f), tt.policy)
			if d.Symptom != tt.want || d.Rebuild != tt.acts || !strings.Contains(d.String(), tt.says) {
				t.Errorf("got %s, rebuild %t; want %s, rebuild %t, saying %q", d, d.Rebuild, tt.want, tt.acts, tt.says)
			}
		})
	}
}

func starting(f *watch.Facts) {
	member(f, "pg3", func(m *patroni.Member) {
		m.State, m.RawState = patroni.StateStarting, "starting"
		m.Timeline, m.LSN, m.ReplayLSN, m.Replication = 0, 0, 0, ""
	})
}

func TestTrailStartsAnew(t *testing.T) {
	tests := []struct {
		name   string
		change func(*watch.Facts)
	}{
		{"when the position moves", func(f *watch.Facts) { f.Position++ }},
		{"when recovery gets on otherwise", func(f *watch.Facts) { f.Progress = "recovering 00000007000000140000003A" }},
		{"when the state changes", starting},
		{"when the cluster could not be seen", func(f *watch.Facts) { f.View.Err = errors.New("timeout") }},
		{"when the member key is gone", func(f *watch.Facts) { f.View.Cluster.Members = f.View.Cluster.Members[:2] }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := fallen()
			trail := watch.Trail{}.Next(f)
			f.View.Now = f.View.Now.Add(longEnough)
			tt.change(&f)
			if got := trail.Next(f).Moved; !got.Equal(f.View.Now) {
				t.Errorf("it counts from %s, not from %s", got, f.View.Now)
			}
		})
	}
}

// A leader that has just changed makes everything wait, even where the member
// has stood still for long.
func TestNewLeader(t *testing.T) {
	f := fallen()
	trail := watch.Trail{}.Next(f)
	f.View.Now = f.View.Now.Add(longEnough)
	f.View.Cluster.Leader = "pg2"
	member(&f, "pg2", func(m *patroni.Member) { m.Role, m.Timeline = patroni.RolePrimary, 8 })
	member(&f, "pg1", func(m *patroni.Member) { m.Role = patroni.RoleReplica })
	trail = trail.Next(f)
	d := watch.Decide(f, trail, watch.Policy{Rebuild: true})
	if d.Rebuild || !strings.Contains(d.String(), "pg2 leads for less than") {
		t.Errorf("got %s", d)
	}
	f.View.Now = f.View.Now.Add(3 * time.Minute)
	if d := watch.Decide(f, trail.Next(f), watch.Policy{Rebuild: true}); !d.Rebuild {
		t.Errorf("and three minutes later: %s", d)
	}
}
