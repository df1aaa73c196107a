package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/e2e/lab"
)

// A replica that fell behind the leader's WAL, and that its restore_command does not
// help either, is left alone by Patroni for good. The agent on its node notices
// and has it rebuilt, from the repository; the leader's files are not read.
func TestWatch(t *testing.T) {
	t.Parallel()
	cut := func(n *lab.Node) string { return filepath.Join(n.Dir, "archive-is-cut") }
	s := prepareSite(t, siteOptions{
		Options: lab.Options{Nodes: 3},
		Extra:   "watch:\n  mode: rebuild\n  patience: 5s\n  settled: 1s\n",
	})
	for _, n := range s.Nodes {
		err := n.WriteConfig(func(c *lab.NodeConfig) {
			c.RestoreCommand = fmt.Sprintf("test ! -e %s && %s", cut(n), c.RestoreCommand)
			c.Parameters = map[string]any{"wal_keep_size": 0}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.up(t)
	s.WaitSyncStandby()
	s.PatchConfig(map[string]any{"member_slots_ttl": 0}) // or the slot would keep the WAL
	leader := s.Leader()
	server(s, leader).EnableAMCheck(t)
	server(s, leader).PgbenchInit(t, 2)
	s.backup(t)
	s.useMethod(t, map[string]any{"keep_data": true})

	fallen := s.Nodes[2]
	if sync := s.WaitSyncStandby(); fallen == leader || fallen == sync {
		for _, n := range s.Nodes {
			if n != leader && n != sync {
				fallen = n
			}
		}
	}
	if err := s.WriteFile(cut(fallen), nil); err != nil {
		t.Fatal(err)
	}
	s.StopNode(fallen)
	s.Expire(fallen)
	primary := server(s, leader)
	at := primary.Value(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
	waitFor(t, "the leader to have recycled the WAL", func() bool {
		primary.Exec(t, "INSERT INTO pgbench_history (tid, bid, aid, delta) SELECT 1, 1, 1, 0 FROM generate_series(1, 1000); SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active; SELECT pg_switch_wal(); CHECKPOINT")
		_, err := os.Stat(filepath.Join(leader.DataDir, "pg_wal", at))
		return os.IsNotExist(err)
	})

	config, logFile := filepath.Join(fallen.Dir, "agent.yml"), filepath.Join(fallen.Dir, "agent.log")
	said := func() string {
		content, err := os.ReadFile(logFile)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(content)
	}
	text := fmt.Sprintf("patroni: %s\nrepository: %s\n%sagent:\n  socket: %s\nlog:\n  file: %s\n",
		fallen.ConfigFile, s.repo.url, s.extra, filepath.Join(fallen.Dir, "agent.sock"), logFile)
	if err := s.WriteFile(config, []byte(text)); err != nil {
		t.Fatal(err)
	}
	s.StartNode(fallen)
	agent := s.start(t, nil, "-c", config, "agent")
	waitFor(t, "the agent to have the member rebuilt", func() bool {
		return strings.Contains(fallen.Log(2000), "replica has been created using pgtender")
	})
	if err := os.Remove(cut(fallen)); err != nil { // what was wrong with the archive is mended
		t.Fatal(err)
	}
	s.WaitStreaming(2)
	sameContent(t, s, leader, fallen)
	waitFor(t, "the agent to see it stream", func() bool { return strings.Contains(said(), "streaming again") })
	agent.cmd.Process.Signal(os.Interrupt)
	o := agent.wait(t)
	for _, words := range []string{"symptom=lost_wal", "the leader has recycled the WAL", "msg=rebuilding", "plan="} {
		if !strings.Contains(said(), words) {
			t.Errorf("the agent does not say %q: %v\n%s", words, o, said())
		}
	}
	if n := strings.Count(said(), "msg=rebuilding"); n != 1 {
		t.Errorf("rebuilt %d times:\n%s", n, said())
	}
}
