package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Handler does what requests ask for. Its methods are called from several
// goroutines at once.
type Handler struct {
	Fingerprint string // of the configuration, as [Request] has it
	// Push archives the segment at a path, and gives the outcome.
	Push func(ctx context.Context, path string) (string, error)
	// Get has a segment in the spool beside a path; nil: nothing is fetched.
	Get func(ctx context.Context, q Request) error
	// Status gives the agent's status, as JSON.
	Status func() []byte
	Log    *slog.Logger // nil discards
}

// maxConns is how many commands are served at once; more work alone.
const maxConns = 32

// Serve answers on l until ctx ends, and returns once every answer is given or
// given up. An error is the listener's.
func (h *Handler) Serve(ctx context.Context, l net.Listener) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	room := make(chan struct{}, maxConns)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept a connection: %w", err)
		}
		select {
		case room <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() { conn.Close(); <-room }()
			if err := h.answer(ctx, conn.(*net.UnixConn)); err != nil {
				h.log().DebugContext(ctx, "a command was not answered", "error", err)
			}
		})
	}
}

func (h *Handler) log() *slog.Logger {
	if h.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return h.Log
}

// answer serves one connection, which carries one request.
func (h *Handler) answer(ctx context.Context, conn *net.UnixConn) error {
	if err := trusted(conn); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	conn.SetReadDeadline(time.Now().Add(silence))
	line, err := readLine(bufio.NewReader(conn))
	if err != nil {
		return err
	}
	q, err := ParseRequest(line)
	if err != nil {
		return errors.Join(err, say(conn, Reply{Error: err.Error()}))
	}
	conn.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan Reply, 1)
	go func() { done <- h.do(ctx, q) }()
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case r := <-done:
			return say(conn, r)
		case <-ticker.C:
			if err := say(conn, Reply{Beat: true}); err != nil {
				return err // the command is gone
			}
		}
	}
}

func say(conn net.Conn, r Reply) error {
	r.Protocol = Protocol
	conn.SetWriteDeadline(time.Now().Add(silence))
	_, err := conn.Write(encode(r))
	return err
}

// do does what is asked.
func (h *Handler) do(ctx context.Context, q Request) Reply {
	failed := func(err error) Reply { return Reply{Error: err.Error()} }
	if q.Do == DoStatus {
		return Reply{Done: true, Status: h.Status()}
	}
	if q.Fingerprint != h.Fingerprint {
		return failed(errors.New("it was started with another configuration; restart it"))
	}
	switch {
	case q.Do == DoPush:
		outcome, err := h.Push(ctx, q.Path)
		if err != nil {
			return failed(err)
		}
		return Reply{Done: true, Name: q.Path, Outcome: outcome}
	case q.Do == DoGet && h.Get != nil:
		if err := h.Get(ctx, q); err != nil {
			return failed(err)
		}
		return Reply{Done: true, Name: q.Name}
	}
	return failed(fmt.Errorf("%q is nothing it does", q.Do))
}
