package e2e_test

import (
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/soak"
)

// backrest is pgBackRest, for the contrast: nothing that it does or says fails
// the test, it is counted. Odd parts of a soak archive asynchronously.
type backrest struct {
	program, repository string
	async               bool
}

func newBackrest(t *testing.T, part int) archiver {
	t.Helper()
	program, err := exec.LookPath("pgbackrest")
	if err != nil {
		t.Skip("pgbackrest is not installed")
	}
	version, err := exec.CommandContext(t.Context(), program, "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	b := &backrest{program: program, repository: pgtest.Dir(t), async: part%2 == 1}
	t.Logf("%s, archive-async=%v", strings.TrimSpace(string(version)), b.async)
	return b
}

func (b *backrest) configure(t *testing.T, s *site, c *lab.NodeConfig) {
	t.Helper()
	command := b.config(t, s, c.Node.Dir, c.Node.DataDir, fmt.Sprintf("pg1-socket-path=%s\npg1-port=%d\npg1-user=postgres\n", c.Node.Dir, c.Node.Port))
	c.ArchiveCommand = strings.Join(append(command, "archive-push %p"), " ")
	c.RestoreCommand = strings.Join(append(command, "archive-get %f %p"), " ")
}

// config writes a configuration into a folder, and gives the words that a command
// line with it begins with.
func (b *backrest) config(t *testing.T, s *site, dir, dataDir, more string) []string {
	t.Helper()
	async := "n"
	if b.async {
		async = "y"
	}
	path := filepath.Join(dir, "pgbackrest.conf")
	err := s.WriteFile(path, fmt.Appendf(nil, `[global]
repo1-path=%s
repo1-retention-full=1000
start-fast=y
archive-async=%s
log-level-file=off
log-path=%[3]s
lock-path=%[3]s/pgbackrest-lock
spool-path=%[3]s/pgbackrest-spool
[lab]
pg1-path=%[4]s
%[5]s`, b.repository, async, dir, dataDir, more))
	if err != nil {
		t.Fatal(err)
	}
	return []string{b.program, "--config=" + path, "--stanza=lab"}
}

// run runs a command on a member, and gives what it printed.
func (b *backrest) run(t *testing.T, c *chaos, n *lab.Node, args ...string) (string, error) {
	t.Helper()
	args = append([]string{"--config=" + filepath.Join(n.Dir, "pgbackrest.conf"), "--stanza=lab"}, args...)
	out, err := c.Command(t.Context(), b.program, args...).CombinedOutput()
	return string(out), err
}

func (b *backrest) begin(t *testing.T, c *chaos) {
	t.Helper()
	leader := c.Leader()
	for _, args := range [][]string{{"stanza-create"}, {"check"}, {"--type=full", "backup"}} {
		if out, err := b.run(t, c, leader, args...); err != nil {
			t.Fatalf("pgbackrest %v: %v\n%s", args, err, out)
		}
	}
}

// digests gives how many contents each segment in the repository has. A file's
// name there is that of the segment, a dash and its SHA-1.
func (b *backrest) digests(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	err := filepath.WalkDir(filepath.Join(b.repository, "archive"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if segment, _, ok := strings.Cut(d.Name(), "-"); ok && len(segment) == 24 {
				out[segment]++
			}
		}
		return nil // files come and go
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (b *backrest) stored(t *testing.T, _ *chaos) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for segment := range b.digests(t) {
		out[segment] = true
	}
	return out
}

// settle counts an archiver that a segment stops for good, since the repository
// holds other content by its name: somebody has to look into that by hand.
func (b *backrest) settle(t *testing.T, c *chaos, leader *lab.Node, segment string) bool {
	t.Helper()
	conflict := ""
	waitFor(t, "segment "+segment+" to be archived", func() bool {
		stored := b.stored(t, c)
		if stored[segment] {
			return true
		}
		failed := server(c.site, leader).Value(t, "SELECT coalesce(max(last_failed_wal), '') FROM pg_stat_archiver WHERE failed_count > 3")
		if !stored[failed] {
			return false
		}
		out, err := b.run(t, c, leader, "--no-archive-async", "archive-push", filepath.Join(leader.DataDir, "pg_wal", failed))
		if err != nil && strings.Contains(out, "different checksum") {
			conflict = out
		}
		return conflict != ""
	})
	if conflict != "" {
		t.Logf("the archiver of %s cannot go on: %s", leader.Name, conflict)
		c.tally["archiver-stuck"]++
	}
	return conflict == ""
}

// judge counts the rounds in which the archive has a hole, how each command that
// reports on it ended in them, and whether it named any of the missing segments.
func (b *backrest) judge(t *testing.T, c *chaos, leader *lab.Node, _, lacks []string, _ bool) {
	t.Helper()
	rounds := "whole"
	if len(lacks) > 0 {
		rounds = "holed"
		t.Logf("the archive lacks %v", lacks)
	}
	c.tally[rounds]++
	for _, args := range [][]string{{"check"}, {"info"}, {"verify", "--output=text", "--verbose"}} {
		out, err := b.run(t, c, leader, args...)
		key := rounds + "-" + args[0]
		if err == nil {
			c.tally[key+"-exit-0"]++
		}
		for _, name := range lacks {
			if strings.Contains(out, name) {
				c.tally[key+"-named"]++
				break
			}
		}
		t.Logf("pgbackrest %s: %v\n%s", args[0], err, out)
	}
}

// end restores the backup to the end of the archive, and counts what is there.
func (b *backrest) end(t *testing.T, c *chaos, leader *lab.Node) {
	t.Helper()
	c.archivedAll(t, leader)
	for _, n := range b.digests(t) {
		if n > 1 {
			c.tally["two-contents"]++
		}
	}
	dir := pgtest.Dir(t)
	data := filepath.Join(dir, "data")
	command := append(b.config(t, c.site, dir, data, ""), "restore")
	if out, err := c.Command(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Logf("pgbackrest restore: %v\n%s", err, out)
		c.tally["restore-failed"]++
		return
	}
	restored := c.adopt(t, data)
	restored.Start(t)
	restored.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	got, want := ledger(t, restored), ledger(t, server(c.site, leader))
	t.Logf("the cluster has %s, the restored server, which opened without an error, %s", want, got)
	if got != want {
		c.tally.Add(soak.Tally{"short-restores": 1})
	}
}
