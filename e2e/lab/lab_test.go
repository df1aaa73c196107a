package lab_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtender/pgtender/e2e/lab"
)

// A real failover on each combination of Patroni and DCS, and what the lab
// promises on the way: nothing acknowledged is lost, and the old leader comes
// back as a replica.
func TestThreeNodesFailOver(t *testing.T) {
	for _, tt := range []struct{ name, patroni, dcs string }{
		{"Patroni 4.1 on etcd", "4.1", "etcd"},
		{"Patroni 3.0 on etcd", "3.0", "etcd"},
		{"Patroni 4.1 on Consul", "4.1", "consul"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting for ttl
			began := time.Now()
			l := lab.Start(t, lab.Options{Patroni: tt.patroni, DCS: tt.dcs})
			t.Logf("three nodes stream after %v", time.Since(began))
			failOver(t, l)
		})
	}
}

func failOver(t *testing.T, l *lab.Test) {
	old, standby := l.Leader(), l.WaitSyncStandby()
	if old == standby {
		t.Fatalf("%s is both leader and synchronous standby", old.Name)
	}
	l.SQL(old, "create table acknowledged as select 1 as row")
	began := time.Now()
	old.Kill()
	if left := old.Processes(); len(left) > 0 {
		t.Fatalf("processes %v of %s survived Kill", left, old.Name)
	}
	leader := l.WaitLeader()
	t.Logf("%s leads %v after the death of %s", leader.Name, time.Since(began), old.Name)
	if leader != standby {
		t.Errorf("%s leads after the failover, not the synchronous standby %s", leader.Name, standby.Name)
	}
	if got := l.SQL(leader, "select row from acknowledged"); got != "1" {
		t.Errorf("the acknowledged row is %q on the new leader", got)
	}
	l.StartNode(old)
	l.WaitStreaming(2)
	t.Logf("%s is back %v after its death", old.Name, time.Since(began))
}

// Majors of which the machine has server programs only: one older than its
// client programs, one newer, and one with another control file. Each with a
// replica that was cloned, and cloned again.
func TestOtherMajorsCloneAReplica(t *testing.T) {
	for _, major := range []int{13, 16, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			l := lab.Start(t, lab.Options{Major: major, Nodes: 2})
			version := l.SQL(l.Leader(), "show server_version_num")
			if !strings.HasPrefix(version, strconv.Itoa(major)) {
				t.Errorf("the server is of version %s, want major %d", version, major)
			}
			if got := l.SQL(l.Leader(), "show data_checksums"); got != "on" {
				t.Errorf("data_checksums is %s, want on", got)
			}
			l.SQL(l.Leader(), "create table t as select generate_series(1, 1000) as i")
			l.Reinit(l.Nodes[1])
			l.WaitStreaming(1)
			if got := l.SQL(l.Nodes[1], "select sum(i) from t"); got != "500500" {
				t.Errorf("the rebuilt replica counts %s, want 500500", got)
			}
		})
	}
}

func TestOperationsOnOneCluster(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 2, Configure: func(c *lab.NodeConfig) {
		c.Parameters = map[string]any{"work_mem": "5MB"}
		c.ClusterParameters = map[string]any{"max_connections": 57}
		c.Tags = map[string]any{"lab": c.Node.Name}
		c.ArchiveCommand = "/bin/true"
		c.RestoreCommand = "/bin/false"
		c.CreateReplica = []lab.Method{{Name: "refusing", Options: map[string]any{"command": "/bin/false"}}, {Name: "basebackup"}}
	}})
	first, second := l.Nodes[0], l.Nodes[1]
	for setting, want := range map[string]string{"work_mem": "5MB", "max_connections": "57", "archive_mode": "on", "restore_command": "/bin/false"} {
		if got := l.SQL(second, "show "+setting); got != want {
			t.Errorf("%s is %q on the replica, want %q", setting, got, want)
		}
	}
	if got := second.Log(1000); !strings.Contains(got, "refusing") {
		t.Errorf("the create_replica_methods were not tried in order:\n%s", got)
	}

	l.Switchover(second)
	l.WaitStreaming(1)
	if got := l.Leader(); got != second {
		t.Fatalf("%s leads after the switchover", got.Name)
	}

	l.StopNode(first)
	if pid := first.Postmaster(); pid != 0 {
		t.Errorf("PostgreSQL of %s runs as %d after Stop", first.Name, pid)
	}
	l.Wipe(first)
	l.StartNode(first)
	l.WaitStreaming(1)
	l.WaitSyncStandby() // without one nobody may take over

	if err := second.Wipe(); err == nil {
		t.Error("the data directory of a running node was wiped")
	}
	second.Kill()
	began := time.Now()
	l.Expire(second)
	if got := l.WaitLeader(); got != first {
		t.Errorf("%s leads after %s died", got.Name, second.Name)
	}
	t.Logf("%s leads %v after the keys expired", first.Name, time.Since(began))

	l.PatchConfig(map[string]any{"pause": true})
	waitPaused(t, first)
	l.StopNode(first)
	if first.Postmaster() == 0 {
		t.Error("PostgreSQL of a paused node ended with Patroni")
	}
}

func waitPaused(t *testing.T, n *lab.Node) {
	t.Helper()
	for {
		status, err := n.Status(t.Context())
		if err == nil && status.Pause {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s was not paused: %+v, %v", n.Name, status, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// helperVariable makes this test binary the caller that is killed.
const helperVariable = "LAB_TEST_HELPER"

func TestNothingOutlivesTheCaller(t *testing.T) {
	if os.Getenv(helperVariable) != "" {
		l := lab.Start(t, lab.Options{Nodes: 1, Dir: os.Getenv(helperVariable)})
		for _, pid := range l.Nodes[0].Processes() {
			fmt.Println("pid", pid)
		}
		fmt.Println("all")
		<-t.Context().Done()
		return
	}
	if testing.Short() {
		t.Skip("it runs real servers")
	}
	dir, err := os.MkdirTemp("", "pgtender-lab-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	caller := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestNothingOutlivesTheCaller$", "-test.v")
	caller.Env = append(os.Environ(), helperVariable+"="+dir)
	out, err := caller.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := caller.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	said := ""
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "all"; said += lines.Text() + "\n" {
		if text, found := strings.CutPrefix(lines.Text(), "pid "); found {
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	caller.Process.Kill()
	caller.Wait()
	if len(pids) < 5 { // Patroni, the postmaster and its helpers
		t.Fatalf("the caller ran %d processes only:\n%s", len(pids), said)
	}
	for deadline := time.Now().Add(time.Minute); len(pids) > 0; time.Sleep(20 * time.Millisecond) {
		if errors.Is(syscall.Kill(pids[0], 0), syscall.ESRCH) {
			pids = pids[1:]
		} else if time.Now().After(deadline) {
			t.Fatalf("processes %v outlive the caller", pids)
		}
	}
}
