package ha_test

import (
	"time"

	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

const gib = 1 << 30

// view builds views: a healthy cluster of Patroni 4.1 on timeline 7, with the
// leader pg1, its synchronous standby pg2 and the replica pg3.
type view struct{ ha.View }

const leaderAt pg.LSN = 100 * gib

func healthy() view {
	v := view{ha.View{Self: "pg2", Now: time.Date(2026, 8, 1, 3, 0, 0, 0, time.UTC)}}
	v.Cluster = patroni.Cluster{
		Namespace: "service", Scope: "batman", Init: patroni.Initialized, SystemID: 7301234567890123456,
		Leader:  "pg1",
		Members: []patroni.Member{leader("pg1"), replica("pg2"), replica("pg3")},
		Sync:    patroni.Sync{Present: true, Leader: "pg1", Standbys: []string{"pg2"}, Valid: true},
		Status:  patroni.Status{LSN: leaderAt},
		Dynamic: patroni.Dynamic{Known: true, SynchronousMode: patroni.SyncOn},
		Timeline: patroni.Timelines{Known: true, Rows: []patroni.TimelineRow{
			{Parent: 5, Switch: 10, Leader: "pg3"}, {Parent: 6, Switch: 20, Leader: "pg1"},
		}},
	}
	return v
}

func leader(name string) patroni.Member {
	return patroni.Member{Name: name, Role: patroni.RolePrimary, State: patroni.StateRunning, RawState: "running",
		Timeline: 7, LSN: leaderAt, Version: "4.1.4"}
}

func replica(name string) patroni.Member {
	m := leader(name)
	m.Role, m.Replication, m.ReplayLSN = patroni.RoleReplica, patroni.Streaming, leaderAt
	return m
}

// member changes one member.
func (v view) member(name string, change func(*patroni.Member)) view {
	for i := range v.Cluster.Members {
		if v.Cluster.Members[i].Name == name {
			change(&v.Cluster.Members[i])
		}
	}
	return v
}

func (v view) tag(name, tag, value string) view {
	return v.member(name, func(m *patroni.Member) {
		if m.Tags == nil {
			m.Tags = patroni.Tags{}
		}
		m.Tags[tag] = value
	})
}

func (v view) lag(name string, bytes pg.LSN) view {
	return v.member(name, func(m *patroni.Member) { m.ReplayLSN = leaderAt - bytes })
}

func (v view) state(name string, s patroni.State) view {
	return v.member(name, func(m *patroni.Member) {
		m.State, m.RawState, m.Timeline, m.LSN, m.ReplayLSN, m.Replication = s, s.String(), 0, 0, 0, ""
	})
}

func (v view) change(change func(*view)) view {
	change(&v)
	return v
}

// confirm adds a member's own word to those of others that agree.
func (v view) confirm(name string, c ha.Confirmation) view {
	if v.Confirmed == nil {
		v.Confirmed = map[string]ha.Confirmation{}
	}
	v.Confirmed[name] = c
	return v
}
