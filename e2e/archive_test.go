package e2e_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// gated makes a member's archive_command wait while its gate is closed, so that
// a backlog builds up.
func gated(n *lab.Node, command string) string {
	return fmt.Sprintf("while test -e %s; do sleep 0.1; done; %s", gate(n), command)
}

func gate(n *lab.Node) string { return filepath.Join(n.Dir, "archiving-waits") }

func (s *site) closeGate(t testing.TB, n *lab.Node) {
	t.Helper()
	if err := s.WriteFile(gate(n), nil); err != nil {
		t.Fatal(err)
	}
}

func openGate(t testing.TB, n *lab.Node) {
	t.Helper()
	if err := os.Remove(gate(n)); err != nil {
		t.Fatal(err)
	}
}

// The archive of a cluster through what befalls it: the leader's death with a
// backlog, a switchover while the old leader still drains, a lost object, and a
// copy of a member that writes on its own.
func TestArchiveThroughFailovers(t *testing.T) {
	t.Parallel()
	s := startSite(t, siteOptions{Options: lab.Options{Nodes: 2}, Archive: gated})
	s.WaitSyncStandby()
	server(s, s.Leader()).Exec(t, "CREATE TABLE acknowledged (i int PRIMARY KEY, v text)")
	a := &archived{site: s}
	taken := s.backup(t)
	for _, step := range []struct {
		name string
		run  func(*archived, *testing.T)
	}{
		{"the leader dies with a backlog", (*archived).leaderDies},
		{"the old leader of a switchover drains its backlog", (*archived).oldLeaderDrains},
		{"a lost segment is a hole", (*archived).segmentIsLost},
		{"a copy that writes on its own is quarantined", (*archived).copyWrites},
		{"the leader's segment counts even if a copy's came first", (*archived).copyWritesFirst},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(a, t) }) {
			return
		}
	}
	// Everything acknowledged through all of it is in the archive.
	want := mark(t, server(s, s.Leader()), "at the end")
	equalsAt(t, s, taken, want)
}

// archived is the site of TestArchiveThroughFailovers. rows counts the commits
// that the cluster has acknowledged.
type archived struct {
	*site
	rows int
}

// work commits rows in several WAL segments.
func (a *archived) work(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	for range 3 {
		a.rows++
		c.Exec(t, fmt.Sprintf("INSERT INTO acknowledged SELECT %d * 1000 + i, md5(i::text) FROM generate_series(1, 500) i", a.rows))
		c.Value(t, "SELECT pg_switch_wal()")
	}
}

// whole waits until the archive has all that the leader had written before, and
// wants no hole in it.
func (a *archived) whole(t *testing.T) {
	t.Helper()
	leader := a.Leader()
	c := server(a.site, leader)
	last := c.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	waitFor(t, "segment "+last+" to be archived", func() bool {
		for _, w := range a.info(t, leader).WAL {
			if w.OnHistory && w.Last >= last {
				return true
			}
		}
		return false
	})
	if holes := a.info(t, leader).holes(); holes != "" {
		t.Errorf("the archive lacks %s", holes)
	}
}

func (a *archived) leaderDies(t *testing.T) {
	old := a.Leader()
	a.closeGate(t, old)
	a.work(t, server(a.site, old))
	failOver(t, a.site, old)
	a.whole(t)
	openGate(t, old)
	a.StartNode(old)
	a.WaitStreaming(1)
	a.WaitSyncStandby()
}

func (a *archived) oldLeaderDrains(t *testing.T) {
	old, next := a.Leader(), a.WaitSyncStandby()
	a.closeGate(t, old)
	a.work(t, server(a.site, old))
	// Patroni hands over as soon as the standby has the shutdown checkpoint,
	// while the old leader's server still waits for its archiver.
	a.Switchover(next)
	draining := old.Postmaster() != 0
	openGate(t, old)
	a.WaitStreaming(1)
	if !draining {
		t.Error("the old leader had ended before its archiver was let go: nothing was tried")
	}
	a.whole(t)
	a.WaitSyncStandby()
	if log := old.Log(500); !strings.Contains(log, "outcome=") {
		t.Error("the old leader archived nothing")
	}
}

func (a *archived) segmentIsLost(t *testing.T) {
	a.work(t, server(a.site, a.Leader()))
	a.whole(t)
	name := server(a.site, a.Leader()).Value(t, "SELECT pg_walfile_name(pg_current_wal_lsn() - 2 * 16 * 1024 * 1024)")
	object := a.object(t, name)
	aside := filepath.Join(a.Dir, "aside")
	rename(t, object, aside)
	if got, want := a.info(t, a.Leader()).holes(), name+".."+name; got != want {
		t.Errorf("info shows the holes %q, want %q", got, want)
	}
	if o := a.run(t, a.Leader(), "check"); !strings.Contains(o.stdout, name) {
		t.Errorf("check does not name the hole %s: %v", name, o)
	}
	a.holders(t, name)
	dir := filepath.Join(pgtest.Dir(t), "data")
	a.refused(t, nil, []string{"-c", a.host(t), "restore", "--target-dir", dir}, name)
	rename(t, aside, object)
	a.whole(t)
}

// holders wants wal verify to say of a lost segment that the leader has it.
func (a *archived) holders(t *testing.T, name string) {
	t.Helper()
	leader := a.Leader()
	o := a.run(t, leader, "wal", "verify", "--json")
	var v struct {
		Faults []struct {
			First  string
			HeldBy []string `json:"held_by"`
		}
	}
	if err := json.Unmarshal([]byte(o.stdout), &v); err != nil || o.code != 1 {
		t.Fatalf("%v: %v", err, o)
	}
	if len(v.Faults) != 1 || v.Faults[0].First != name || !slices.Contains(v.Faults[0].HeldBy, leader.Name) {
		t.Errorf("wal verify of the lost %s, which %s has: %v", name, leader.Name, o)
	}
}

// object gives the file of the repository that has a name.
func (a *archived) object(t *testing.T, name string) string {
	t.Helper()
	var found []string
	filepath.WalkDir(a.repo.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == name {
			found = append(found, path)
		}
		return err
	})
	if len(found) != 1 {
		t.Fatalf("%d objects %s in %s: %v", len(found), name, a.repo.dir, found)
	}
	return found[0]
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// copyOfReplica gives a server on a copy of the replica's machine, as far as
// pgtender can see: data directory and configuration. It believes to be a primary
// on the leader's timeline, and archives.
func (a *archived) copyOfReplica(t *testing.T) *pgtest.Cluster {
	t.Helper()
	replica := a.WaitSyncStandby()
	a.StopNode(replica)
	dir := filepath.Join(pgtest.Dir(t), "data")
	if err := os.CopyFS(dir, os.DirFS(replica.DataDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "standby.signal")); err != nil {
		t.Fatal(err)
	}
	config := a.copyOfConfig(t, replica, dir)
	a.StartNode(replica)
	a.WaitStreaming(1)
	a.WaitSyncStandby()
	return pgtest.Adopt(t, dir, pgtest.Options{Major: a.Major, Config: map[string]string{
		"hba_file": filepath.Join(dir, "pg_hba.conf"), "ident_file": filepath.Join(dir, "pg_ident.conf"),
		"archive_mode": "on", "archive_command": a.bin + " -c " + config + " archive-push %p", "synchronous_standby_names": "",
	}})
}

// copyOfConfig writes the member's configuration anew for another data directory,
// and gives the path of its pgtender.yml.
func (a *archived) copyOfConfig(t *testing.T, n *lab.Node, dataDir string) string {
	t.Helper()
	content, err := os.ReadFile(n.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Dir(dataDir)
	patroni, config := filepath.Join(folder, "patroni.yml"), filepath.Join(folder, "pgtender.yml")
	if err := a.WriteFile(patroni, []byte(strings.ReplaceAll(string(content), n.DataDir, dataDir))); err != nil {
		t.Fatal(err)
	}
	if err := a.WriteFile(config, []byte(fmt.Sprintf("patroni: %s\nrepository: %s\n", patroni, a.repo.url))); err != nil {
		t.Fatal(err)
	}
	return config
}

func (a *archived) copyWrites(t *testing.T) {
	other := a.copyOfReplica(t)
	a.work(t, server(a.site, a.Leader()))
	a.whole(t)
	other.Start(t)
	other.Exec(t, "INSERT INTO acknowledged SELECT -i, 'of the copy' FROM generate_series(1, 500) i")
	other.Value(t, "SELECT pg_switch_wal()")
	waitFor(t, "the copy's archiver to fail", func() bool {
		return other.Value(t, "SELECT failed_count > 0 FROM pg_stat_archiver") == "t"
	})
	other.Stop(t, pgtest.Immediate)
	a.alarmed(t, "quarantine")
}

func (a *archived) copyWritesFirst(t *testing.T) {
	other := a.copyOfReplica(t)
	leader := a.Leader()
	a.closeGate(t, leader)
	a.work(t, server(a.site, leader))
	other.Start(t)
	other.Exec(t, "INSERT INTO acknowledged SELECT -i, 'of the copy' FROM generate_series(1, 500) i")
	name := other.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	waitFor(t, "the copy's segment to be archived", func() bool {
		return other.Value(t, "SELECT last_archived_wal >= '"+name+"' FROM pg_stat_archiver") == "t"
	})
	other.Stop(t, pgtest.Immediate)
	openGate(t, leader)
	a.whole(t)
	a.alarmed(t, "conflict")
}

// alarmed wants info to show an alarm of a kind, and check to find fault.
func (a *archived) alarmed(t *testing.T, kind string) {
	t.Helper()
	leader := a.Leader()
	i := a.info(t, leader)
	found := false
	for _, alarm := range i.Alarms {
		found = found || alarm.Kind == kind
	}
	if !found {
		t.Errorf("info shows no alarm of kind %q: %+v", kind, i.Alarms)
	}
	if o := a.run(t, leader, "check"); o.code != 1 || !strings.Contains(o.stdout, "alarm of") {
		t.Errorf("check finds nothing in spite of the alarm: %v", o)
	}
}
