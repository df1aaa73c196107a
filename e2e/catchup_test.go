package e2e_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/e2e/lab"
)

// A former leader that died with WAL nobody else has comes back through Patroni,
// by itself and when asked, and a replica that fell behind the leader's WAL does,
// each in place. The leader is asked for not one page of data.
func TestCatchup(t *testing.T) {
	for _, o := range []lab.Options{
		{Patroni: "4.1", DCS: "etcd", Major: 17, Nodes: 2, Synchronous: "off"},
		{Patroni: "3.0", DCS: "consul", Nodes: 2, Synchronous: "off"},
	} {
		t.Run("Patroni "+o.Patroni+" with "+o.DCS, func(t *testing.T) {
			t.Parallel()
			s := startSite(t, siteOptions{Options: o})
			// What is lost is more than Patroni allows by default.
			s.PatchConfig(map[string]any{"maximum_lag_on_failover": 1 << 30, "postgresql": map[string]any{
				"use_pg_rewind": false, "parameters": map[string]any{"log_replication_commands": "on"},
			}})
			s.useMethod(t, map[string]any{"keep_data": true, "audit": true})
			primary := server(s, s.Leader())
			primary.EnableAMCheck(t)
			primary.Exec(t, "CREATE TABLE plain WITH (autovacuum_enabled = off) AS SELECT i, repeat(md5(i::text), 8) AS pad FROM generate_series(1, 100000) AS i", "CREATE INDEX ON plain (i)")
			s.backup(t)
			c := &catchups{site: s}
			t.Run("a former leader, by itself", c.formerLeader)
			t.Run("a replica that is asked to", c.asked)
			t.Run("a replica whose WAL is gone", c.behind)
		})
	}
}

type catchups struct{ *site }

// formerLeader kills the leader while the replica does not hear of its last
// commits.
func (c *catchups) formerLeader(t *testing.T) {
	leader, replica := c.Leader(), c.other(c.Leader())
	replica.Signal(syscall.SIGSTOP)
	// More than what the sockets on the way hold.
	c.SQL(leader, "UPDATE plain SET pad = 'lost' WHERE i % 5 = 1; SELECT pg_switch_wal(); CREATE TABLE lost AS SELECT repeat('x', 500) FROM generate_series(1, 100000)")
	leader.Kill()
	replica.Signal(syscall.SIGCONT)
	c.Expire(leader)
	c.WaitLeader()
	on := server(c.site, replica)
	if got := on.Value(t, "SELECT count(*) FROM pg_class WHERE relname = 'lost'"); got != "0" {
		t.Fatal("nothing was lost")
	}
	on.Exec(t, "UPDATE plain SET pad = 'new' WHERE i % 7 = 2", "CHECKPOINT")
	// The DCS takes a moment to show the new leader as one.
	waitFor(t, "a backup of the new leader", func() bool { return c.run(t, replica, "backup", "--elect", "--json").stdout != "" })
	on.Exec(t, "DELETE FROM plain WHERE i % 11 = 3")
	pages := c.pagesRead(t, replica)
	c.StartNode(leader)
	c.noticed(t, leader, replica)
	c.returned(t, leader, catchup.ByMaps, pages)
	if saved, err := filepath.Glob(filepath.Join(catchup.SavedWAL(leader.DataDir), "*")); err != nil || len(saved) == 0 {
		t.Errorf("WAL that only the old leader had was not kept: %v", err)
	}
	if !strings.Contains(leader.Log(1<<20), "what only this member has is given up") {
		t.Error("what was lost is not told")
	}
}

// noticed waits until Patroni sees that a former leader has diverged. Patroni 3.0
// asks the server for its timeline; where WAL was streamed already, past the place
// at which replay is stuck, the server names the leader's, and Patroni is content
// for ever. Then somebody has to ask.
func (c *catchups) noticed(t *testing.T, former, now *lab.Node) {
	t.Helper()
	content := fmt.Sprintf("no action. I am (%s), a secondary", former.Name)
	before := strings.Count(former.Log(1<<20), content)
	asked := false
	waitFor(t, "Patroni to notice that "+former.Name+" has diverged", func() bool {
		log := former.Log(1 << 20)
		if strings.Contains(log, "diverged timelines") || ways(former, catchup.ByMaps) > 0 {
			return true
		}
		asked = strings.Count(log, content) >= before+5
		return asked
	})
	if asked {
		t.Logf("Patroni does not notice that %s has diverged", former.Name)
		c.must(t, now, "catchup", "--member", former.Name)
	}
}

// asked has a replica rebuilt that lacks nothing: nothing is fetched.
func (c *catchups) asked(t *testing.T) {
	replica := c.other(c.Leader())
	pages := c.pagesRead(t, c.Leader())
	out := c.must(t, c.Leader(), "catchup", "--member", replica.Name, "--json")
	var done struct{ Member, State string }
	if err := json.Unmarshal([]byte(out.stdout), &done); err != nil || done.Member != replica.Name || done.State != "streaming" {
		t.Errorf("it says %q (%v)", out.stdout, err)
	}
	c.returned(t, replica, catchup.ByReplay, pages)
}

// behind stops a replica until neither the leader nor the archive has the WAL
// that it would need.
func (c *catchups) behind(t *testing.T) {
	leader := c.Leader()
	replica := c.other(leader)
	c.StopNode(replica)
	c.Expire(replica)
	on := server(c.site, leader)
	on.Exec(t, "UPDATE plain SET pad = 'later' WHERE i % 13 = 5", "SELECT pg_switch_wal()", "UPDATE plain SET pad = 'later' WHERE i % 13 = 6", "SELECT pg_switch_wal()", "CHECKPOINT")
	c.backup(t)
	on.Exec(t, "UPDATE plain SET pad = 'latest' WHERE i % 17 = 5", "SELECT pg_switch_wal()")
	plan := c.must(t, replica, "catchup", "--plan")
	if !strings.Contains(plan.stdout, string(catchup.ByMaps)) || !strings.Contains(plan.stdout, string(catchup.FullRestore)) {
		t.Errorf("the plan is %s", plan.stdout)
	}
	c.refused(t, leader, []string{"catchup"}, "leads the cluster", "hint: ")
	done := c.must(t, replica, "catchup", "--way", "maps", "--json")
	var result struct {
		Result struct {
			Rung  catchup.RungName `json:"rung"`
			Bytes int64            `json:"bytes"`
		} `json:"result"`
		Plan struct {
			Backup struct {
				Bytes int64 `json:"bytes"`
			} `json:"backup"`
		} `json:"plan"`
	}
	if err := json.Unmarshal([]byte(done.stdout), &result); err != nil {
		t.Fatalf("%v: %s", err, done.stdout)
	}
	if r := result.Result; r.Rung != catchup.ByMaps || r.Bytes == 0 || r.Bytes > result.Plan.Backup.Bytes*3/4 {
		t.Errorf("%q wrote %d of %d bytes", r.Rung, r.Bytes, result.Plan.Backup.Bytes)
	}
	c.StartNode(replica)
	c.WaitStreaming(1)
	sameContent(t, c.site, leader, replica)
	c.refused(t, replica, []string{"catchup"}, "Patroni runs on this member", "hint: ")
}

// returned waits until a member streams, and checks how it was brought back.
func (c *catchups) returned(t *testing.T, n *lab.Node, way catchup.RungName, pages int64) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("what %s says of it:\n%s", n.Name, complaints(n))
		}
	}()
	waitFor(t, n.Name+" to be brought back", func() bool { return ways(n, way) > 0 })
	c.WaitStreaming(1)
	leader := c.Leader()
	if read := c.pagesRead(t, leader); read != pages {
		t.Errorf("%d pages of tables were read from the leader", read-pages)
	}
	switch log := leader.Log(1 << 20); {
	case strings.Contains(log, "received replication command: BASE_BACKUP"):
		t.Error("the leader was copied")
	case !strings.Contains(log, "received replication command: IDENTIFY_SYSTEM"):
		t.Error("the leader's log does not tell what was asked of it")
	}
	sameContent(t, c.site, leader, n)
}

// complaints gives what our own programs logged on a member at level warn and
// error, which the end of its log alone rarely has.
func complaints(n *lab.Node) string {
	var lines []string
	for line := range strings.Lines(n.Log(1 << 20)) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-30):], "")
}

// ways counts how often the member's log tells that it was brought back in a way.
func ways(n *lab.Node, way catchup.RungName) int {
	log := n.Log(1 << 20)
	if way == catchup.ByReplay {
		return strings.Count(log, "replica has been created using pgtender")
	}
	return strings.Count(log, fmt.Sprintf("msg=\"replica restored\" way=%q", string(way)))
}

// pagesRead counts the pages of user tables and their indexes that the server's
// sessions have looked at, from disk or from memory.
func (c *catchups) pagesRead(t *testing.T, n *lab.Node) int64 {
	t.Helper()
	got := server(c.site, n).Value(t, `SELECT coalesce(sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read + idx_blks_hit, 0) + coalesce(toast_blks_read + toast_blks_hit, 0)), 0) FROM pg_statio_user_tables`)
	count, err := strconv.ParseInt(regexp.MustCompile(`\d+`).FindString(got), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// other gives the node that is not this one.
func (c *catchups) other(n *lab.Node) *lab.Node {
	for _, o := range c.Nodes {
		if o != n {
			return o
		}
	}
	return nil
}
