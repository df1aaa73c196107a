package e2e_test

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pgtest"
)

const receiver = "pgtender_receive" // application name and slot

// WAL streamed into the repository, through switchover and failover, and a
// restore after all hosts are gone for good.
func TestReceiveFollowsTheLeaderToItsEnd(t *testing.T) {
	t.Parallel()
	s := startSite(t, siteOptions{Options: lab.Options{Nodes: 3}})
	s.WaitSyncStandby()
	s.PatchConfig(map[string]any{"slots": map[string]any{receiver: map[string]any{"type": "physical"}}})
	first := s.Leader()
	waitFor(t, "Patroni to make the slot", func() bool { return hasSlot(t, s, first) })
	server(s, first).Exec(t, "CREATE TABLE acked (i int PRIMARY KEY)")
	s.backup(t)
	// Two receivers, of which one works; they outlive the nodes whose
	// configuration they use.
	for _, n := range s.Nodes[:2] {
		r := s.start(t, n, "receive", "--log-level", "debug")
		t.Cleanup(func() {
			r.cancel()
			r.cmd.Wait()
			if t.Failed() {
				t.Logf("the receiver of %s:\n%s", n.Name, r.stderr.String())
			}
		})
	}
	streams(t, s, first)

	next := s.WaitSyncStandby()
	s.Switchover(next)
	streams(t, s, next)
	server(s, next).Exec(t, "INSERT INTO acked VALUES (-1)")
	s.WaitStreaming(2)
	s.WaitSyncStandby()

	last := failOver(t, s, next)
	streams(t, s, last)
	server(s, last).Exec(t, "INSERT INTO acked VALUES (-2)")
	s.StartNode(next)
	s.WaitStreaming(2)
	s.WaitSyncStandby()
	for _, n := range s.Nodes {
		if strings.Contains(n.Log(5000), "Drop replication slot '"+receiver) || strings.Contains(n.Log(5000), "dropping replication slot "+receiver) {
			t.Errorf("%s: Patroni dropped the slot", n.Name)
		}
	}
	if !hasSlot(t, s, last) {
		t.Error("the leader has lost the slot")
	}

	w := write(t, server(s, last))
	time.Sleep(15 * time.Second) // under way; the load's length, not a wait
	killed := time.Now()
	for _, n := range s.Nodes {
		n.Kill()
	}
	acked := w.end()
	settles(t, s.repo.dir) // what the receiver still has goes out; nothing else tells its end

	for _, args := range [][]string{{"info"}, {"wal", "verify", "--deep"}} {
		if o := s.must(t, nil, append([]string{"-c", s.host(t)}, args...)...); !strings.Contains(o.stdout, "streamed to") {
			t.Errorf("the streamed end is not shown: %v", o)
		}
	}
	c := s.restore(t)
	c.Start(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	have := map[string]bool{}
	for _, row := range c.Query(t, "SELECT i FROM acked") {
		have[row[0]] = true
	}
	lost, newest := 0, time.Duration(0)
	for i, at := range acked {
		if have[strconv.Itoa(i)] {
			continue
		}
		lost++
		newest = max(newest, killed.Sub(at))
	}
	t.Logf("%d rows acknowledged, %d of them lost, the oldest of these %s before the kill", len(acked), lost, newest)
	// A part goes out each second; on a busy machine it comes later.
	if newest > 10*time.Second || len(acked) < 100 {
		t.Errorf("of %d rows a row is lost that was acknowledged %s before the kill", len(acked), newest)
	}
	if !have["-1"] || !have["-2"] {
		t.Error("rows of earlier timelines are missing")
	}
	c.AMCheck(t)
}

func hasSlot(t testing.TB, s *site, n *lab.Node) bool {
	t.Helper()
	return server(s, n).Value(t, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+receiver+"'") == "1"
}

// settles waits until nothing in a tree has changed for three seconds.
func settles(t *testing.T, dir string) {
	t.Helper()
	var last string
	since := time.Now()
	waitFor(t, dir+" to stay as it is", func() bool {
		now := sizes(t, dir)
		if now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
}

// sizes tells how large each file of a tree is.
func sizes(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // renamed, or removed, meanwhile
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err == nil {
			fmt.Fprintln(&all, path, info.Size())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// streams waits until the receiver streams from the leader, and fails the test
// if it counts as a synchronous standby.
func streams(t *testing.T, s *site, leader *lab.Node) {
	t.Helper()
	c := server(s, leader)
	waitFor(t, "the receiver to stream from "+leader.Name, func() bool {
		return c.Value(t, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = '"+receiver+"'") == "1"
	})
	rows := c.Query(t, "SELECT sync_state, flush_lsn FROM pg_stat_replication WHERE application_name = '"+receiver+"'")
	if len(rows) != 1 || rows[0][0] != "async" || rows[0][1] != "" {
		t.Errorf("the stream from %s is %v", leader.Name, rows)
	}
	if names := c.Value(t, "SHOW synchronous_standby_names"); strings.Contains(names, receiver) {
		t.Errorf("%s waits for %s", leader.Name, names)
	}
}

// writer commits one row after the other.
type writer struct {
	mu    sync.Mutex
	acked []time.Time // of row i, when it was acknowledged
	done  chan struct{}
}

func write(t testing.TB, c *pgtest.Cluster) *writer {
	t.Helper()
	conn := c.Connect(t)
	w := &writer{done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for i := 0; ; i++ {
			if _, err := conn.Query(t.Context(), fmt.Sprintf("INSERT INTO public.acked VALUES (%d)", i)); err != nil {
				return
			}
			w.mu.Lock()
			w.acked = append(w.acked, time.Now())
			w.mu.Unlock()
		}
	}()
	return w
}

// end gives when each row was acknowledged, once the server is gone.
func (w *writer) end() []time.Time {
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.acked)
}
