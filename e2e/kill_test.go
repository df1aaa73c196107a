package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/patroni"
)

// The processes of pgtender are killed at random moments: no backup may be
// listed that does not restore, and no directory may be left that starts wrong.
func TestKill(t *testing.T) {
	t.Parallel()
	killRounds(t, 10)
}

// TestSoakKill is TestKill for as long as it takes to believe it. It runs with
// PGTENDER_SOAK=1; PGTENDER_SEED repeats a run.
func TestSoakKill(t *testing.T) {
	if os.Getenv("PGTENDER_SOAK") == "" {
		t.Skip("PGTENDER_SOAK is not set")
	}
	killRounds(t, 100)
}

func killRounds(t *testing.T, rounds int) {
	seed := rand.Uint64()
	if text := os.Getenv("PGTENDER_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("PGTENDER_SEED=%d", seed)
	s := startSite(t, siteOptions{Options: lab.Options{Nodes: 2}})
	k := &killer{site: s, random: rand.New(rand.NewPCG(seed, 1)), restored: map[string]bool{}, lasts: map[string]time.Duration{}}
	primary := server(s, s.Leader())
	primary.EnableAMCheck(t)
	primary.PgbenchInit(t, 4)
	primary.Workload(seed).Run(t, 10)
	s.useMethod(t, map[string]any{"keep_data": true, "way": "full"})
	began := time.Now()
	k.base = s.backup(t)
	k.lasts["backup"] = time.Since(began)
	k.restored[k.base.ID] = true // equalsAt below
	k.want = mark(t, primary, "before the kills")
	began = time.Now()
	s.restore(t, "--target-name", k.want.name)
	k.lasts["restore"] = time.Since(began)
	k.lasts["create-replica"] = k.lasts["restore"]

	kinds := []struct {
		name string
		run  func(*killer, *testing.T)
	}{
		{"backup", (*killer).killBackup},
		{"restore", (*killer).killRestore},
		{"create-replica", (*killer).killReplica},
		{"the node in create-replica", (*killer).killNode},
		{"the node in create-replica over old data", (*killer).killNodeOverOld},
	}
	for i := range rounds {
		kind := kinds[i%len(kinds)]
		if !t.Run(fmt.Sprintf("%d %s", i, kind.name), func(t *testing.T) { kind.run(k, t) }) {
			return
		}
	}
	last := s.backup(t)
	k.restores(t, last)
	equalsAt(t, s, k.base, k.want)
}

type killer struct {
	*site
	random   *rand.Rand
	base     infoBackup
	want     moment
	restored map[string]bool          // backups that have been tried
	lasts    map[string]time.Duration // how long a command takes if it is let live
}

// moment is somewhere in a command's life.
func (k *killer) moment(command string) time.Duration {
	return time.Duration(k.random.Int64N(int64(k.lasts[command])))
}

// killBackup kills a backup of the source. What is listed then must restore.
func (k *killer) killBackup(t *testing.T) {
	source := k.WaitSyncStandby()
	after := k.moment("backup")
	run := k.start(t, source, "backup", "--workers", "2")
	time.Sleep(after)
	run.cmd.Process.Kill()
	o := run.wait(t)
	for _, b := range k.info(t, source).complete(t) {
		if !k.restored[b.ID] {
			k.restores(t, b)
		}
	}
	t.Logf("after %v of %v: status %d", after, k.lasts["backup"], o.code)
	// The dead one's lease keeps others out until it lapses. That is waited
	// for elsewhere.
	key := ha.BackupKey(patroni.Prefix("service", k.Scope))
	if err := k.DCS.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}

func (k *killer) restores(t *testing.T, b infoBackup) {
	t.Helper()
	k.restored[b.ID] = true
	c := k.restore(t, "--backup", b.ID, "--target-immediate", "--target-action", "promote")
	c.Start(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	c.AMCheck(t)
	c.Checksums(t)
	agree(t, c)
	c.Stop(t, pgtest.Immediate)
}

// killRestore kills a restore up to three times, looks at what it left, and lets
// the last one end.
func (k *killer) killRestore(t *testing.T) {
	dir := filepath.Join(pgtest.Dir(t), "data")
	args := []string{"-c", k.host(t), "restore", "--target-dir", dir, "--backup", k.base.ID, "--target-name", k.want.name, "--target-action", "promote"}
	done := false
	for range 1 + k.random.IntN(3) {
		after := k.moment("restore")
		run := k.start(t, nil, args...)
		time.Sleep(after)
		run.cmd.Process.Kill()
		o := run.wait(t)
		t.Logf("after %v of %v: status %d", after, k.lasts["restore"], o.code)
		if done = o.code == 0; done || exists(filepath.Join(dir, "global", "pg_control")) {
			break // whole, or so it says
		}
		mustNotStart(t, k.site, dir)
	}
	if !done {
		k.must(t, nil, args...) // resumes, or finds all done
	}
	c := k.adopt(t, dir)
	c.Start(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	if got := c.Dump(t); got != k.want.content {
		t.Errorf("the restored content differs:\n%s", firstDifference(k.want.content, got))
	}
	c.AMCheck(t)
	c.Stop(t, pgtest.Immediate)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// killReplica kills the create-replica that Patroni runs. Patroni tries again.
func (k *killer) killReplica(t *testing.T) {
	replica := k.wipedReplica(t)
	time.Sleep(k.moment("create-replica"))
	pid := creating(replica)
	if pid != 0 {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	t.Logf("killed in the middle: %t", pid != 0)
	k.joined(t, replica)
}

// killNode kills the whole node while it is being made.
func (k *killer) killNode(t *testing.T) {
	replica := k.wipedReplica(t)
	time.Sleep(k.moment("create-replica"))
	k.killWhole(t, replica)
	k.StartNode(replica)
	k.joined(t, replica)
}

// killWhole kills a node, whose directory must not start unless it is whole.
func (k *killer) killWhole(t *testing.T, n *lab.Node) {
	t.Helper()
	inTheMiddle := creating(n) != 0
	n.Kill()
	whole := exists(filepath.Join(n.DataDir, "global", "pg_control"))
	t.Logf("killed in the middle: %t; the directory has a pg_control: %t", inTheMiddle, whole)
	if !whole {
		mustNotStart(t, k.site, n.DataDir)
	}
}

// killNodeOverOld kills the whole node while its old data is being replaced. Where
// that had been begun and not ended, Patroni wants to be told to go on.
func (k *killer) killNodeOverOld(t *testing.T) {
	replica := k.WaitSyncStandby()
	if err := replica.RequestReinit(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "pgtender create-replica to run", func() bool { return creating(replica) != 0 })
	time.Sleep(k.moment("create-replica"))
	k.killWhole(t, replica)
	const stuck = "system ID is invalid"
	before := strings.Count(replica.Log(1<<20), stuck)
	k.StartNode(replica)
	waitFor(t, "the replica to run, or to ask for a reinit", func() bool {
		status, err := replica.Status(t.Context())
		return err == nil && status.State == "running" || strings.Count(replica.Log(1<<20), stuck) > before
	})
	if strings.Count(replica.Log(1<<20), stuck) > before {
		k.Reinit(replica)
	}
	k.joined(t, replica)
}

// wipedReplica starts a replica that has lost its data, and returns when
// pgtender is at work there.
func (k *killer) wipedReplica(t *testing.T) *lab.Node {
	t.Helper()
	replica := k.WaitSyncStandby()
	replica.Kill()
	k.Wipe(replica)
	k.StartNode(replica)
	waitFor(t, "pgtender create-replica to run", func() bool { return creating(replica) != 0 })
	return replica
}

// creating gives the process id of the node's create-replica, 0 if there is none.
func creating(n *lab.Node) int {
	for _, pid := range n.Processes() {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(string(line), "\x00create-replica\x00") {
			return pid
		}
	}
	return 0
}

// joined waits until the replica streams, and compares it with the leader.
func (k *killer) joined(t *testing.T, replica *lab.Node) {
	t.Helper()
	k.WaitStreaming(1)
	sameContent(t, k.site, k.Leader(), replica)
	k.WaitSyncStandby()
}
