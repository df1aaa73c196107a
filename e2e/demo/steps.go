package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgtender/pgtender/e2e/lab"
)

func (t *tour) startCluster(ctx context.Context) (err error) {
	t.say(`Three PostgreSQL servers, pg1 to pg3. Each is run by a Patroni, which decides who leads and
keeps that in etcd. A commit is acknowledged only when the leader and one synchronous standby
have it. All of it runs as %s, on loopback ports, in %s.`, serversUser(), t.dir)
	if err := t.prepare(ctx); err != nil {
		return err
	}
	t.say("\nEvery command below runs in that folder. All that pgtender has to be told on a node is two lines,")
	if err := t.showFile("pg1/pgtender.yml", ""); err != nil {
		return err
	}
	t.say("\nand Patroni is told to archive with it and to fetch WAL with it:")
	if err := t.showFile("pg1/patroni.yml", "sbin/pgtender"); err != nil {
		return err
	}
	began := time.Now()
	if err := t.cluster.Up(ctx); err != nil {
		return err
	}
	if t.leader, err = t.cluster.WaitLeader(ctx); err != nil {
		return err
	}
	t.say("\nThe cluster is up after %s. pg2 and pg3 were copied from pg1: so far there is no backup to make them from.", seconds(time.Since(began)))
	return nil
}

// showFile prints a file of the demo's folder as cat would, or as grep would the
// lines that hold a text.
func (t *tour) showFile(name, holding string) error {
	content, err := os.ReadFile(filepath.Join(t.dir, name))
	if err != nil {
		return err
	}
	if holding == "" {
		t.command("cat", name)
		t.output(string(content))
		return nil
	}
	t.command("grep", holding, name)
	t.output(strings.Join(linesWith(string(content), holding), "\n"))
	return nil
}

func linesWith(text string, parts ...string) []string {
	var found []string
	for line := range strings.Lines(text) {
		for _, part := range parts {
			if strings.Contains(line, part) {
				found = append(found, strings.TrimRight(line, "\n"))
				break
			}
		}
	}
	return found
}

func (t *tour) writeData(ctx context.Context) error {
	t.say("A million rows of pgbench's bank accounts, and a table of orders.")
	if _, err := t.client(ctx, t.leader, "pgbench", "-i", "-q", "-s", "10"); err != nil {
		return err
	}
	const orders = "create table orders (id bigint primary key generated always as identity, item text, at timestamptz default now())"
	if _, err := t.client(ctx, t.leader, "psql", "-c", orders); err != nil {
		return err
	}
	_, err := t.client(ctx, t.leader, "psql", "-c", "insert into orders (item) select 'item ' || n from generate_series(1, 10000) n")
	return err
}

func (t *tour) showTopology(ctx context.Context) (err error) {
	t.say("pgtender reads from etcd what Patroni knows, and says which member it would take a backup from, and why.")
	if t.standby, err = t.settled(ctx); err != nil {
		return err
	}
	_, err = t.pgtender(ctx, t.leader, "topology")
	return err
}

func (t *tour) backUp(ctx context.Context) error {
	t.say("On the leader a backup is refused:")
	if out, err := t.pgtender(ctx, t.leader, "backup"); err == nil || !strings.Contains(out, "is not the source") {
		return fmt.Errorf("a backup on the leader %s was not refused (error: %v)", t.leader.Name, err)
	}
	t.say("\nOn %s, the synchronous standby, it is taken. (Cron runs \"pgtender backup --elect\" on every node:\nthe others exit quietly.)", t.standby.Name)
	primary, err := watchReads(t.leader.DataDir)
	if err != nil {
		return err
	}
	source, err := watchReads(t.standby.DataDir)
	if err != nil {
		return err
	}
	began := time.Now()
	_, backupErr := t.pgtender(ctx, t.standby, "backup")
	t.backupTook = time.Since(began)
	onPrimary, err := primary.end()
	onSource, sourceErr := source.end()
	if err := errors.Join(backupErr, err, sourceErr); err != nil {
		return err
	}
	t.say("\nThat took %s. The kernel (inotify) was asked which files of the tables and indexes above anybody read meanwhile:\n", seconds(t.backupTook))
	t.output(fmt.Sprintf("%s, the primary:              %2d of %d\n%s, the synchronous standby:  %2d of %d",
		t.leader.Name, len(onPrimary), len(primary.files), t.standby.Name, len(onSource), len(source.files)))
	if len(onPrimary) > 0 || len(onSource) < len(source.files) {
		return fmt.Errorf("the primary's files were read, or not all of the standby's; on the primary: %q, on the standby: %q", onPrimary, onSource)
	}
	if err := t.makeReplicas(ctx); err != nil {
		return err
	}
	t.say("\nNow that there is a backup, every Patroni is told to make replicas from it:")
	return t.showFile("pg1/patroni.yml", "create-replica")
}

func (t *tour) killLeader(ctx context.Context) (err error) {
	t.say("First more work, after the backup: these changes are in the archived WAL and on the standbys only.")
	if _, err := t.client(ctx, t.leader, "pgbench", "-n", "-c", "2", "-T", "3"); err != nil {
		return err
	}
	t.marker = "the last order before the crash"
	if _, err := t.client(ctx, t.leader, "psql", "-c", "insert into orders (item) values ('"+t.marker+"')"); err != nil {
		return err
	}
	t.lost = t.leader
	t.say("\nNow Patroni and PostgreSQL of %s get SIGKILL, all processes at once. Nobody is told. Patroni's other members\nhave to notice that the leader key in etcd runs out (its ttl is 20 s).", t.lost.Name)
	began := time.Now()
	t.lost.Kill()
	if t.leader, err = t.cluster.WaitLeader(ctx); err != nil {
		return err
	}
	t.failoverTook = time.Since(began)
	t.say("\n%s leads after %s.", t.leader.Name, seconds(t.failoverTook))
	if _, err := t.client(ctx, t.leader, "psql", "-c", "insert into orders (item) values ('the first order after the crash')"); err != nil {
		return err
	}
	if _, err := t.settled(ctx); err != nil {
		return err
	}
	_, err = t.pgtender(ctx, t.leader, "topology")
	return err
}

func (t *tour) rebuild(ctx context.Context) error {
	t.say(`The disk of %[1]s is gone too: its data directory is removed. Then its Patroni starts again, finds nothing, and
calls pgtender, which fetches the backup and the WAL from the repository. %[2]s, the new primary, only sends
what was written since.`, t.lost.Name, t.leader.Name)
	if err := t.lost.Wipe(); err != nil {
		return err
	}
	t.command("rm", "-r", t.lost.Name+"/data")
	log, err := os.Stat(t.lost.LogFile)
	if err != nil {
		return err
	}
	primary, err := watchReads(t.leader.DataDir)
	if err != nil {
		return err
	}
	began := time.Now()
	t.command("patroni", t.lost.Name+"/patroni.yml")
	if err := t.lost.Start(ctx); err != nil {
		return err
	}
	streamErr := t.cluster.WaitStreaming(ctx, len(t.cluster.Nodes)-1)
	t.rebuildTook = time.Since(began)
	onPrimary, err := primary.end()
	if err := errors.Join(streamErr, err); err != nil {
		return err
	}
	content, err := os.ReadFile(t.lost.LogFile)
	if err != nil {
		return err
	}
	const done = "replica has been created using pgtender"
	told := linesWith(string(content[log.Size():]), "trying to bootstrap", "msg=plan", "msg=phase", "replica restored", "replica has been created",
		"restored log file", "started streaming", "level=WARN", "level=ERROR")
	t.output(strings.Join(told, "\n"))
	if !strings.Contains(strings.Join(told, "\n"), done) {
		return fmt.Errorf("Patroni does not say %q in %s", done, t.lost.LogFile)
	}
	t.say("\n%s streams from %s again after %s. Files of tables and indexes read on %s meanwhile: %d of %d.",
		t.lost.Name, t.leader.Name, seconds(t.rebuildTook), t.leader.Name, len(onPrimary), len(primary.files))
	if len(onPrimary) > 0 {
		return fmt.Errorf("the primary's files were read: %q", onPrimary)
	}
	return nil
}

func (t *tour) showRepository(ctx context.Context) error {
	t.say("A segment of WAL is archived when it is full (16 MB), or ended by hand:")
	if _, err := t.client(ctx, t.leader, "psql", "-c", "select pg_walfile_name(pg_switch_wal())"); err != nil {
		return err
	}
	err := await(ctx, "WAL of the new timeline in the archive", func() (bool, error) {
		answer, err := t.leader.SQL(ctx, "select last_archived_wal > '00000002' and last_archived_wal !~ 'history' from pg_stat_archiver")
		return answer == "t", err
	})
	if err != nil {
		return err
	}
	t.say("\nSo there is one backup, and the WAL of both timelines without a hole: everything needed to go back to any moment since.")
	_, err = t.pgtender(ctx, t.leader, "info")
	return err
}

// members gives the nodes with the leader first.
func (t *tour) members() []*lab.Node {
	all := []*lab.Node{t.leader}
	for _, n := range t.cluster.Nodes {
		if n != t.leader {
			all = append(all, n)
		}
	}
	return all
}
