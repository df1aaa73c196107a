package e2e_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pg"
)

// startForgetful starts a cluster whose servers keep no WAL beyond what they
// must; Patroni takes no less than 16 MB of wal_keep_size.
func startForgetful(t *testing.T) *site {
	t.Helper()
	s := prepareSite(t, siteOptions{Archive: gated})
	for _, n := range s.Nodes {
		err := n.WriteConfig(func(c *lab.NodeConfig) {
			c.ClusterParameters = map[string]any{"wal_keep_size": "16MB", "min_wal_size": "32MB", "max_wal_size": "64MB"}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.up(t)
	return s
}

// agents are the daemons beside the members, by member.
type agents struct {
	*site
	running map[string]*running
}

// startAgents configures a socket for each member and runs its agent. settings
// are further lines of its section.
func startAgents(t *testing.T, s *site, settings string) *agents {
	t.Helper()
	a := &agents{site: s, running: map[string]*running{}}
	for _, n := range s.Nodes {
		a.start(t, n, settings)
	}
	for _, n := range s.Nodes {
		a.until(t, n, "WAL to be held", func(st agentStatus) bool { return st.Keeper.Slot != "" })
	}
	return a
}

func (a *agents) start(t *testing.T, n *lab.Node, settings string) {
	t.Helper()
	a.extra = fmt.Sprintf("agent:\n  socket: %s\n  interval: 1s\n%s", filepath.Join(n.Dir, "agent", "socket"), settings)
	a.configure(t, n)
	a.extra = ""
	a.running[n.Name] = a.site.start(t, n, "agent")
	t.Cleanup(func() { a.kill(n) })
}

// kill ends an agent like a power cut.
func (a *agents) kill(n *lab.Node) {
	if r := a.running[n.Name]; r != nil {
		r.cmd.Process.Kill()
		r.cmd.Wait() // it was killed
		r.cancel()
		delete(a.running, n.Name)
	}
}

func (a *agents) killAll() {
	for _, n := range a.Nodes {
		a.kill(n)
	}
}

// agentStatus is what agent status --json prints.
type agentStatus struct {
	Push struct {
		Archived, Answered int
		Error              string
	}
	Keeper struct {
		Slot                    string
		Missing, Late, Assisted int
		Error                   string
	}
}

// until waits for a state of a member's agent.
func (a *agents) until(t *testing.T, n *lab.Node, what string, ok func(agentStatus) bool) {
	t.Helper()
	var last outcome
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		var st agentStatus
		if last = a.run(t, n, "agent", "status", "--json"); last.code == 0 {
			a.query(t, n, &st, "agent", "status")
			if ok(st) {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("%s on %s: %v", what, n.Name, last)
		}
	}
}

// TestAgent: a leader that cannot archive dies and never comes back, while its
// standbys recycle WAL. With agents the archive has no hole, and WAL that a
// leader is late with is archived from a standby; without them the hole is named.
func TestAgent(t *testing.T) {
	t.Run("without agents the hole is named", func(t *testing.T) {
		t.Parallel()
		s := startForgetful(t)
		first, _ := s.dieUnarchived(t, nil)
		o := s.run(t, s.Leader(), "wal", "verify")
		if o.code != 1 || !strings.Contains(o.stdout, first) {
			t.Errorf("segment %s is lost: %v", first, o)
		}
	})
	t.Run("with agents there is none", func(t *testing.T) {
		t.Parallel()
		s := startForgetful(t)
		s.warns(t, 2)
		a := startAgents(t, s, "  grace: 1h\n")
		s.warns(t, 0)
		taken := s.backup(t)
		dead, _ := s.dieUnarchived(t, a)
		t.Logf("from %s on nothing had been archived", dead)
		o := s.run(t, s.Leader(), "wal", "verify")
		if o.code != 0 {
			t.Errorf("a hole: %v", o)
		}
		a.late(t)
		if o := s.run(t, s.Leader(), "wal", "verify", "--deep"); o.code != 0 {
			t.Errorf("a hole: %v", o)
		}
		want := mark(t, server(s, s.Leader()), "at the end")
		equalsAt(t, s, taken, want)
	})
}

// warns wants check to say of so many replicas that nothing makes them keep WAL.
func (s *site) warns(t *testing.T, replicas int) {
	t.Helper()
	o := s.run(t, s.Leader(), "check")
	if got := strings.Count(o.stdout, "nothing makes"); got != replicas || (replicas == 0) != strings.Contains(o.stdout, "every replica keeps WAL") {
		t.Errorf("check warns of %d replicas, want %d: %v", got, replicas, o)
	}
}

// dieUnarchived lets the leader die with segments that it had not archived and
// that checkpoints allow the standbys to recycle. It returns when the next leader
// has archived all it can, with the first of those segments and the last.
func (s *site) dieUnarchived(t *testing.T, a *agents) (first, last string) {
	t.Helper()
	s.WaitSyncStandby()
	leader := s.Leader()
	c := server(s, leader)
	c.Exec(t, "CREATE TABLE unarchived (i int, v text)")
	(&archived{site: s}).whole(t)
	s.closeGate(t, leader)
	for i := range 6 {
		c.Exec(t, fmt.Sprintf("INSERT INTO unarchived SELECT %d, md5(i::text) FROM generate_series(1, 1000) i", i))
		last = c.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
		if i == 0 {
			first = last
		}
	}
	// Patroni keeps slots of the members on every node, and moves them once in a
	// loop: each round lets go of a little more.
	for range 3 {
		c.Exec(t, "INSERT INTO unarchived VALUES (-1)", "CHECKPOINT")
		for _, n := range s.Nodes {
			if n != leader {
				server(s, n).CatchUp(t, c)
				slotsFollow(t, s, n, last)
				server(s, n).Exec(t, "CHECKPOINT")
			}
		}
	}
	if a != nil {
		a.kill(leader)
	}
	next := failOver(t, s, leader)
	end := server(s, next).Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	waitFor(t, "the next leader to archive "+end, func() bool {
		for _, w := range s.info(t, next).WAL {
			if w.OnHistory && w.Last >= end {
				return true
			}
		}
		return false
	})
	return first, last
}

// slotsFollow waits until none of Patroni's slots on a member holds a segment.
func slotsFollow(t *testing.T, s *site, n *lab.Node, segment string) {
	t.Helper()
	// pg_walfile_name works on a primary alone. Segments have 16 MB here.
	number, err := pg.ParseSegment(segment, pg.DefaultSegmentSize)
	if err != nil {
		t.Fatal(err)
	}
	server(s, n).WaitFor(t, fmt.Sprintf(`SELECT count(*) FROM pg_replication_slots
		WHERE slot_name !~ '^pgtender' AND restart_lsn < '%s'`, pg.DefaultSegmentSize.Start(number.Number)), "0")
}

// late lets a leader be late with its archiving: a standby's agent does it.
func (a *agents) late(t *testing.T) {
	t.Helper()
	leader := a.Leader()
	var standby *lab.Node
	for _, n := range a.Nodes {
		if n == leader || !n.Running() {
			continue
		}
		standby = n
		a.kill(n)
		a.start(t, n, "  grace: 2s\n")
	}
	a.kill(leader) // it would help its own archiver
	a.WaitStreaming(1)
	a.closeGate(t, leader)
	c := server(a.site, leader)
	var last string
	for range 3 {
		c.Exec(t, "INSERT INTO unarchived VALUES (-2)")
		last = c.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	}
	waitFor(t, standby.Name+" to archive "+last, func() bool {
		for _, w := range a.info(t, leader).WAL {
			if w.OnHistory && w.Last >= last {
				return true
			}
		}
		return false
	})
	a.until(t, standby, "segments to be counted", func(st agentStatus) bool { return st.Keeper.Assisted >= 3 && st.Keeper.Error == "" })
	openGate(t, leader)
}
