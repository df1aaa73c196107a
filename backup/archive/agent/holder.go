package agent

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

// holder is a temporary slot and the session that it ends with. That session runs
// nothing that can fail: an error drops its temporary slots (PostgresMain,
// postgres.c), and questions about a server that is being promoted do fail. A nil
// holder is one whose session is gone.
type holder struct {
	name  string
	conn  *server.Conn
	told  func(error)   // what is called when the server ends the session, or the slot
	end   chan struct{} // closed when it has
	leave func()        // stops watching the session, which does nothing else meanwhile
}

// newHolder makes the slot, which holds WAL from at on. The server ends a session
// from which it hears nothing for as long as silence; 13 waits for ever. ended is
// called once, from whatever goroutine finds it out, when the slot ends otherwise
// than by close.
func newHolder(ctx context.Context, conn *server.Conn, silence time.Duration, ended func(error)) (h *holder, at pg.LSN, err error) {
	h = &holder{name: fmt.Sprintf("%s%d", SlotPrefix, os.Getpid()), conn: conn, told: ended, end: make(chan struct{})}
	if conn.Version().Major() >= 14 { // 13 has no idle_session_timeout
		_, err = conn.Query(ctx, "SELECT pg_catalog.set_config('idle_session_timeout', $1, false)", fmt.Sprintf("%dms", silence.Milliseconds()))
	}
	if err == nil {
		at, err = conn.CreateSlot(ctx, h.name, true)
	}
	if err != nil {
		return nil, 0, err
	}
	h.watch()
	return h, at, nil
}

// watch notices the end of the session until leave is called.
func (h *holder) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	h.leave = func() { cancel(); <-done }
	go func() {
		defer close(done)
		if err := h.conn.WaitEnd(ctx); err != nil {
			h.lose(err)
		}
	}()
}

// use does something in the session, which nobody watches meanwhile. With an error the
// slot is gone, whether the session is or not.
func (h *holder) use(do func() error) error {
	h.leave()
	err := do()
	if err != nil {
		h.leave = func() {}
		h.lose(err)
		return err
	}
	h.watch()
	return nil
}

// lose takes note that the slot has ended.
func (h *holder) lose(err error) {
	if !h.gone() {
		close(h.end)
		h.told(err)
	}
}

// lost gives a channel that is closed when the slot has ended.
func (h *holder) lost() <-chan struct{} {
	if h == nil {
		return nil
	}
	return h.end
}

// gone reports whether the slot has ended.
func (h *holder) gone() bool {
	select {
	case <-h.lost():
		return true
	default:
		return false
	}
}

// slot names the slot, "" if there is none.
func (h *holder) slot() string {
	if h == nil || h.gone() {
		return ""
	}
	return h.name
}

// advance lets go of the WAL before to, and gives where the slot stands then.
func (h *holder) advance(ctx context.Context, to pg.LSN) (at pg.LSN, err error) {
	err = h.use(func() (err error) {
		at, err = h.conn.AdvanceSlot(ctx, h.name, to)
		return err
	})
	return at, err
}

// ping lets the server know that the session is in use.
func (h *holder) ping(ctx context.Context) error {
	return h.use(func() error { return h.conn.Ping(ctx) })
}

// close ends the session, and the slot with it.
func (h *holder) close() {
	h.leave()
	h.conn.Close()
}
