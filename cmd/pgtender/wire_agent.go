package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
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
	logPushed(ctx, n.log, filepath.Base(path), r.Outcome)
	return true
}

func logPushed(ctx context.Context, log *slog.Logger, segment, outcome string) {
	log.InfoContext(ctx, "archived by the agent", "file", segment, "outcome", outcome)
}

// shared lets several goroutines use one node, in turn. Stores are safe for
// concurrent use themselves.
type shared struct {
	mu      sync.Mutex // of node
	node    *node
	renewed time.Time // when Patroni's configuration was read last; guarded by mu
	dataDir string    // the member's
	repo    atomic.Pointer[repo.Repo]
	checked atomic.Pointer[time.Time] // when the owner's check last passed
	pacer   archive.Pacer
	recent  archive.Recent
}

// renewAge is how old what is known of Patroni's configuration may be.
const renewAge = 10 * time.Second

// renew brings the node up to date. The caller has s.mu.
func (s *shared) renew() {
	if time.Since(s.renewed) >= renewAge {
		s.renewed = time.Now()
		s.node.renew()
	}
}

// ownerAge is for how long the owner's check counts.
const ownerAge = 10 * time.Second

func (s *shared) repository(ctx context.Context) (*repo.Repo, error) {
	if r := s.repo.Load(); s.ofServer(ctx, r) {
		return r, nil // without waiting for who asks the DCS
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.repo.Load(); s.ofServer(ctx, r) {
		return r, nil
	}
	s.renew()
	r, err := s.node.repositoryToWrite(ctx)
	if err == nil {
		s.repo.Store(r)
	}
	return r, err
}

// ofServer reports whether r is the part of the cluster that the data directory is
// of now: a cluster may be made anew in it while the agent runs.
func (s *shared) ofServer(ctx context.Context, r *repo.Repo) bool {
	if r == nil {
		return false
	}
	_, control, err := pg.ReadControl(ctx, s.dataDir)
	return err != nil || control.SystemID == r.Cluster().SystemID
}

// archive stores one segment, and leaves no trace where it cannot.
func (s *shared) archive(ctx context.Context, path string, how agent.How) (archive.PushResult, error) {
	r, err := s.repository(ctx)
	if err != nil {
		return archive.PushResult{}, err
	}
	opts := archive.PushOptions{
		Path: path, Assist: true, Expected: how.Expected, Pacer: &s.pacer, Recent: &s.recent, Log: s.node.log,
		CheckOwner: func(ctx context.Context) error { return s.checkOwner(ctx, r) },
	}
	if !how.Late {
		opts.Grace = s.node.standbyGrace()
	}
	return archive.Push(ctx, r, opts)
}

func (s *shared) checkOwner(ctx context.Context, r *repo.Repo) error {
	if s.ownerChecked() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ownerChecked() {
		return nil
	}
	s.renew()
	opts, err := s.node.pushOptions(r, 0)
	if err == nil {
		err = opts.CheckOwner(ctx)
	}
	if err == nil {
		now := time.Now()
		s.checked.Store(&now)
	}
	return err
}

func (s *shared) ownerChecked() bool {
	at := s.checked.Load()
	return at != nil && time.Since(*at) < ownerAge
}

func (s *shared) connect(ctx context.Context) (*server.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renew()
	return s.node.connectLocal(ctx)
}

// role says what part this member plays, by a fresh look at the DCS.
func (s *shared) role(ctx context.Context, t pg.Timeline) agent.Role {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renew()
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

// fetching is the fetching ahead for one pg_wal.
type fetching struct {
	walDir string

	mu sync.Mutex
	at *archive.Prefetch // that runs, nil if none does; guarded by mu
}

// errNotAhead means that nothing is fetched ahead for who asks.
var errNotAhead = errors.New("nothing is fetched ahead for this reader")

// handOver gives the file that holds a segment if those of its reader are fetched
// now. Who is the first to ask, or asks for what lies behind the archive's end, gets an
// error at once.
func (f *fetching) handOver(ctx context.Context, reader, name string) (path string, err error) {
	f.mu.Lock()
	p := f.at
	f.mu.Unlock()
	if p == nil || p.Reader != reader {
		return "", errNotAhead
	}
	return p.HandOver(ctx, name)
}

// begin runs p unless something is fetched already.
func (f *fetching) begin(ctx context.Context, p *archive.Prefetch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at != nil {
		return
	}
	f.at = p
	go func() {
		if err := p.Run(ctx); err != nil && ctx.Err() == nil {
			p.Log.DebugContext(ctx, "fetching ahead has ended", "error", err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.at = nil
	}()
}

// get has a segment in the spool, and those that follow it as far as there is
// room.
func (s *shared) get(f *fetching) func(asked, life context.Context, q agent.Request) error {
	return func(asked, life context.Context, q agent.Request) error {
		if err := agent.SameDir(filepath.Dir(q.Path), f.walDir); err != nil {
			return err
		}
		r, err := s.repository(asked)
		if err != nil {
			return err
		}
		p := s.prefetch(r, f.walDir, q.Fingerprint, pg.Timeline(q.Timeline))
		f.begin(life, p)
		_, err = f.handOver(asked, p.Reader, q.Name)
		return err
	}
}

// prefetch fetches ahead until nobody asks any more.
func (s *shared) prefetch(r *repo.Repo, walDir, fingerprint string, t pg.Timeline) *archive.Prefetch {
	return &archive.Prefetch{
		Repo: r, WALDir: walDir, Reader: readerOf(fingerprint, t), Inclusive: true,
		Bytes: int64(s.node.Archive.Prefetch), Workers: int(s.node.Archive.Workers),
		Alive: serverIn(filepath.Dir(walDir)), Log: s.node.log,
		Lineage: func(ctx context.Context) (archive.Lineage, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.renew()
			return s.node.lineage(r, t, filepath.Dir(walDir))(ctx)
		},
	}
}
