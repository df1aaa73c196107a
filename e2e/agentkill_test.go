package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestAgentIsKilled: an agent that is killed at random, beside a server that
// archives and one that recovers, loses nothing and holds up nothing.
func TestAgentIsKilled(t *testing.T) {
	t.Parallel()
	agentIsKilled(t, 12*time.Second)
}

func TestAgentIsKilledSoak(t *testing.T) {
	if os.Getenv("PGTENDER_SOAK") == "" {
		t.Skip("PGTENDER_SOAK is not set")
	}
	agentIsKilled(t, 30*time.Minute)
}

func agentIsKilled(t *testing.T, long time.Duration) {
	bin, dir, repository := program(t), pgtest.Dir(t), pgtest.Dir(t)
	c := pgtest.New(t, pgtest.Options{WALSegSize: 1, Config: map[string]string{"wal_keep_size": "0", "max_wal_size": "8MB", "min_wal_size": "2MB"}})
	// A unix socket's path is short; so is the folder's.
	config := func(name, dataDir string) string {
		path := filepath.Join(dir, name+".yml")
		text := fmt.Sprintf("repository: file://%s\ncluster: killed\ndata_dir: %s\nagent:\n  socket: %s/%s/socket\n  interval: 1s\n  grace: 1s\n", repository, dataDir, dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		pgtest.Own(t, path)
		return path
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := pgtest.Command(t.Context(), t, bin, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("pgtender %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	primary := config("primary", c.DataDir)
	c.Configure(t, map[string]string{"archive_mode": "on", "archive_command": fmt.Sprintf("%s -c %s archive-push %%p", bin, primary)})
	c.Restart(t)
	copied, alone, served := filepath.Join(pgtest.Dir(t), "copy"), filepath.Join(pgtest.Dir(t), "alone"), filepath.Join(pgtest.Dir(t), "served")
	for _, d := range []string{copied, alone, served} {
		c.BaseBackup(t, d)
	}

	stop := killing(t, bin, primary)
	work := c.Workload(1)
	for begin := time.Now(); time.Since(begin) < long; {
		work.Run(t, 3)
		c.Exec(t, "SELECT pg_switch_wal()")
	}
	last := c.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	c.Exec(t, "CREATE TABLE last_of_all AS SELECT 1 AS i")
	end := c.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	c.WaitFor(t, "SELECT last_archived_wal >= '"+end+"' FROM pg_stat_archiver", "t")
	if kills := stop(); kills < 3 {
		t.Errorf("the agent was killed %d times: nothing was tried", kills)
	}
	t.Log(run("-c", primary, "wal", "verify", "--deep"))
	t.Logf("up to %s", last)

	want := c.Dump(t)
	recover := func(name, dataDir string) *pgtest.Cluster {
		t.Helper()
		restored := pgtest.Adopt(t, dataDir, pgtest.Options{Config: map[string]string{
			"archive_mode": "off", "restore_command": fmt.Sprintf("GODEBUG=inittrace=1 %s -c %s --log-level debug archive-get %%f %%p", bin, config(name, dataDir)),
			"recovery_target_timeline": "latest",
		}})
		restored.Append(t, "recovery.signal", "")
		restored.Start(t)
		restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
		if got := restored.Dump(t); got != want {
			t.Errorf("the recovered server differs:\n%s", firstDifference(want, got))
		}
		restored.AMCheck(t)
		return restored
	}
	stop = killing(t, bin, config("copy", copied))
	recover("copy", copied)
	t.Logf("killed %d times during recovery", stop())

	// handedEarly wants most segments to have been handed to commands that were not
	// initialised.
	handedEarly := func(c *pgtest.Cluster) {
		t.Helper()
		handed, initialised := strings.Count(c.Log(), "fetched ahead"), strings.Count(c.Log(), "init encoding/json ")
		if handed < 10 || initialised > handed/2 {
			t.Errorf("%d segments were handed over, and %d commands initialised", handed, initialised)
		}
	}
	// Without an agent archive-get starts a process that fetches ahead, and that
	// ends by itself.
	handedEarly(recover("alone", alone))
	spool := filepath.Join(alone, "pg_wal", ".pgtender-spool", "*~*")
	waitFor(t, "the spool to be emptied", func() bool {
		left, err := filepath.Glob(spool)
		return err == nil && len(left) == 0
	})

	// With an agent that lives, archive-get is handed nearly all before it is
	// initialised; pg_wal may be a link.
	elsewhere := filepath.Join(pgtest.Dir(t), "wal")
	if err := errors.Join(os.Rename(filepath.Join(served, "pg_wal"), elsewhere), os.Symlink(elsewhere, filepath.Join(served, "pg_wal"))); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, elsewhere)
	stopAgent := living(t, bin, config("served", served), filepath.Join(served, "pg_wal"))
	handedEarly(recover("served", served))
	stopAgent()
}

// living runs an agent until end is called. It returns when commands find the agent.
func living(t *testing.T, bin, config, walDir string) (end func()) {
	t.Helper()
	cmd := pgtest.Command(t.Context(), t, bin, "-c", config, "agent")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the agent to tell where it is", func() bool {
		_, err := os.Stat(filepath.Join(walDir, ".pgtender-agent"))
		return err == nil
	})
	return func() {
		t.Helper()
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			t.Error(err)
		}
	}
}

// killing runs an agent and kills it at random, until stop is called, which
// gives how often.
func killing(t *testing.T, bin, config string) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	random := rand.New(rand.NewPCG(7, uint64(len(config))))
	kills, done := 0, make(chan struct{})
	commands := func() *exec.Cmd { return pgtest.Command(ctx, t, bin, "-c", config, "agent") }
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			cmd := commands()
			if cmd.Start() != nil {
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(50+random.IntN(900)) * time.Millisecond):
				kills++
			}
			cmd.Process.Kill()
			cmd.Wait() // it was killed
		}
	}()
	var once sync.Once
	stop = func() int { once.Do(func() { cancel(); <-done }); return kills }
	t.Cleanup(func() { stop() })
	return stop
}
