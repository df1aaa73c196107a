package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/receive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/patroni"
)

// streamed answers a receiver's questions about the cluster, one at a time,
// for a node is used by one goroutine.
type streamed struct {
	mu   sync.Mutex
	node *node
	repo *repo.Repo
}

// cluster is a fresh look at the DCS.
func (s *streamed) cluster(ctx context.Context) (patroni.Cluster, error) {
	ctx, cancel := s.node.dcsTimeout(ctx)
	defer cancel()
	return s.node.cluster(ctx)
}

func (s *streamed) locked(f func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return f(ctx)
	}
}

// leader finds the leader to stream from.
func (s *streamed) leader(ctx context.Context) (receive.Server, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.cluster(ctx)
	if err != nil {
		return receive.Server{}, err
	}
	if err := nameIsFree(c); err != nil {
		return receive.Server{}, err
	}
	m, ok := c.LeaderMember()
	switch {
	case c.Leader == "":
		return receive.Server{}, errors.New("the cluster has no leader")
	case !ok || m.Host == "":
		return receive.Server{}, fmt.Errorf("the address of the leader %s is not in the DCS", c.Leader)
	}
	return s.node.streamFrom(m.Name, m.Host, m.Port)
}

// nameIsFree refuses to stream under a member's name: Patroni would take the
// stream for that member's.
func nameIsFree(c patroni.Cluster) error {
	for _, m := range c.Members {
		if strings.EqualFold(m.Name, receive.ApplicationName) {
			return finding.WithHint(fmt.Errorf("a member of the cluster is called %s, as the receiver's sessions are", m.Name), "give the member another name")
		}
	}
	return nil
}

// streamFrom completes a server's address.
func (n *node) streamFrom(member, host string, port int) (receive.Server, error) {
	p, _, err := n.patroni()
	if err != nil {
		return receive.Server{}, err
	}
	return receive.Server{
		Member:      member,
		Replication: n.login(p.Postgres.Replication, cmp.Or(n.Server.ReplicationUser, n.Server.User), host, port),
		SQL:         n.login(p.Postgres.Superuser, n.Server.User, host, port),
	}, nil
}

// leads says whether the server that was streamed from leads, by a DCS that
// belongs to the repository's owner.
func (s *streamed) leads(ctx context.Context, from receive.Server, _ pg.Timeline) (archive.Proof, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := s.node.dcsTimeout(ctx)
	defer cancel()
	prefix, err := s.node.prefix()
	if err != nil {
		return archive.Unknown, err
	}
	if err := s.node.ownsRepository(ctx, s.repo, prefix); err != nil {
		return archive.Unknown, err
	}
	c, err := s.node.cluster(ctx)
	switch {
	case err != nil:
		return archive.Unknown, err
	case c.Leader != from.Member:
		return archive.NotLeader, nil
	}
	return archive.Leader, nil
}

// kept reports whether Patroni keeps a slot of the receiver's name.
func (s *streamed) kept(ctx context.Context) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.cluster(ctx)
	if err != nil {
		return false, err
	}
	if !c.Dynamic.Known {
		return false, errors.New("the cluster's dynamic configuration is not in the DCS")
	}
	return keepsSlot(c.Dynamic, s.node.Receive.Slot), nil
}

// keepsSlot reports whether Patroni leaves a physical slot of that name alone:
// as a permanent one, or as one to ignore (slots.py:SlotsHandler.ignore_replication_slot).
func keepsSlot(d patroni.Dynamic, name string) bool {
	if slot, ok := d.Slots[name]; ok {
		return cmp.Or(slot["type"], "physical") == "physical"
	}
	for _, m := range d.IgnoreSlots {
		if (m["name"] == "" || m["name"] == name) && (m["type"] == "" || m["type"] == "physical") && m["database"] == "" && m["plugin"] == "" {
			return true
		}
	}
	return false
}

// primaryAmong finds the one of receive.hosts that is no standby.
func (n *node) primaryAmong(ctx context.Context) (receive.Server, error) {
	var failed []error
	for _, address := range n.Receive.Hosts {
		s, err := n.primaryAt(ctx, address)
		if err == nil {
			return s, nil
		}
		failed = append(failed, fmt.Errorf("%s: %w", address, err))
	}
	return receive.Server{}, errors.Join(failed...)
}

func (n *node) primaryAt(ctx context.Context, address string) (receive.Server, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return receive.Server{}, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return receive.Server{}, fmt.Errorf("port %q is no number", service)
	}
	s, err := n.streamFrom(address, host, int(port))
	if err != nil {
		return receive.Server{}, err
	}
	conn, err := server.Connect(ctx, s.SQL)
	if err != nil {
		return receive.Server{}, err
	}
	defer conn.Close()
	p, err := conn.Positions(ctx)
	if err == nil && p.InRecovery {
		err = errors.New("it is a standby")
	}
	return s, err
}
