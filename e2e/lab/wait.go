package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Leader gives the node that holds the leader key and says so itself. A dead
// leader whose key has not expired is none.
func (c *Cluster) Leader(ctx context.Context) (*Node, error) {
	var failures []error
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := n.REST(short, http.MethodGet, "/leader", nil)
		cancel()
		if err == nil {
			return n, nil
		}
		failures = append(failures, err)
	}
	if len(failures) == 0 {
		return nil, errors.New("no leader: no node is running")
	}
	return nil, fmt.Errorf("no leader: %w", errors.Join(failures...))
}

// WaitLeader waits until there is a leader that accepts writes.
func (c *Cluster) WaitLeader(ctx context.Context) (leader *Node, err error) {
	err = poll(ctx, "a leader", func(ctx context.Context) error {
		if err := c.lost(); err != nil {
			return err
		}
		if leader, err = c.Leader(ctx); err != nil {
			return err
		}
		recovering, err := leader.SQL(ctx, "select pg_is_in_recovery()")
		if err == nil && recovering != "f" {
			err = fmt.Errorf("%s leads but is in recovery", leader.Name)
		}
		return err
	})
	return leader, err
}

// WaitStreaming waits until exactly n of the cluster's nodes run as replicas and
// stream from the leader.
func (c *Cluster) WaitStreaming(ctx context.Context, n int) error {
	return poll(ctx, fmt.Sprintf("%d streaming replicas", n), func(ctx context.Context) error {
		if err := c.lost(); err != nil {
			return err
		}
		leader, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		names, err := leader.SQL(ctx, "select application_name from pg_stat_replication where state = 'streaming'")
		if err != nil {
			return err
		}
		var streaming []string
		for _, name := range strings.Fields(names) {
			node := c.Node(name)
			if node == nil || !node.Running() {
				continue // a backup's WAL stream, or a dead node's connection
			}
			if status, err := node.Status(ctx); err != nil || status.State != "running" || status.Role != "replica" {
				continue
			}
			streaming = append(streaming, name)
		}
		if len(streaming) != n {
			return fmt.Errorf("%s streams to %d: %s", leader.Name, len(streaming), strings.Join(streaming, ", "))
		}
		return nil
	})
}

// waitKnown waits until the DCS has every member's timeline, which a member writes
// there once in each round of its loop.
func (c *Cluster) waitKnown(ctx context.Context) error {
	return poll(ctx, "every member's timeline in the DCS", func(ctx context.Context) error {
		if err := c.lost(); err != nil {
			return err
		}
		members, err := c.Members(ctx)
		if err != nil {
			return err
		}
		known := 0
		for _, m := range members {
			if m.Timeline != 0 {
				known++
			}
		}
		if known < len(c.Nodes) {
			return fmt.Errorf("%d of %d are known: %+v", known, len(c.Nodes), members)
		}
		return nil
	})
}

// lost reports a cluster none of whose started nodes is left: waiting is in vain.
func (c *Cluster) lost() error {
	var ended []error
	for _, n := range c.Nodes {
		if n.Running() {
			return nil
		}
		if n.process != nil {
			ended = append(ended, fmt.Errorf("Patroni of %s ended %s, see %s", n.Name, n.process.status, n.LogFile))
		}
	}
	if len(ended) == 0 {
		return permanent{errors.New("no node was started")}
	}
	return permanent{errors.Join(ended...)}
}

// SyncStandby gives a synchronous standby (in quorum mode a voter) as Patroni
// reports it.
func (c *Cluster) SyncStandby(ctx context.Context) (*Node, error) {
	members, err := c.Members(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		node := c.Node(m.Name)
		if node != nil && node.Running() && (m.Role == "sync_standby" || m.Role == "quorum_standby") {
			return node, nil
		}
	}
	return nil, fmt.Errorf("no synchronous standby among %+v", members)
}

// WaitSyncStandby waits until there is one and the leader's PostgreSQL waits for
// it, too: a commit from now on is on both.
func (c *Cluster) WaitSyncStandby(ctx context.Context) (standby *Node, err error) {
	err = poll(ctx, "a synchronous standby", func(ctx context.Context) error {
		if standby, err = c.SyncStandby(ctx); err != nil {
			return err
		}
		leader, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		names, err := leader.SQL(ctx, "select application_name from pg_stat_replication where sync_state in ('sync', 'quorum')")
		if err == nil && !strings.Contains("\n"+names+"\n", "\n"+standby.Name+"\n") {
			err = fmt.Errorf("%s is the synchronous standby, and %s waits for %q", standby.Name, leader.Name, names)
		}
		return err
	})
	return standby, err
}
