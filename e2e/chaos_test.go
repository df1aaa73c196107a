package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/soak"
)

// chaosMode is how the members of a cluster archive.
type chaosMode struct {
	name    string
	archive string // archive_mode
	agent   bool   // one runs on every member
	// guaranteed: whatever happens to one member at a time, no segment of the
	// surviving history is lost. Where it is not, each that is gets named.
	guaranteed bool
	// other makes the archiver; pgtender if nil. It skips the test where what it
	// needs is not installed.
	other func(t *testing.T, part int) archiver
}

var chaosModes = []chaosMode{
	{name: "always", archive: "always", guaranteed: true},
	{name: "agent", archive: "on", agent: true, guaranteed: true},
	{name: "on", archive: "on"},
	{name: "pgbackrest", archive: "on", other: newBackrest},
}

// TestChaos lets a few failovers happen while archiving is blocked or slow.
func TestChaos(t *testing.T) {
	t.Parallel()
	for _, mode := range chaosModes[:2] {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			newChaos(t, mode, 0, envNumber(t, "PGTENDER_SEED", rand.Uint64()>>1)).rounds(t, 2)
		})
	}
}

// chaosPart is how many rounds one cluster goes through in a soak, before it is
// restored from its archive and the next is made.
const chaosPart = 20

// TestSoakChaos does it for as long as it takes to believe it: PGTENDER_FAILOVERS
// failovers (default 200) in each mode, switchovers and killed standbys not
// counted. The parts are numbered, and those that have passed are remembered with
// what happened in them: see package soak. PGTENDER_SEED repeats what happened in
// the part of that number.
func TestSoakChaos(t *testing.T) {
	soak.Skip(t)
	passed := soak.Open(t, "chaos-soak")
	enough := envNumber(t, "PGTENDER_FAILOVERS", 200)
	for _, mode := range chaosModes {
		t.Run(mode.name, func(t *testing.T) {
			prefix := mode.name + "-"
			for part := 0; passed.Total(prefix)["failovers"] < enough; part++ {
				name := prefix + strconv.Itoa(part)
				if passed.Passed(name) {
					continue
				}
				t.Run(fmt.Sprintf("part %d", part), func(t *testing.T) {
					c := newChaos(t, mode, part, envNumber(t, "PGTENDER_SEED", uint64(part)))
					if c.rounds(t, chaosPart); !t.Failed() && !t.Skipped() {
						passed.Note(t, name, c.tally)
					}
				})
				if !passed.Passed(name) {
					return
				}
			}
			t.Logf("%s: %v", mode.name, passed.Total(prefix))
		})
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

// newChaos prepares a cluster. Its part in a soak may say what its archiver does
// differently; what happens to it follows from the seed.
func newChaos(t *testing.T, mode chaosMode, part, seed int) *chaos {
	t.Helper()
	t.Logf("PGTENDER_SEED=%d", seed)
	c := &chaos{
		mode: mode, random: rand.New(rand.NewPCG(uint64(seed), 2)),
		holes: map[string]bool{}, tally: soak.Tally{}, archiver: &ownArchiver{},
	}
	if mode.other != nil {
		c.archiver = mode.other(t, part)
	}
	c.site = prepareSite(t, siteOptions{})
	for _, n := range c.Nodes {
		err := n.WriteConfig(func(conf *lab.NodeConfig) {
			c.archiver.configure(t, c.site, conf)
			conf.ArchiveCommand = hindered(n, conf.ArchiveCommand)
			conf.Parameters = map[string]any{"archive_mode": mode.archive}
			// Nothing but archiving shall hold WAL back, or there is nothing to
			// lose. Patroni takes no less.
			conf.ClusterParameters = map[string]any{"wal_keep_size": "16MB", "min_wal_size": "32MB", "max_wal_size": "64MB"}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *chaos) rounds(t *testing.T, count int) {
	c.begin(t)
	for i := range count {
		if !t.Run(fmt.Sprintf("round %d", i), c.round) || c.over {
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

// archiver is who archives for a cluster in chaos, and how it is judged.
type archiver interface {
	// configure sets the commands of a member.
	configure(t *testing.T, s *site, c *lab.NodeConfig)
	// begin makes a first backup of the running cluster.
	begin(t *testing.T, c *chaos)
	// stored gives the names of all segments in the repository, by its files.
	stored(t *testing.T, c *chaos) map[string]bool
	// settle waits until the repository has a segment of the leader's and all
	// before it that it is to get, and reports whether it will have.
	settle(t *testing.T, c *chaos, leader *lab.Node, segment string) bool
	// judge compares what the archiver's own commands say with which segments of
	// log, the leader's history, the repository lacks. fresh: some are new.
	judge(t *testing.T, c *chaos, leader *lab.Node, log, lacks []string, fresh bool)
	// end restores to the end of what survived, by a server that knows nothing of
	// the cluster.
	end(t *testing.T, c *chaos, leader *lab.Node)
}

// chaos is a cluster to which things happen.
type chaos struct {
	*site
	mode     chaosMode
	archiver archiver
	random   *rand.Rand
	commit   int // rows acknowledged so far, numbered from 1
	holes    map[string]bool
	tally    soak.Tally // of what happened
	over     bool       // the archiver has given up for good
	agents   *agents    // of the round
}

func (c *chaos) begin(t *testing.T) {
	c.up(t)
	c.WaitSyncStandby()
	server(c.site, c.Leader()).Exec(t, "CREATE TABLE ledger (i int PRIMARY KEY, filler text)")
	c.archiver.begin(t, c)
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
	c.tally["events"]++
	c.judge(t, leader)
	if c.over {
		return
	}
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
		c.tally["switchovers"]++
		return "switchover to " + next.Name
	case 1:
		standby := c.WaitSyncStandby()
		c.die(standby)
		c.Expire(standby)
		c.WaitSyncStandby()
		c.tally["standbys"]++
		return standby.Name + " killed, a standby"
	case 2, 3:
		c.loseLeader(t, leader)
		if err := leader.Wipe(); err != nil {
			t.Fatal(err)
		}
		return leader.Name + " gone for good, the leader"
	}
	c.loseLeader(t, leader)
	return leader.Name + " killed, the leader"
}

func (c *chaos) loseLeader(t *testing.T, leader *lab.Node) {
	t.Helper()
	c.die(leader)
	failOver(t, c.site, leader)
	c.tally["failovers"]++
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
	c.over = !c.archiver.settle(t, c, leader, last)
}

// judge finds what the archive lacks of the leader's own history, and whether its
// keeper says so.
func (c *chaos) judge(t *testing.T, leader *lab.Node) {
	t.Helper()
	log, stored := c.log(t, leader), c.archiver.stored(t, c)
	for len(log) > 0 && !stored[log[0]] {
		log = log[1:] // from before the first backup
	}
	for len(log) > 0 && !stored[log[len(log)-1]] {
		log = log[:len(log)-1] // not archived yet
	}
	lacks := slices.DeleteFunc(slices.Clone(log), func(name string) bool { return stored[name] })
	fresh := false
	for _, name := range lacks {
		fresh = fresh || !c.holes[name]
		c.holes[name] = true
	}
	c.archiver.judge(t, c, leader, log, lacks, fresh)
}

// end restores what survived, and adds up what happened.
func (c *chaos) end(t *testing.T) {
	t.Helper()
	leader := c.WaitLeader()
	c.WaitStreaming(2)
	if got, want := ledger(t, server(c.site, leader)), fmt.Sprintf("%d rows up to %d", c.commit, c.commit); got != want {
		t.Errorf("the leader has %s, want %s", got, want)
	}
	c.archiver.end(t, c, leader)
	log := c.log(t, leader)
	last, err := pg.ParseSegment(log[len(log)-1], chaosSegment)
	if err != nil {
		t.Fatal(err)
	}
	c.tally.Add(soak.Tally{"segments": len(log), "timelines": int(last.Timeline), "missing": len(c.holes), "rows": c.commit, "restores": 1})
	t.Logf("%v", c.tally)
}

func ledger(t testing.TB, c *pgtest.Cluster) string {
	t.Helper()
	return c.Value(t, "SELECT count(*) || ' rows up to ' || coalesce(max(i), 0) FROM ledger")
}

const chaosSegment = pg.SegmentSize(16 << 20)

// log names the segments that make up the leader's history, from the first one
// to the last that is complete, as its history file has it.
func (c *chaos) log(t *testing.T, leader *lab.Node) []string {
	t.Helper()
	const size = chaosSegment
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
