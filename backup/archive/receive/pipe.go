package receive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

const (
	// ahead is how many segments may wait behind the one that is being stored.
	ahead = 1
	// stallTime is how long the stream stands still for the repository, well
	// below wal_sender_timeout, before it is ended in order: the leader keeps
	// the WAL then.
	stallTime = 15 * time.Second
)

// pipe takes the WAL of one timeline, in order from a segment's start, and
// stores it. receive is called by the stream, store runs beside it.
type pipe struct {
	s           *session
	incarnation repo.Incarnation
	open        *segment      // that arrives; owned by receive
	work        chan *segment // in order, from the moment each is begun
	dead        chan struct{} // store has ended
}

func newPipe(s *session, own pg.History) *pipe {
	return &pipe{s: s, incarnation: repo.IncarnationOf(own), work: make(chan *segment, ahead), dead: make(chan struct{})}
}

var errStoreEnded = errors.New("the WAL received cannot be stored")

// receive implements [server.StreamOptions].Receive.
func (p *pipe) receive(at pg.LSN, data []byte) error {
	for len(data) > 0 {
		if p.open == nil {
			if err := p.begin(at); err != nil {
				return err
			}
		}
		room := int64(p.s.size) - int64(p.s.size.Offset(at))
		n := min(int64(len(data)), room)
		if err := p.open.write(data[:n], n == room); err != nil {
			return fmt.Errorf("spool: %w", err)
		}
		if n == room {
			p.open = nil
		}
		at, data = at+pg.LSN(n), data[n:]
	}
	return nil
}

// begin begins a segment, whose start at is.
func (p *pipe) begin(at pg.LSN) error {
	number := p.s.size.SegmentOf(at)
	if p.s.size.Start(number) != at {
		return fmt.Errorf("the stream begins at %s, which is no segment's start", at)
	}
	name := pg.Segment{Timeline: p.incarnation.Timeline, Number: number}.Name(p.s.size)
	seg := &segment{number: number, path: filepath.Join(p.s.dir, name), changed: make(chan struct{}, 1)}
	var err error
	// Under another name until it is whole: beside it, a push looks for
	// segments.
	if seg.file, err = os.OpenFile(seg.path+".open", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	select {
	case p.work <- seg:
		p.open = seg
		return nil
	case <-p.dead:
		return errors.Join(errStoreEnded, seg.close())
	case <-time.After(stallTime):
		return errors.Join(server.ErrStop, seg.close())
	}
}

// end tells store that nothing more comes.
func (p *pipe) end() {
	if p.open != nil {
		p.open.end()
	}
	close(p.work)
}

// store stores what is received, one segment after the other, until the end or
// an error.
func (p *pipe) store(ctx context.Context) (err error) {
	defer close(p.dead)
	for seg := range p.work {
		if err := errors.Join(p.storeSegment(ctx, seg), seg.close()); err != nil {
			return err
		}
	}
	return nil
}

// storeSegment stores chunks of a segment while it arrives, and archives it
// when it is whole.
func (p *pipe) storeSegment(ctx context.Context, seg *segment) error {
	c := newChunker(p, seg)
	for {
		length, since, full, ended := seg.state()
		switch {
		case full:
			return p.archive(ctx, seg)
		case ended:
			return c.flush(ctx, length, true)
		}
		wait := c.due(length, since)
		if wait <= 0 {
			if err := c.flush(ctx, seg.take(), false); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-seg.changed:
		case <-time.After(wait):
		}
	}
}

// archive makes an ordinary WAL object of a segment that is whole. Its chunks
// are garbage from then on.
func (p *pipe) archive(ctx context.Context, seg *segment) error {
	if err := os.Rename(seg.path+".open", seg.path); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	result, err := p.s.push(ctx, seg.path, p.incarnation.Timeline)
	if err != nil {
		return err
	}
	if name := filepath.Base(seg.path); result.Name != name {
		return fmt.Errorf("segment %s was streamed whole, but archived as %s", name, result.Name)
	}
	p.s.stored(pg.Pos{Timeline: p.incarnation.Timeline, LSN: p.s.size.Start(seg.number + 1)})
	if _, err := archive.RemoveStreamed(ctx, p.s.o.Repo, p.incarnation, p.s.size, seg.number); err != nil {
		p.s.log.WarnContext(ctx, "chunks of an archived segment could not be removed; the next start does", "file", result.Name, "error", err)
	}
	return nil
}

// segment is one that arrives, in a file of the spool.
type segment struct {
	number  pg.SegmentNumber
	path    string // when it is whole
	file    *os.File
	changed chan struct{} // of one: something has changed since it was read

	mu          sync.Mutex
	length      int64     // received
	since       time.Time // when the oldest byte came that was not taken; zero: none
	full, ended bool
}

func (g *segment) write(b []byte, last bool) error {
	if _, err := g.file.WriteAt(b, g.length); err != nil { // receive alone changes length
		return err
	}
	g.mu.Lock()
	g.length += int64(len(b))
	g.full = last
	if g.since.IsZero() {
		g.since = time.Now()
	}
	g.mu.Unlock()
	g.notify()
	return nil
}

func (g *segment) end() {
	g.mu.Lock()
	g.ended = true
	g.mu.Unlock()
	g.notify()
}

func (g *segment) notify() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

func (g *segment) state() (length int64, since time.Time, full, ended bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.length, g.since, g.full, g.ended
}

// take gives what has come by now, which is being stored.
func (g *segment) take() (length int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.since = time.Time{}
	return g.length
}

// close gives the file back.
func (g *segment) close() error {
	err := g.file.Close()
	for _, path := range []string{g.path, g.path + ".open"} {
		os.Remove(path) // the spool is removed as a whole
	}
	return err
}
