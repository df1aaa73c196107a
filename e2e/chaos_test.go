package e2e_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pg"
)

// chaosMode is how the members of a cluster archive.
type chaosMode struct {
	name    string
	archive string // archive_mode
	agent   bool   // one runs on every member
	// guaranteed: whatever happens to one member at a time, no segment of the
	// surviving history is lost. Where it is not, each that is gets named.
	guaranteed bool
}

var chaosModes = []chaosMode{
	{name: "always", archive: "always", guaranteed: true},
	{name: "agent", archive: "on", agent: true, guaranteed: true},
	{name: "on", archive: "on"},
}

// TestChaos lets a few failovers happen while archiving is blocked or slow.
func TestChaos(t *testing.T) {
	t.Parallel()
	for _, mode := range chaosModes[:2] {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			chaosRounds(t, mode, 2)
		})
	}
}

// TestSoakChaos does it for as long as it takes to believe it: PGTENDER_ROUNDS
// failovers (default 200) in each mode. PGTENDER_SEED repeats a run.
func TestSoakChaos(t *testing.T) {
	if os.Getenv("PGTENDER_SOAK") == "" {
		t.Skip("PGTENDER_SOAK is not set")
	}
	for _, mode := range chaosModes {
		t.Run(mode.name, func(t *testing.T) { chaosRounds(t, mode, envNumber(t, "PGTENDER_ROUNDS", 200)) })
	}
}

func envNumber(t *testing.T, name string, or uint64) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return int(or)
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return int(n)
}

func chaosRounds(t *testing.T, mode chaosMode, rounds int) {
	seed := envNumber(t, "PGTENDER_SEED", rand.Uint64()>>1)
	t.Logf("PGTENDER_SEED=%d", seed)
	s := prepareSite(t, siteOptions{Archive: hindered})
	for _, n := range s.Nodes {
		err := n.WriteConfig(func(c *lab.NodeConfig) {
			c.Parameters = map[string]any{"archive_mode": mode.archive}
			// Nothing but archiving shall hold WAL back, or there is nothing to
			// lose. Patroni takes no less.
			c.ClusterParameters = map[string]any{"wal_keep_size": "16MB", "min_wal_size": "32MB", "max_wal_size": "64MB"}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	c := &chaos{site: s, mode: mode, random: rand.New(rand.NewPCG(uint64(seed), 2))}
	c.begin(t)
	for i := range rounds {
		if !t.Run(fmt.Sprintf("round %d", i), c.round) {
			return
		}
	}
	c.end(t)
}

// hindered lets a member's archiving be blocked or slowed.
func hindered(n *lab.Node, command string) string {
	return fmt.Sprintf("if test -e %s; then sleep 0.5; fi; %s", slow(n), gated(n, command))
}

func slow(n *lab.Node) string { return filepath.Join(n.Dir, "archiving-is-slow") }

// chaos is a cluster to which things happen.
type chaos struct {
	*site
	mode   chaosMode
	random *rand.Rand
	base   infoBackup
	commit int // rows acknowledged so far, numbered from 1
	holes  map[string]bool
	agents *agents // of the round
}

func (c *chaos) begin(t *testing.T) {
	c.up(t)
	c.WaitSyncStandby()
	server(c.site, c.Leader()).Exec(t, "CREATE TABLE ledger (i int PRIMARY KEY, filler text)")
	c.base = c.backup(t)
	c.useMethod(t, map[string]any{"keep_data": true})
	c.holes = map[string]bool{}
}

// round hinders archiving, writes WAL, takes a member away, lets it come back,
// and judges the archive.
func (c *chaos) round(t *testing.T) {
	leader := c.WaitLeader()
	c.WaitStreaming(2)
	c.WaitSyncStandby()
	if c.mode.agent {
		c.agents = startAgents(t, c.site, "  grace: 2s\n")
		defer c.agents.killAll()
	}
	hindrance := c.hinder(t, leader)
	c.write(t, leader)
	event := c.happen(t, leader)
	c.unhinder(t)
	leader = c.WaitLeader()
	c.archivedAll(t, leader)
	t.Logf("archiving %s, %s; %s leads", hindrance, event, leader.Name)
	c.judge(t, leader)
	for _, n := range c.Nodes {
		if !n.Running() {
			c.StartNode(n)
		}
	}
	c.WaitStreaming(2)
}

// hinder blocks or slows the archiving of some members.
func (c *chaos) hinder(t *testing.T, leader *lab.Node) string {
	block := func(n *lab.Node) { c.closeGate(t, n) }
	switch c.random.IntN(5) {
	case 0:
		return "as ever"
	case 1:
		if err := c.WriteFile(slow(leader), nil); err != nil {
			t.Fatal(err)
		}
		return "slow on " + leader.Name
	case 2:
		for _, n := range c.Nodes {
			block(n)
		}
		return "blocked everywhere"
	}
	block(leader)
	return "blocked on " + leader.Name
}

func (c *chaos) unhinder(t *testing.T) {
	t.Helper()
	for _, n := range c.Nodes {
		for _, path := range []string{gate(n), slow(n)} {
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}
}

// write commits rows in a number of WAL segments, with checkpoints between them
// that remove what nothing holds back.
func (c *chaos) write(t *testing.T, leader *lab.Node) {
	t.Helper()
	s := server(c.site, leader)
	for range 1 + c.random.IntN(6) {
		rows := 1 + c.random.IntN(200)
		s.Exec(t, fmt.Sprintf("INSERT INTO ledger SELECT %d + i, repeat(md5(i::text), 20) FROM generate_series(1, %d) i", c.commit, rows))
		c.commit += rows
		s.Value(t, "SELECT pg_switch_wal()")
	}
	for _, n := range c.Nodes {
		if n.Running() && c.random.IntN(2) == 0 {
			server(c.site, n).Exec(t, "CHECKPOINT")
		}
	}
}

// happen takes a member away, and says what was done.
func (c *chaos) happen(t *testing.T, leader *lab.Node) string {
	t.Helper()
	switch c.random.IntN(6) {
	case 0:
		next := c.WaitSyncStandby()
		c.Switchover(next)
		return "switchover to " + next.Name
	case 1:
		standby := c.WaitSyncStandby()
		c.die(standby)
		c.Expire(standby)
		c.WaitSyncStandby()
		return standby.Name + " killed, a standby"
	case 2, 3:
		c.die(leader)
		failOver(t, c.site, leader)
		if err := leader.Wipe(); err != nil {
			t.Fatal(err)
		}
		return leader.Name + " gone for good, the leader"
	}
	c.die(leader)
	failOver(t, c.site, leader)
	return leader.Name + " killed, the leader"
}

// die kills all of a member, its agent too.
func (c *chaos) die(n *lab.Node) {
	n.Kill()
	if c.agents != nil {
		c.agents.kill(n)
	}
}

// archivedAll waits until the archive has what the leader has written so far.
func (c *chaos) archivedAll(t *testing.T, leader *lab.Node) {
	t.Helper()
	last := server(c.site, leader).Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	waitFor(t, "segment "+last+" to be archived", func() bool { return c.stored(t)[last] })
}

// stored gives the names of all segments in the repository, by its files.
func (c *chaos) stored(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	err := filepath.WalkDir(c.repo.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && len(d.Name()) == 24 && strings.Contains(path, "/wal/") {
			out[d.Name()] = true
		}
		return nil // files come and go
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// judge compares what wal verify says with what the files of the repository and
// the leader's own history file say.
func (c *chaos) judge(t *testing.T, leader *lab.Node) {
	t.Helper()
	log, stored := c.log(t, leader), c.stored(t)
	for len(log) > 0 && !stored[log[0]] {
		log = log[1:] // from before the first backup
	}
	for len(log) > 0 && !stored[log[len(log)-1]] {
		log = log[:len(log)-1] // not archived yet
	}
	want := slices.DeleteFunc(slices.Clone(log), func(name string) bool { return stored[name] })
	o := c.run(t, leader, "wal", "verify", "--json")
	got := missingSegments(t, o, log)
	if !slices.Equal(got, want) || (o.code == 0) != (len(want) == 0) {
		t.Fatalf("the archive lacks %v, wal verify says %v: %v", want, got, o)
	}
	if c.mode.guaranteed && len(want) > 0 {
		t.Fatalf("the archive has holes: %v", want)
	}
	fresh := false
	for _, name := range want {
		fresh = fresh || !c.holes[name]
		c.holes[name] = true
	}
	if fresh {
		// What comes before a hole leads nowhere any more.
		c.base = c.backup(t)
	}
}

// log names the segments that make up the leader's history, from the first one
// to the last that is complete, as its history file has it.
func (c *chaos) log(t *testing.T, leader *lab.Node) []string {
	t.Helper()
	const size = pg.SegmentSize(16 << 20)
	last, err := pg.ParseSegment(server(c.site, leader).Value(t, "SELECT pg_walfile_name(pg_current_wal_lsn())"), size)
	if err != nil {
		t.Fatal(err)
	}
	history := pg.FirstTimeline()
	if last.Timeline > 1 {
		content, err := os.ReadFile(filepath.Join(leader.DataDir, "pg_wal", fmt.Sprintf("%08X.history", uint32(last.Timeline))))
		if err == nil {
			history, err = pg.ParseHistory(last.Timeline, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var out []string
	for n := pg.SegmentNumber(1); n < last.Number; n++ {
		// A segment in which timelines follow each other counts on the newest
		// (xlogrecovery.c, XLogFileReadAnyTLI).
		g := pg.Segment{Timeline: history.TimelineAt(size.Start(n+1) - 1), Number: n}
		out = append(out, g.Name(size))
	}
	return out
}

// missingSegments are those that wal verify reports, by their place in log.
func missingSegments(t *testing.T, o outcome, log []string) []string {
	t.Helper()
	var verdict struct {
		Faults []struct{ Kind, First, Last string }
	}
	if err := json.Unmarshal([]byte(o.stdout), &verdict); err != nil {
		t.Fatalf("%v\n%v", err, o)
	}
	var out []string
	for _, f := range verdict.Faults {
		first, last := slices.Index(log, f.First), slices.Index(log, f.Last)
		if f.Kind != "missing" || first < 0 || last < first {
			t.Errorf("wal verify reports %+v, which is no gap in %v", f, log)
			continue
		}
		out = append(out, log[first:last+1]...)
	}
	return out
}

// end restores to the end of what survived, by a server that knows nothing of
// the cluster: every acknowledged row must be there.
func (c *chaos) end(t *testing.T) {
	t.Helper()
	leader := c.WaitLeader()
	c.WaitStreaming(2)
	primary := server(c.site, leader)
	query := "SELECT count(*) || ' rows up to ' || coalesce(max(i), 0) FROM ledger"
	want := fmt.Sprintf("%d rows up to %d", c.commit, c.commit)
	if got := primary.Value(t, query); got != want {
		t.Errorf("the leader has %s, want %s", got, want)
	}
	content := mark(t, primary, "the end")
	equalsAt(t, c.site, c.base, content)
	t.Logf("%d rows, %d segments in holes", c.commit, len(c.holes))
}
