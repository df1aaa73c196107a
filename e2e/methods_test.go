package e2e_test

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/e2e/lab"
)

// Members are rebuilt through Patroni with each way of configuring the method,
// on both ends of the supported range of Patroni. Each must stream from the
// leader afterwards and have what the leader has.
func TestReplicaMethods(t *testing.T) {
	for _, patroni := range []string{"3.0", "4.1"} {
		t.Run("Patroni "+patroni, func(t *testing.T) {
			t.Parallel()
			s := startSite(t, siteOptions{Options: lab.Options{Patroni: patroni, Nodes: 2}})
			leader, replica := s.Leader(), s.WaitSyncStandby()
			primary := server(s, leader)
			primary.EnableAMCheck(t)
			primary.PgbenchInit(t, 1)
			m := &methods{site: s, leader: leader, replica: replica}
			t.Run("nothing to restore", m.nothingToRestore)
			s.backup(t)
			m.rebuild(t, "with Patroni's arguments", nil, m.wiped)
			m.rebuild(t, "without arguments", map[string]any{"no_params": true}, m.wiped)
			m.rebuild(t, "over the old data, by reinit", nil, m.reinit)
			m.rebuild(t, "over the old data that it is handed, by reinit", map[string]any{"keep_data": true}, m.reinit)
			m.rebuild(t, "over the old data that it is handed, without arguments", map[string]any{"keep_data": true, "no_params": true}, m.reinit)
			m.rebuild(t, "with options of other tools", map[string]any{"keep_data": true, "some_option": "its value", "no_master": 1}, m.wiped)
			m.rebuild(t, "without a leader", map[string]any{"no_leader": true}, m.leaderless)
		})
	}
}

// methods is the site of TestReplicaMethods. rows makes each rebuild's content
// different from the one before.
type methods struct {
	*site
	leader, replica *lab.Node
	rows            int
}

func (m *methods) rebuild(t *testing.T, name string, options map[string]any, how func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		m.useMethod(t, options)
		m.rows++
		server(m.site, m.leader).Exec(t, fmt.Sprintf("CREATE TABLE rebuild_%d AS SELECT generate_series(1, 2000) AS i", m.rows))
		before := clones(m.replica)
		how(t)
		m.WaitStreaming(1)
		if clones(m.replica) != before+1 {
			t.Errorf("Patroni's log tells of %d clones by pgtender, then of %d", before, clones(m.replica))
		}
		m.leader = m.Leader()
		sameContent(t, m.site, m.leader, m.replica)
		m.WaitSyncStandby()
	})
}

// clones counts how often Patroni has had a member made by pgtender.
func clones(n *lab.Node) int {
	return strings.Count(n.Log(1<<20), "replica has been created using pgtender")
}

func (m *methods) wiped(t *testing.T) {
	m.replica.Kill()
	m.Wipe(m.replica)
	m.StartNode(m.replica)
}

func (m *methods) reinit(t *testing.T) { m.Reinit(m.replica) }

// leaderless lets the member be made while nobody leads: the whole cluster is
// down, and the wiped member comes first.
func (m *methods) leaderless(t *testing.T) {
	m.StopNode(m.replica)
	m.leader.Kill()
	m.Wipe(m.replica)
	for _, key := range []string{"leader", "members/" + m.leader.Name, "members/" + m.replica.Name} {
		if err := m.DCS.Delete(t.Context(), path.Join("service", m.Scope, key)); err != nil {
			t.Fatal(err)
		}
	}
	before := clones(m.replica)
	m.StartNode(m.replica)
	waitFor(t, "the member to be made without a leader", func() bool { return clones(m.replica) > before })
	m.StartNode(m.leader)
	m.WaitLeader()
}

// nothingToRestore wants pgtender to give way at once to the next method, and
// to say why, where there is no backup.
func (m *methods) nothingToRestore(t *testing.T) {
	m.replica.Kill()
	m.Wipe(m.replica)
	m.refused(t, m.replica, []string{"create-replica", "--scope=" + m.Scope, "--role=replica",
		"--datadir=" + m.replica.DataDir, "--connstring=host=127.0.0.1 user=nobody"}, "backup", "hint: ")
	if exists(filepath.Join(m.replica.DataDir, "PG_VERSION")) {
		t.Error("something was put into the data directory")
	}
	m.StartNode(m.replica)
	m.WaitStreaming(1)
	m.WaitSyncStandby()
}
