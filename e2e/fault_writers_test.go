package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// A copy of a cluster is started as a cluster of its own: with the same name,
// the same system identifier and the same repository, on another DCS. Only one
// of them may write, and adopt says which.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	original := startSite(t, siteOptions{Options: lab.Options{Nodes: 1}})
	o := server(original, original.Leader())
	o.Exec(t, "CREATE TABLE row_of AS SELECT 'both' AS cluster")
	taken := original.backup(t)
	clone := startClone(t, original)
	c := server(clone, clone.Leader())
	const foreign, advice = "this part of the repository belongs to another cluster", "pgtender adopt"

	// The copy is refused whatever it tries; the original goes on.
	c.Exec(t, "INSERT INTO row_of VALUES ('the clone')")
	keptOut(t, clone, foreign, advice)
	clone.refused(t, clone.Leader(), []string{"backup", "--elect"}, foreign, advice)
	clone.refused(t, clone.Leader(), []string{"backup", "--dry-run"}, foreign, advice)
	o.Exec(t, "INSERT INTO row_of VALUES ('the original')")
	segmentArchived(t, o)
	if len(original.info(t, original.Leader()).Alarms) > 0 {
		t.Error("a copy that was kept out raises an alarm")
	}

	// The copy is made the one that counts, and the original is refused.
	clone.must(t, clone.Leader(), "adopt", "--yes", "--reason", "the copy counts")
	segmentArchived(t, c)
	keptOut(t, original, foreign, advice)
	original.refused(t, original.Leader(), []string{"backup", "--elect"}, foreign, advice)
	ofClone := clone.backup(t)
	restoresTo(t, clone, ofClone, "both,the clone")

	// And back. Both have gone on to a timeline 2, each its own.
	clone.StopNode(clone.Leader())
	original.must(t, original.Leader(), "adopt", "--yes", "--reason", "the copy was a mistake")
	n := original.Leader()
	original.StopNode(n)
	original.StartNode(n)
	original.WaitLeader()
	segmentArchived(t, o)
	// Patroni tells of a new timeline some seconds after it began.
	waitFor(t, "the history in force to be known", func() bool { return strings.Contains(timelinesTwo(original.info(t, n)), "true") })
	if got := timelinesTwo(original.info(t, n)); got != "false true" && got != "true false" {
		t.Errorf("info shows of timelines 2 whether they are on the history: %s", got)
	}
	original.must(t, n, "wal", "verify")
	after := original.backup(t)

	// The repository alone cannot know which of them counts, and the number does
	// not tell. The name does.
	dir := filepath.Join(pgtest.Dir(t), "data")
	for _, timeline := range []string{"latest", "2"} {
		original.refused(t, nil, []string{"-c", original.host(t), "restore", "--target-dir", dir, "--target-timeline", timeline},
			"of which none descends from the others", "--target-timeline")
	}
	for _, w := range original.info(t, n).WAL {
		if w.Timeline != 2 {
			continue
		}
		want := map[bool]string{true: "both,the original", false: "both,the clone"}[w.OnHistory]
		restoresTo(t, original, taken, want, "--target-timeline", w.Incarnation)
		if w.OnHistory {
			restoresTo(t, original, after, want, "--target-timeline", w.Incarnation)
		}
	}
}

// A copy of the leader's machine is started: with the same data, name and
// configuration, and so with the leader's own right to archive, as far as the DCS
// can tell. Its WAL is never served, whoever was first with a segment.
func TestACopyOfTheLeaderDoesNotCount(t *testing.T) {
	t.Parallel()
	s := startSite(t, siteOptions{Options: lab.Options{Nodes: 1}})
	n := s.Leader()
	original := server(s, n)
	original.Exec(t, "CREATE TABLE row_of AS SELECT 'both' AS cluster")
	taken := s.backup(t)
	twin := s.startTwin(t, n)
	// A segment ends, and an alarm of what kind is raised about it.
	segmentEnds := func(c *pgtest.Cluster, cluster, kind string) {
		c.Exec(t, "INSERT INTO row_of VALUES ('"+cluster+"')")
		name := c.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
		var alarm infoAlarm
		waitFor(t, "an alarm about "+name, func() bool {
			all := s.info(t, n).Alarms
			i := slices.IndexFunc(all, func(a infoAlarm) bool { return a.Subject == name })
			if i >= 0 {
				alarm = all[i]
			}
			return i >= 0
		})
		if alarm.Kind != kind {
			t.Errorf("what %s wrote in %s: %+v, want %s", cluster, name, alarm, kind)
		}
	}

	// The copy is first with one segment, the original with the next.
	twin.Exec(t, "INSERT INTO row_of VALUES ('the copy')")
	segmentArchived(t, twin)
	segmentEnds(original, "the original", "conflict")
	original.Exec(t, "INSERT INTO row_of VALUES ('the original')")
	segmentArchived(t, original)
	segmentEnds(twin, "the copy", "quarantine")
	waitFor(t, "the copy's archiver to be told", func() bool {
		return strings.Contains(twin.Log(), "does not have this WAL") && strings.Contains(twin.Log(), "archive_mode = off")
	})
	if o := s.run(t, n, "check"); o.code != 1 || !strings.Contains(o.stdout, "alarm") {
		t.Errorf("check does not tell: %v", o)
	}
	twin.Stop(t, pgtest.Immediate)

	segmentArchived(t, original)
	s.must(t, n, "wal", "verify", "--deep")
	restoresTo(t, s, taken, "both,the original,the original")
}

// startTwin runs what a copy of the member's machine would, beside it.
func (s *site) startTwin(t *testing.T, n *lab.Node) *pgtest.Cluster {
	t.Helper()
	dir := pgtest.Dir(t)
	data := filepath.Join(dir, "data")
	n.Signal(syscall.SIGSTOP)
	out, err := exec.CommandContext(t.Context(), "cp", "-a", n.DataDir, data).CombinedOutput()
	n.Signal(syscall.SIGCONT)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	config := filepath.Join(dir, "pgtender.yml")
	for from, to := range map[string]string{n.ConfigFile: filepath.Join(dir, "patroni.yml"), configFile(n): config} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		moved := strings.NewReplacer(n.DataDir, data, n.ConfigFile, filepath.Join(dir, "patroni.yml")).Replace(string(text))
		if err := s.WriteFile(to, []byte(moved)); err != nil {
			t.Fatal(err)
		}
	}
	c := pgtest.Adopt(t, data, pgtest.Options{Major: s.Major, Config: map[string]string{
		"hba_file": filepath.Join(data, "pg_hba.conf"), "ident_file": filepath.Join(data, "pg_ident.conf"),
		"archive_command": s.bin + " -c " + config + " archive-push %p",
	}})
	if err := os.Remove(filepath.Join(data, "postmaster.pid")); err != nil {
		t.Fatal(err)
	}
	c.Start(t)
	return c
}

// timelinesTwo says of each timeline 2 that is archived whether it is on the
// history in force.
func timelinesTwo(i info) string {
	var out []string
	for _, w := range i.WAL {
		if w.Timeline == 2 {
			out = append(out, fmt.Sprint(w.OnHistory))
		}
	}
	return strings.Join(out, " ")
}

// keptOut waits until the cluster's archiver has failed with the words, and
// wants check to say them too.
func keptOut(t *testing.T, s *site, words ...string) {
	t.Helper()
	leader := s.Leader()
	archivingFails(t, server(s, leader))
	o := s.run(t, leader, "check")
	if o.code != 1 {
		t.Errorf("check finds no fault: %v", o)
	}
	log := leader.Log(500)
	for _, word := range words {
		if !strings.Contains(log, word) {
			t.Errorf("the server's log does not say %q:\n%s", word, log)
		}
		if !strings.Contains(o.stdout, word) {
			t.Errorf("check does not say %q: %v", word, o)
		}
	}
}

// startClone runs a copy of a cluster's leader, made by pg_basebackup.
func startClone(t *testing.T, original *site) *site {
	t.Helper()
	clone := prepareSite(t, siteOptions{Options: lab.Options{Nodes: 1, Scope: original.Scope}, Repo: original.repo})
	program, err := clone.Program("pg_basebackup")
	if err != nil {
		t.Fatal(err)
	}
	cmd := clone.Command(t.Context(), program, "-D", clone.Nodes[0].DataDir, "-X", "stream", "-c", "fast")
	cmd.Env = append(cmd.Env, original.Leader().ClientEnv()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	clone.up(t)
	return clone
}

// restoresTo restores a backup on a bare host, and compares which rows come back.
func restoresTo(t *testing.T, s *site, b infoBackup, want string, args ...string) {
	t.Helper()
	c := s.restore(t, append([]string{"--backup", b.ID, "--target-action", "promote"}, args...)...)
	c.Start(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	if got := c.Value(t, "SELECT string_agg(cluster, ',' ORDER BY cluster) FROM row_of"); got != want {
		t.Errorf("the restored copy of backup %s with %v holds the rows %s, want %s", b.ID, args, got, want)
	}
	c.Stop(t, pgtest.Immediate)
}
