package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgtender/pgtender/internal/pg"
)

// ErrStop is what [StreamOptions.Receive] returns to end the stream in order.
// The data of that call counts as received.
var ErrStop = errors.New("stop streaming")

// StreamOptions says what WAL to stream and what to do with it.
type StreamOptions struct {
	Slot  string // physical slot; may be empty
	Start pg.Pos // should be the start of a segment

	// Receive is given the WAL in order and without a hole: the first call is
	// at Start, each further one where the last ended. A record may be cut at
	// any byte. data is valid during the call only. The stream cannot answer
	// the server meanwhile, so a call must be short against wal_sender_timeout.
	Receive func(at pg.LSN, data []byte) error

	// Durable says up to where the caller has made WAL durable. It is reported
	// to the server, which lets the slot go forward and, should we be a
	// synchronous standby, commits return. Nil reports nothing.
	Durable func() pg.LSN

	StatusEvery time.Duration // between two reports; 10 s if 0
	Timeout     time.Duration // without a message the stream has failed; 60 s if 0
}

// Stream streams physical WAL of one timeline. It returns a zero Pos after
// Receive returned [ErrStop]; where the timeline ends, the next one and the
// position at which it begins: fetch its history, then stream it from the
// start of the segment that holds the position. In both cases the session can
// be used again; after any other error it should be closed.
func (c *ReplicationConn) Stream(ctx context.Context, o StreamOptions) (next pg.Pos, err error) {
	s := stream{
		conn: c, o: o, at: o.Start.LSN, heard: time.Now(),
		status:  cmp.Or(o.StatusEvery, 10*time.Second),
		timeout: cmp.Or(o.Timeout, time.Minute),
	}
	next, err = s.run(ctx)
	if err != nil {
		return pg.Pos{}, explain(ctx, fmt.Sprintf("stream WAL of timeline %s from %s", o.Start.Timeline, o.Start.LSN), err)
	}
	return next, nil
}

type stream struct {
	conn            *ReplicationConn
	o               StreamOptions
	status, timeout time.Duration

	at       pg.LSN    // everything before it was received
	heard    time.Time // when the server last sent something
	reported time.Time // when the server was last sent a status
	asked    bool      // a reply was asked for since the server was last heard
}

func (s *stream) run(ctx context.Context) (pg.Pos, error) {
	command := fmt.Sprintf("PHYSICAL %s TIMELINE %s", s.o.Start.LSN, s.o.Start.Timeline)
	if s.o.Slot != "" {
		if err := checkSlotName(s.o.Slot); err != nil {
			return pg.Pos{}, err
		}
		command = "SLOT " + s.o.Slot + " " + command
	}
	if err := s.conn.send(ctx, "START_REPLICATION "+command); err != nil {
		return pg.Pos{}, err
	}
	msg, err := s.conn.next(ctx)
	if err != nil {
		return pg.Pos{}, err
	}
	switch msg.(type) {
	case *pgproto3.RowDescription: // Start is the end of the timeline: nothing to copy
		return s.finish(ctx)
	case *pgproto3.CopyBothResponse:
	default:
		return pg.Pos{}, unexpected(msg)
	}
	s.heard = time.Now()
	if err := s.copy(ctx); err != nil {
		return pg.Pos{}, err
	}
	return s.finish(ctx)
}

// copy receives until the COPY has ended on both sides.
func (s *stream) copy(ctx context.Context) error {
	for {
		msg, err := s.receive(ctx)
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case nil: // time for a status
		case *pgproto3.CopyData:
			if err = s.data(ctx, m.Data); errors.Is(err, ErrStop) {
				return s.stop(ctx)
			}
		case *pgproto3.CopyDone: // the timeline has ended
			s.conn.pc.Frontend().Send(&pgproto3.CopyDone{})
			return s.conn.flush(ctx)
		case *pgproto3.CommandComplete: // WalSndDone, walsender.c
			return errServerClosed
		default:
			return unexpected(msg)
		}
		if err == nil {
			err = s.report(ctx, false)
		}
		if err != nil {
			return err
		}
	}
}

// receive waits for a message until a status is due; then it gives nil.
func (s *stream) receive(ctx context.Context) (pgproto3.BackendMessage, error) {
	due := s.reported.Add(s.status)
	if half := s.heard.Add(s.timeout / 2); !s.asked && half.Before(due) {
		due = half
	}
	if end := s.heard.Add(s.timeout); end.Before(due) {
		due = end
	}
	limited, cancel := context.WithDeadline(ctx, due)
	defer cancel()
	msg, err := s.conn.next(limited)
	if err == nil {
		s.heard, s.asked = time.Now(), false
		return msg, nil
	}
	if ctx.Err() != nil || !pgconn.Timeout(err) && !errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	if time.Since(s.heard) >= s.timeout {
		return nil, fmt.Errorf("%w of %s", errServerSilent, s.timeout)
	}
	return nil, nil
}

func (s *stream) data(ctx context.Context, raw []byte) error {
	m, err := parseStreamMessage(raw)
	if err != nil {
		return err
	}
	if m.kind == streamKeepalive {
		if m.replyNow {
			return s.report(ctx, true)
		}
		return nil
	}
	if m.start != s.at {
		return fmt.Errorf("the server sent WAL at %s where %s was to follow", m.start, s.at)
	}
	err = s.o.Receive(m.start, m.data)
	if err == nil || errors.Is(err, ErrStop) {
		s.at += pg.LSN(len(m.data))
	}
	return err
}

// report tells the server how far we are: now, or if it is time to. A server
// that has been silent is asked for an answer, as libpqwalreceiver does.
func (s *stream) report(ctx context.Context, now bool) error {
	ask := !s.asked && time.Since(s.heard) >= s.timeout/2
	if !now && !ask && time.Since(s.reported) < s.status {
		return nil
	}
	m := statusUpdate{written: s.at, at: time.Now(), replyNow: ask}
	if s.o.Durable != nil {
		m.flushed = min(s.o.Durable(), s.at)
	}
	s.conn.pc.Frontend().Send(&pgproto3.CopyData{Data: m.encode()})
	if err := s.conn.flush(ctx); err != nil {
		return err
	}
	s.reported, s.asked = time.Now(), s.asked || ask
	return nil
}

// stop ends the COPY from our side; what is still on its way is discarded.
func (s *stream) stop(ctx context.Context) error {
	if err := s.report(ctx, true); err != nil {
		return err
	}
	s.conn.pc.Frontend().Send(&pgproto3.CopyDone{})
	if err := s.conn.flush(ctx); err != nil {
		return err
	}
	for {
		limited, cancel := context.WithTimeout(ctx, s.timeout)
		msg, err := s.conn.next(limited)
		cancel()
		if err != nil {
			return err
		}
		if _, done := msg.(*pgproto3.CopyDone); done {
			return nil
		}
	}
}

// finish reads what follows the COPY: at the end of a timeline, the next one
// and where it begins.
func (s *stream) finish(ctx context.Context) (pg.Pos, error) {
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.conn.resultSet(limited)
	if err == nil {
		err = s.conn.untilReady(limited)
	}
	if err != nil || len(rows) == 0 {
		return pg.Pos{}, err
	}
	row, err := oneRow(rows, 2, "START_REPLICATION")
	if err != nil {
		return pg.Pos{}, err
	}
	return parsePos(row[0], row[1])
}
