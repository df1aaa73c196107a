package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/pgtender/pgtender/backup/archive/agent/early"
)

// Handler does what requests ask for. Its methods are called from several
// goroutines at once.
type Handler struct {
	Fingerprint string // of the configuration, as [Request] has it
	// Push archives the segment at a path, and gives the outcome; nil: nothing is.
	Push func(ctx context.Context, path string) (string, error)
	// Get has a segment in the spool beside a path; nil: nothing is fetched.
	Get func(ctx context.Context, q Request) error
	// Early does its part of the errand of a command that was just begun; an error: the
	// command is to do it by itself. nil: none is answered.
	Early func(ctx context.Context, q early.Question) (early.Answer, error)
	// Status gives the agent's status, as JSON; nil: it has none.
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
	c, err := h.request(bufio.NewReader(conn))
	if err != nil {
		return errors.Join(err, write(conn, c.refusal))
	}
	conn.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan []byte, 1)
	go func() { done <- c.do(ctx) }()
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case answer := <-done:
			return write(conn, answer)
		case <-ticker.C:
			if err := write(conn, c.beat); err != nil {
				return err // the command is gone
			}
		}
	}
}

// conversation is a request that was understood: what does it and gives the answer,
// and what is said meanwhile. Of one that was not, there is the refusal alone.
type conversation struct {
	do            func(context.Context) []byte
	beat, refusal []byte
}

// request reads a request, of either kind.
func (h *Handler) request(in *bufio.Reader) (conversation, error) {
	line, err := readLine(in)
	if err != nil {
		return conversation{}, err
	}
	if n, ok := early.Header(line); ok {
		body := make([]byte, n)
		if _, err := io.ReadFull(in, body); err != nil {
			return conversation{}, err
		}
		q, err := early.Decode(body)
		return conversation{
			do: func(ctx context.Context) []byte { return h.answerEarly(ctx, q) }, beat: []byte(early.Beat), refusal: early.No(),
		}, err
	}
	q, err := ParseRequest(line)
	if err != nil {
		return conversation{refusal: spoken(Reply{Error: err.Error()})}, err
	}
	return conversation{
		do: func(ctx context.Context) []byte { return spoken(h.do(ctx, q)) }, beat: spoken(Reply{Beat: true}),
	}, nil
}

// answerEarly does what a command asked before it was initialised. Why it is
// refused is for the log: the command asks again in the other way.
func (h *Handler) answerEarly(ctx context.Context, q early.Question) []byte {
	if h.Early == nil {
		return early.No()
	}
	a, err := h.Early(ctx, q)
	if err != nil {
		e, _ := early.ErrandOf(q.Args)
		h.log().DebugContext(ctx, "a command is to ask again in full", "file", e.Segment, "why", err)
		return early.No()
	}
	return a.Encode()
}

func spoken(r Reply) []byte {
	r.Protocol = Protocol
	return encode(r)
}

func write(conn net.Conn, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	conn.SetWriteDeadline(time.Now().Add(silence))
	_, err := conn.Write(b)
	return err
}

// do does what is asked.
func (h *Handler) do(ctx context.Context, q Request) Reply {
	failed := func(err error) Reply { return Reply{Error: err.Error()} }
	switch {
	case q.Do == DoStatus && h.Status != nil:
		return Reply{Done: true, Status: h.Status()}
	case q.Fingerprint != h.Fingerprint:
		return failed(errors.New("it was started with another configuration; restart it"))
	case q.Do == DoPush && h.Push != nil:
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
