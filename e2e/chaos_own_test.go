package e2e_test

import (
	"encoding/json"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/e2e/lab"
)

// ownArchiver is pgtender.
type ownArchiver struct{ base infoBackup }

func (*ownArchiver) configure(*testing.T, *site, *lab.NodeConfig) {} // as in every site

func (a *ownArchiver) begin(t *testing.T, c *chaos) {
	t.Helper()
	a.base = c.backup(t)
	c.useMethod(t, map[string]any{"keep_data": true})
}

func (*ownArchiver) stored(t *testing.T, c *chaos) map[string]bool {
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

func (a *ownArchiver) settle(t *testing.T, c *chaos, _ *lab.Node, segment string) bool {
	t.Helper()
	waitFor(t, "segment "+segment+" to be archived", func() bool { return a.stored(t, c)[segment] })
	return true
}

// judge wants wal verify to say exactly what the repository's files say.
func (a *ownArchiver) judge(t *testing.T, c *chaos, leader *lab.Node, log, lacks []string, fresh bool) {
	t.Helper()
	o := c.run(t, leader, "wal", "verify", "--json")
	got := missingSegments(t, o, log)
	if !slices.Equal(got, lacks) || (o.code == 0) != (len(lacks) == 0) {
		t.Fatalf("the archive lacks %v, wal verify says %v: %v", lacks, got, o)
	}
	if c.mode.guaranteed && len(lacks) > 0 {
		t.Fatalf("the archive has holes: %v", lacks)
	}
	if fresh {
		// What comes before a hole leads nowhere any more. Who is to back up must
		// not change between one member's election and the next one's.
		c.giveUpStranded(t, leader)
		a.base = c.backup(t)
	}
}

// giveUpStranded waits for a synchronous standby. A member that has not replayed
// what is missing now will never be one: where nothing guarantees an archive
// without holes, it is removed, to be made anew from the next backup.
func (c *chaos) giveUpStranded(t *testing.T, leader *lab.Node) {
	t.Helper()
	stranded := func(n *lab.Node) bool {
		recent := n.Log(60)
		for name := range c.holes {
			if strings.Contains(recent, "requested WAL segment "+name+" has already been removed") {
				return true
			}
		}
		return false
	}
	given := false
	waitFor(t, "a synchronous standby", func() bool {
		if _, err := c.SyncStandby(t.Context()); err == nil {
			return true
		}
		for _, n := range c.Nodes {
			if c.mode.guaranteed || n == leader || !n.Running() || !stranded(n) {
				continue
			}
			t.Logf("%s cannot go on without what is missing", n.Name)
			c.die(n)
			if err := n.Wipe(); err != nil {
				t.Fatal(err)
			}
			c.Expire(n)
			given = true
		}
		return given
	})
	if !given {
		c.WaitSyncStandby()
	}
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

// end wants every acknowledged row to be there.
func (a *ownArchiver) end(t *testing.T, c *chaos, leader *lab.Node) {
	t.Helper()
	equalsAt(t, c.site, a.base, mark(t, server(c.site, leader), "the end"))
}
