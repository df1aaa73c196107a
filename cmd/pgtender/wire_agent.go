package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"sync"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/agent"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/internal/config"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

// fingerprint tells configurations apart, so that a command and an agent that
// were given different ones do not meet. How they log does not count, nor what
// an agent holds.
func (n *node) fingerprint() string {
	c := n.Config
	c.Log, c.Agent = config.Log{}, config.Agent{}
	b, err := json.Marshal(c)
	if err != nil {
		panic("internal error: a configuration that cannot be encoded: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// pushedByAgent reports whether the agent archived a file. That there is none,
// or that it could not, is no error: then the command does it.
func (n *node) pushedByAgent(ctx context.Context, path string) bool {
	if name, err := repo.ParseWALName(filepath.Base(path)); err != nil || name.Segment == "" || name.Partial || name.Backup {
		return false
	}
	abs, err := filepath.Abs(path)
	if err != nil || n.Agent.Socket == "" {
		return false
	}
	r, err := agent.Ask(ctx, n.Agent.Socket, agent.Request{Fingerprint: n.fingerprint(), Do: agent.DoPush, Path: abs})
	if err != nil || r.Name != abs {
		n.log.DebugContext(ctx, "not archived by the agent", "file", path, "error", err)
		return false
	}
	n.log.InfoContext(ctx, "archived by the agent", "file", filepath.Base(path), "outcome", r.Outcome)
	return true
}

// shared lets several goroutines use one node, in turn. Stores are safe for
// concurrent use themselves.
type shared struct {
	mu      sync.Mutex
	node    *node
	repo    *repo.Repo
	checked time.Time // when the owner's check last passed
}

// ownerAge is for how long the owner's check counts.
const ownerAge = 10 * time.Second

func (s *shared) repository(ctx context.Context) (*repo.Repo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.repo == nil {
		r, err := s.node.repositoryToWrite(ctx)
		if err != nil {
			return nil, err
		}
		s.repo = r
	}
	return s.repo, nil
}

// archive stores one segment, and leaves no trace where it cannot.
func (s *shared) archive(ctx context.Context, path string) (archive.PushResult, error) {
	r, err := s.repository(ctx)
	if err != nil {
		return archive.PushResult{}, err
	}
	opts := archive.PushOptions{
		Path: path, Assist: true, Log: s.node.log,
		CheckOwner: func(ctx context.Context) error { return s.checkOwner(ctx, r) },
	}
	return archive.Push(ctx, r, opts)
}

func (s *shared) checkOwner(ctx context.Context, r *repo.Repo) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.checked.IsZero() && time.Since(s.checked) < ownerAge {
		return nil
	}
	opts, err := s.node.pushOptions(r, 0)
	if err == nil {
		err = opts.CheckOwner(ctx)
	}
	if err == nil {
		s.checked = time.Now()
	}
	return err
}

func (s *shared) connect(ctx context.Context) (*server.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node.connectLocal(ctx)
}

// role says what part this member plays, by a fresh look at the DCS.
func (s *shared) role(ctx context.Context, t pg.Timeline) agent.Role {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := s.node.dcsTimeout(ctx)
	defer cancel()
	v, err := s.node.view(ctx, "")
	if err != nil {
		return agent.RoleUnknown
	}
	if v.Err == nil && v.Cluster.Leader == "" {
		return agent.RoleNoLeader
	}
	switch role, _ := ha.ArchiveRole(v, t); role {
	case ha.RoleLeader:
		return agent.RoleLeader
	case ha.RoleReplica:
		return agent.RoleReplica
	}
	return agent.RoleUnknown
}
