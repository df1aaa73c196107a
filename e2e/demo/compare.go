package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgtender/pgtender/e2e/lab"
)

// fingerprint is a query whose answer differs if any row of a table does,
// whatever the order of the rows.
func fingerprint(table string) string {
	return fmt.Sprintf("select count(*), sum(hashtextextended(t::text, 0)) from %s t", table)
}

var comparedTables = []string{"pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history", "orders"}

func (t *tour) compare(ctx context.Context) error {
	t.say("Rows are counted and hashed on every member, once all have replayed what %s has written; for instance by\n\"%s\".\n", t.leader.Name, fingerprint("orders"))
	if err := t.awaitReplay(ctx); err != nil {
		return err
	}
	var differing error
	lines := []string{fmt.Sprintf("%-18s %8s", "table", "rows")}
	for _, n := range t.members() {
		lines[0] += fmt.Sprintf("  %-24s", "hash on "+n.Name)
	}
	for _, table := range comparedTables {
		var first string
		for i, n := range t.members() {
			answer, err := n.SQL(ctx, fingerprint(table))
			if err != nil {
				return err
			}
			rows, hash, _ := strings.Cut(answer, "|")
			if i == 0 {
				first = answer
				lines = append(lines, fmt.Sprintf("%-18s %8s", table, rows))
			} else if answer != first {
				differing = errors.Join(differing, fmt.Errorf("%s on %s is %s, on %s %s", table, t.leader.Name, first, n.Name, answer))
			}
			lines[len(lines)-1] += fmt.Sprintf("  %-24s", hash)
		}
	}
	for _, line := range lines {
		t.output(strings.TrimRight(line, " "))
	}
	if differing != nil {
		return differing
	}
	t.say("\nEqual everywhere. And on %s, rebuilt, what was committed a moment before the crash:", t.lost.Name)
	out, err := t.client(ctx, t.lost, "psql", "-Atc", "select item from orders where id > 10000 order by id")
	if err == nil && !strings.Contains(out, t.marker) {
		err = fmt.Errorf("%s lacks %q", t.lost.Name, t.marker)
	}
	return err
}

// awaitReplay waits until every replica has replayed all that the leader has
// written by now.
func (t *tour) awaitReplay(ctx context.Context) error {
	lsn, err := t.leader.SQL(ctx, "select pg_current_wal_lsn()")
	if err != nil {
		return err
	}
	for _, n := range t.members()[1:] {
		if err := await(ctx, n.Name+" to replay "+lsn, func() (bool, error) { return hasReplayed(ctx, n, lsn), nil }); err != nil {
			return err
		}
	}
	return nil
}

// settled waits until there is a synchronous standby and Patroni, which looks
// once a second, has noted down that the replicas have all that was written.
func (t *tour) settled(ctx context.Context) (standby *lab.Node, err error) {
	if standby, err = t.cluster.WaitSyncStandby(ctx); err != nil {
		return nil, err
	}
	return standby, await(ctx, "the replicas to catch up", func() (bool, error) {
		cmd := t.cluster.Command(ctx, t.tool, "-c", filepath.Join(t.leader.Dir, "pgtender.yml"), "topology", "--json")
		out, err := cmd.Output()
		if err != nil {
			return false, fmt.Errorf("%s: %w", quoted(cmd.Args), err)
		}
		var seen struct{ Members []struct{ Lag *int64 } }
		if err := json.Unmarshal(out, &seen); err != nil {
			return false, fmt.Errorf("%s: %w", quoted(cmd.Args), err)
		}
		behind := slices.ContainsFunc(seen.Members, func(m struct{ Lag *int64 }) bool { return m.Lag == nil || *m.Lag > 0 })
		return len(seen.Members) > 1 && !behind, nil
	})
}

// await looks now and then whether a state has come, until it has or an error.
func await(ctx context.Context, what string, come func() (bool, error)) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if done, err := come(); done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		}
	}
}

func hasReplayed(ctx context.Context, n *lab.Node, lsn string) bool {
	answer, err := n.SQL(ctx, "select pg_last_wal_replay_lsn() >= '"+lsn+"'")
	return err == nil && answer == "t"
}
