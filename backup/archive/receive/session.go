package receive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

const (
	// ticks is how many periods of chunks pass between two looks for the leader,
	// at which the slot is moved too.
	ticks = 5
	// statusEvery is how often the server hears from us.
	statusEvery = 5 * time.Second
	// drainTime is how long what was received is stored after the stream has
	// broken: the leader may be gone for good.
	drainTime = 5 * time.Minute
)

// session is one stream from one leader.
type session struct {
	o   *Options
	log *slog.Logger

	server  Server
	conn    *server.ReplicationConn
	sql     *server.Conn
	slot    *holder
	dir     string // the spool
	size    pg.SegmentSize
	history pg.History // of the timeline that is streamed, or a later one

	durable  atomic.Uint64 // pg.LSN up to which all since the start is in the repository; 0: nothing yet
	progress atomic.Bool
}

func (s *session) run(ctx context.Context) (err error) {
	if s.server, err = s.o.Leader(ctx); err != nil {
		return fmt.Errorf("find the leader: %w", err)
	}
	s.log = s.o.Log.With("leader", s.server.Member)
	var unlock func()
	if s.dir, unlock, err = spool(s.o.Dir); err != nil {
		return err
	}
	defer unlock()
	f, err := s.connect(ctx)
	defer s.close()
	if err != nil {
		return err
	}
	places := starts(f)
	for i, at := range places {
		err = s.stream(ctx, at, i > 0)
		if i+1 == len(places) || s.durable.Load() != 0 || !walRemoved(err) {
			break
		}
		s.log.WarnContext(ctx, "WAL that the archive lacks is gone from the leader", "from", at.LSN.String(), "timeline", at.Timeline.String(), "error", err)
		s.reconnect(ctx)
	}
	return err
}

// walRemoved reports whether the server no longer has the WAL asked for
// (WalSndSegmentOpen, walsender.c): undefined_file.
func walRemoved(err error) bool { return server.SQLState(err) == "58P01" }

// connect opens both sessions and collects what a start depends on.
func (s *session) connect(ctx context.Context) (f found, err error) {
	id, err := s.identify(ctx)
	if err != nil {
		return f, err
	}
	if s.sql, err = server.Connect(ctx, named(s.server.SQL)); err != nil {
		return f, err
	}
	p, err := s.sql.Positions(ctx)
	switch {
	case err != nil:
		return f, err
	case p.InRecovery:
		return f, fmt.Errorf("stream from %s: %w", s.server.SQL, errNotPrimary)
	}
	if err := s.hold(ctx); err != nil {
		return f, err
	}
	if s.history, err = s.fetchHistory(ctx, id.Pos.Timeline); err != nil {
		return f, err
	}
	s.sweep(ctx)
	f = found{history: s.history, size: s.size, flush: id.Pos.LSN, slot: s.slot.at}
	f.archived, err = archivedNear(ctx, s.o.Repo, s.history, s.size, f.flush)
	return f, err
}

func named(o server.Options) server.Options {
	o.ApplicationName = ApplicationName
	return o
}

func (s *session) identify(ctx context.Context) (id server.Identity, err error) {
	if s.conn, err = server.ConnectReplication(ctx, named(s.server.Replication)); err != nil {
		return id, err
	}
	if id, err = s.conn.Identify(ctx); err != nil {
		return id, err
	}
	if want := s.o.Repo.Cluster().SystemID; id.SystemID != want {
		return id, finding.WithHint(fmt.Errorf("%w: %s has system identifier %s, the repository's part is of %s", ErrOtherCluster, s.server.Replication, id.SystemID, want),
			"scope and repository of the configuration belong to another cluster; if it was initialised anew, start receive again")
	}
	s.size, err = s.conn.SegmentSize(ctx)
	return id, err
}

// reconnect opens the replication session anew, since an error may have ended
// it. What fails here shows with the next command.
func (s *session) reconnect(ctx context.Context) {
	s.conn.Close()
	if conn, err := server.ConnectReplication(ctx, named(s.server.Replication)); err == nil {
		s.conn = conn
	}
}

func (s *session) close() {
	if s.conn != nil {
		s.conn.Close()
	}
	if s.sql != nil {
		s.sql.Close()
	}
}

func (s *session) hold(ctx context.Context) (err error) {
	kept := true
	if s.o.Kept != nil {
		if kept, err = s.o.Kept(ctx); err != nil {
			s.log.WarnContext(ctx, "whether the slot is declared to Patroni cannot be asked", "slot", s.o.Slot, "error", err)
			kept = false
		}
	}
	s.slot, err = hold(ctx, s.sql, s.o.Slot, kept, s.log)
	return err
}

// fetchHistory fetches the history of a timeline, and archives it: without it
// nobody could follow the timeline's WAL.
func (s *session) fetchHistory(ctx context.Context, t pg.Timeline) (pg.History, error) {
	if t == 1 {
		return pg.FirstTimeline(), nil
	}
	content, err := s.conn.TimelineHistory(ctx, t)
	if err != nil {
		return pg.History{}, err
	}
	h, err := pg.ParseHistory(t, content)
	if err != nil {
		return h, err
	}
	// The push looks for histories beside the segments.
	path := filepath.Join(s.dir, pg.HistoryName(t))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return h, fmt.Errorf("spool: %w", err)
	}
	_, err = s.push(ctx, path, t)
	return h, err
}

// push archives a file of the spool.
func (s *session) push(ctx context.Context, path string, t pg.Timeline) (archive.PushResult, error) {
	o := s.o.Push
	o.Path, o.WALDir, o.SystemID, o.Log = path, s.dir, s.o.Repo.Cluster().SystemID, s.log
	o.Expected = true // the leader's own archiver is often faster
	o.Confirm = nil   // it came from the leader's own server
	if s.o.Leads != nil {
		o.Leadership = func(ctx context.Context) (archive.Proof, error) { return s.o.Leads(ctx, s.server, t) }
	}
	return archive.Push(ctx, s.o.Repo, o)
}

// sweep removes chunks that an earlier receiver left behind.
func (s *session) sweep(ctx context.Context) {
	n, err := archive.SweepStreamed(ctx, s.o.Repo, s.history, s.size)
	if err != nil {
		s.log.WarnContext(ctx, "chunks of archived segments could not be removed", "error", err)
	}
	if n > 0 {
		s.log.InfoContext(ctx, "chunks of archived segments removed", "count", n)
	}
}

// stream streams from a segment's start on, through the timelines that follow,
// until something ends it.
func (s *session) stream(ctx context.Context, at pg.Pos, gap bool) error {
	if gap {
		s.log.WarnContext(ctx, "the archive will have a hole before this unless a member still has the WAL: pgtender wal verify", "at", at.LSN.String())
	}
	s.log.InfoContext(ctx, "streaming", "timeline", at.Timeline.String(), "from", at.LSN.String(), "slot", s.slot.name)
	g, gctx := errgroup.WithContext(ctx)
	done := make(chan struct{})
	g.Go(func() error { return s.watch(gctx, done) })
	g.Go(func() error {
		defer close(done)
		for {
			next, err := s.timeline(ctx, gctx, at)
			if err != nil {
				return err
			}
			at = next
		}
	})
	return g.Wait()
}

// timeline streams one timeline to its end, and gives where the next begins.
// What was received is stored even if the stream breaks, for its server may be
// gone for good; not so once root has ended, for then somebody else may have
// taken over.
func (s *session) timeline(root, ctx context.Context, at pg.Pos) (pg.Pos, error) {
	own, ok := archive.Ancestor(s.history, at.Timeline)
	if !ok {
		return pg.Pos{}, fmt.Errorf("timeline %s is not part of the history of timeline %s", at.Timeline, s.history.Timeline)
	}
	storing, stop := context.WithCancelCause(root)
	defer stop(nil)
	streaming, broken := context.WithCancelCause(ctx)
	p := newPipe(s, own)
	stored := make(chan error, 1)
	go func() {
		err := p.store(storing)
		broken(err)
		stored <- err
	}()
	next, err := s.conn.Stream(streaming, server.StreamOptions{Start: at, Receive: p.receive, StatusEvery: statusEvery})
	p.end()
	if err != nil {
		late := fmt.Errorf("the repository did not take what was received within %s", drainTime)
		defer time.AfterFunc(drainTime, func() { stop(late) }).Stop()
	}
	if storeErr := <-stored; storeErr != nil {
		return pg.Pos{}, fmt.Errorf("store streamed WAL: %w", storeErr)
	}
	switch {
	case err != nil:
		return pg.Pos{}, err
	case next.Timeline == 0:
		return pg.Pos{}, errSlowStore
	}
	s.log.InfoContext(ctx, "the timeline has ended", "timeline", at.Timeline.String(), "next", next.Timeline.String(), "at", next.LSN.String())
	if _, known := archive.Ancestor(s.history, next.Timeline); !known {
		if s.history, err = s.fetchHistory(ctx, next.Timeline); err != nil {
			return pg.Pos{}, err
		}
	}
	return pg.Pos{Timeline: next.Timeline, LSN: s.size.Start(s.size.SegmentOf(next.LSN))}, nil
}

// errSlowStore ends a stream in order, whose WAL the leader keeps.
var errSlowStore = errors.New("the repository does not keep up with the stream")

// watch moves the slot and notices when somebody else leads.
func (s *session) watch(ctx context.Context, done <-chan struct{}) error {
	timer := time.NewTicker(ticks * s.o.Every)
	defer timer.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		if err := s.moveSlot(ctx); err != nil {
			return err
		}
		now, err := s.o.Leader(ctx)
		if err == nil && !now.same(&s.server) {
			return leaderChanged{s.server.Member, now.Member}
		}
	}
}

// moveSlot lets go of the WAL that is durably in the repository. A slot that is
// gone is made anew; a session that is gone ends the stream, whose server most
// likely is too.
func (s *session) moveSlot(ctx context.Context) error {
	if err := s.settle(ctx); err != nil {
		return err
	}
	err := s.slot.advance(ctx, pg.LSN(s.durable.Load()))
	if err == nil || ctx.Err() != nil {
		return nil
	}
	if server.SQLState(err) == "" {
		return err
	}
	s.log.WarnContext(ctx, "the slot could not be moved", "slot", s.slot.name, "error", err)
	if server.SQLState(err) == "42704" { // undefined_object
		return s.hold(ctx)
	}
	return nil
}

// settle leaves a temporary slot for the permanent one as soon as that is
// declared. Whoever declares it makes it, and then nobody but us moves it on: it
// would hold all WAL from that moment on.
func (s *session) settle(ctx context.Context) error {
	if !s.slot.temporary || s.o.Kept == nil {
		return nil
	}
	if kept, err := s.o.Kept(ctx); err != nil || !kept {
		return nil // it is asked again
	}
	left := s.slot
	if err := s.hold(ctx); err != nil || s.slot.temporary {
		return err
	}
	s.log.InfoContext(ctx, "the slot is declared now", "slot", s.slot.name)
	return s.sql.DropSlot(ctx, left.name)
}

// stored takes note that all WAL before a position is in the repository.
func (s *session) stored(at pg.Pos) {
	s.durable.Store(uint64(at.LSN))
	s.progress.Store(true)
	if s.o.Stored != nil {
		s.o.Stored(at)
	}
}
