package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/etcd"
	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/internal/servertest"
	"github.com/pgtender/pgtender/patroni"
)

// onCluster is a real cluster of two whose members archive with this program.
type onCluster struct {
	*lab.Test
	t       *testing.T
	program string
	repo    string
}

func startCluster(t *testing.T) *onCluster {
	c := &onCluster{t: t}
	dir, err := os.MkdirTemp("", "pgtender-cmd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // for the servers' user
		t.Fatal(err)
	}
	c.program = filepath.Join(dir, "pgtender")
	c.Test = lab.Ready(t, lab.Options{Nodes: 2, Configure: func(n *lab.NodeConfig) {
		n.ArchiveCommand = c.program + " -c " + configOf(n.Node) + " archive-push %p"
		n.RestoreCommand = c.program + " -c " + configOf(n.Node) + " archive-get %f %p"
	}})
	if out, err := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", c.program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if c.repo, err = c.Folder("repo"); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		// The two lines that are enough.
		if err := c.WriteFile(configOf(n), []byte("patroni: "+n.ConfigFile+"\nrepository: file://"+c.repo+"\n")); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), c.Timeout)
	defer cancel()
	if err := c.Up(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

func configOf(n *lab.Node) string { return filepath.Join(n.Dir, "pgtender.yml") }

// run runs the program on a node as cron would, and wants an exit status.
func (c *onCluster) run(want int, n *lab.Node, args ...string) (stdout, stderr string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), c.Timeout)
	defer cancel()
	cmd := c.Command(ctx, c.program, append([]string{"-c", configOf(n)}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		c.t.Fatal(err)
	}
	if got != want {
		c.t.Fatalf("pgtender %s on %s: exit status %d, want %d\n%s%s", strings.Join(args, " "), n.Name, got, want, out.Bytes(), errs.Bytes())
	}
	return out.String(), errs.String()
}

// result runs the program with --json.
func result[T any](c *onCluster, n *lab.Node, args ...string) T {
	c.t.Helper()
	out, _ := c.run(0, n, append(args, "--json")...)
	var v T
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	return v
}

func (c *onCluster) want(text string, parts ...string) {
	c.t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			c.t.Errorf("%q is not in:\n%s", part, text)
		}
	}
}

// The main job by hand: from an empty repository to a rebuilt replica.
func TestTheMainJob(t *testing.T) {
	c := startCluster(t)
	leader, standby := c.Leader(), c.WaitSyncStandby()
	c.SQL(leader, "create table t as select i from generate_series(1, 1000) i")

	t.Run("topology names the synchronous standby", func(t *testing.T) {
		got := result[struct {
			Source, Leader string
			Members        []struct{ Name string }
		}](c, leader, "topology")
		if got.Source != standby.Name || got.Leader != leader.Name || len(got.Members) != 2 {
			t.Errorf("topology is %+v", got)
		}
		out, _ := c.run(0, standby, "topology")
		c.want(out, "* a backup would be taken from "+standby.Name, "behind "+standby.Name)
	})
	t.Run("backup refuses elsewhere and names the source", func(t *testing.T) {
		_, errs := c.run(1, leader, "backup")
		c.want(errs, leader.Name+" is not the source", standby.Name, "hint: ")
		out, errs := c.run(0, leader, "backup", "--elect")
		if out+errs != "" {
			t.Errorf("--elect is not quiet: %s%s", out, errs)
		}
	})
	t.Run("a second backup is kept out, and told by whom", func(t *testing.T) { c.secondBackup(standby) })
	t.Run("backup from the source", func(t *testing.T) { c.backup(standby) })
	t.Run("a repository that is not there", func(t *testing.T) { c.noRepository(leader) })
	t.Run("it is verified, and nothing expires", func(t *testing.T) { c.keep(standby) })
	t.Run("check is content", func(t *testing.T) {
		c.run(0, leader, "check")
		out, _ := c.run(0, standby, "check")
		c.want(out, "every member has been seen", "is in this repository", "0 errors")
	})
	t.Run("restore beside it", func(t *testing.T) { c.restore(leader) })
	t.Run("the DCS being down stops check, not archiving", func(t *testing.T) { c.withoutDCS(leader) })
	t.Run("a replica is rebuilt through Patroni", func(t *testing.T) { c.rebuild(standby) })
}

func (c *onCluster) secondBackup(standby *lab.Node) {
	store, err := etcd.Open(c.t.Context(), etcd.Options{Endpoints: []string{"http://" + c.DCS.Address}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		c.t.Fatal(err)
	}
	defer store.Close()
	_, release, err := ha.HoldBackup(c.t.Context(), dcs.Locker(store), patroni.Prefix("service", c.Scope), "somebody else", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer release()
	_, errs := c.run(1, standby, "backup")
	c.want(errs, "another backup of the cluster is running", "somebody else")
}

func (c *onCluster) backup(standby *lab.Node) {
	out, _ := c.run(0, standby, "backup", "--max-rate", "500MB", "--label", "by hand")
	c.want(out, "is complete", standby.Name+" (standby)", "read", "stored", "checkpoint")
	got := result[struct {
		Owner   *struct{ ID string }
		Backups []struct{ Usable *bool }
		WAL     []struct {
			Segments int
			Holes    []struct{ First string }
		}
	}](c, c.Leader(), "info")
	if len(got.Backups) != 1 || got.Backups[0].Usable == nil || !*got.Backups[0].Usable || got.Owner == nil {
		c.t.Fatalf("info is %+v", got)
	}
	if len(got.WAL) != 1 || len(got.WAL[0].Holes) != 0 || got.WAL[0].Segments == 0 {
		c.t.Errorf("WAL is %+v", got.WAL)
	}
}

// noRepository asks for a place that is not there: of a cluster that stored
// something elsewhere, and of one that never did.
func (c *onCluster) noRepository(n *lab.Node) {
	nowhere := "file://" + c.repo + "-nowhere"
	_, errs := c.run(1, n, "info", "--repository", nowhere)
	c.want(errs, "there is no directory")

	config := filepath.Join(n.Dir, "unused.yml")
	text := "repository: " + nowhere + "\ncluster: unused/7000000000000000001\ndcs:\n  type: etcd3\n  hosts: [" + c.DCS.Address + "]\n"
	if err := c.WriteFile(config, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
	out, _ := c.run(0, n, "-c", config, "info")
	c.want(out, "unused", "no backups yet")
	got := result[info](c, n, "-c", config, "info")
	if got.Repository != nowhere || got.SystemID != 7000000000000000001 || got.Backups == nil || len(got.Backups) != 0 || got.Owner != nil {
		c.t.Errorf("info is %+v", got)
	}
}

func (c *onCluster) restore(n *lab.Node) {
	parent, err := c.Folder("copies")
	if err != nil {
		c.t.Fatal(err)
	}
	dir := filepath.Join(parent, "copy")
	out, _ := c.run(0, n, "restore", "--target-dir", dir, "--target-immediate", "--target-action", "promote", "--plan")
	c.want(out, "full restore", "the end of the backup")
	c.run(0, n, "restore", "--target-dir", dir, "--target-immediate", "--target-action", "promote")
	_, errs := c.run(1, n, "restore", "--target-dir", n.DataDir)
	c.want(errs, "in use", "hint: ")

	_, port, _ := strings.Cut(servertest.FreeAddress(c.t), ":")
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	ctl := func(args ...string) {
		c.t.Helper()
		if out, err := c.Command(ctx, filepath.Join(c.BinDir(), "pg_ctl"), append([]string{"-D", dir, "-w", "-l", dir + ".log"}, args...)...).CombinedOutput(); err != nil {
			log, _ := os.ReadFile(dir + ".log")
			c.t.Fatalf("pg_ctl %s: %v\n%s%s", args, err, out, log)
		}
	}
	ctl("start", "-o", "-p "+port+" -c archive_mode=off -c unix_socket_directories="+parent)
	defer ctl("stop", "-m", "immediate")
	psql, err := c.Program("psql")
	if err != nil {
		c.t.Fatal(err)
	}
	count := c.Command(ctx, psql, "-h", parent, "-p", port, "-XAtc", "select count(*) from t", "postgres")
	count.Env = append(count.Env, n.ClientEnv()...)
	count.Env = append(count.Env, "PGHOST="+parent, "PGPORT="+port)
	if out, err := count.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "1000" {
		c.t.Errorf("the copy counts %s (%v), want 1000", out, err)
	}

	// What the copy writes does not get into the cluster's archive.
	segments, err := filepath.Glob(filepath.Join(dir, "pg_wal", strings.Repeat("[0-9A-F]", 24)))
	if err != nil || len(segments) == 0 {
		c.t.Fatalf("no segments in the copy: %v", err)
	}
	_, errs = c.run(1, n, "archive-push", segments[0])
	c.want(errs, "is not the member's data directory", "archive_mode = off")
}

func (c *onCluster) withoutDCS(leader *lab.Node) {
	ctx, cancel := context.WithTimeout(c.t.Context(), c.Timeout)
	defer cancel()
	if err := c.DCS.Stop(ctx); err != nil {
		c.t.Fatal(err)
	}
	defer func() {
		if err := c.DCS.Start(ctx); err != nil {
			c.t.Fatal(err)
		}
		c.WaitLeader()
		c.WaitStreaming(1)
		c.WaitSyncStandby()
	}()
	segments, err := filepath.Glob(filepath.Join(leader.DataDir, "pg_wal", strings.Repeat("[0-9A-F]", 24)))
	if err != nil || len(segments) == 0 {
		c.t.Fatalf("no segments: %v", err)
	}
	_, errs := c.run(0, leader, "archive-push", segments[0])
	c.want(errs, "already archived")
	out, _ := c.run(1, leader, "check")
	c.want(out, "the DCS cannot be asked")
	c.run(1, leader, "backup", "--elect")
}

func (c *onCluster) rebuild(standby *lab.Node) {
	ctx, cancel := context.WithTimeout(c.t.Context(), c.Timeout)
	defer cancel()
	err := standby.WriteConfig(func(n *lab.NodeConfig) {
		n.CreateReplica = []lab.Method{
			{Name: "pgtender", Options: map[string]any{"command": c.program + " -c " + configOf(standby) + " create-replica", "keep_data": true}},
			{Name: "basebackup"},
		}
	})
	if err == nil {
		err = standby.Reload(ctx)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.Reinit(standby)
	c.WaitStreaming(1)
	c.want(standby.Log(1000), "replica has been created using pgtender")
	if got := c.SQL(standby, "select count(*) from t"); got != strconv.Itoa(1000) {
		c.t.Errorf("the rebuilt replica counts %s, want 1000", got)
	}
}
