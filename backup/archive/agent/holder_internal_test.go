package agent

import (
	"testing"
	"time"

	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestASlotThatEndsInUseIsTold: the server ends the session while it is being used.
// Whoever is to be told knows it before the keeper goes on: what the slot held may be
// gone in a moment.
func TestASlotThatEndsInUseIsTold(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	for what, use := range map[string]func(h *holder) error{
		"advance": func(h *holder) error {
			_, err := h.advance(t.Context(), 0xFFFFFFFF)
			return err
		},
		"ping": func(h *holder) error { return h.ping(t.Context()) },
	} {
		t.Run(what, func(t *testing.T) {
			conn, err := server.Connect(t.Context(), c.Options())
			if err != nil {
				t.Fatal(err)
			}
			told := 0
			h, _, err := newHolder(t.Context(), conn, time.Minute, func(error) { told++ })
			if err != nil {
				t.Fatal(err)
			}
			h.leave() // as use does first: nobody watches
			c.WaitFor(t, "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots", "1")
			c.WaitFor(t, "SELECT count(*) FROM pg_replication_slots", "0")
			if err := use(h); err == nil {
				t.Error("a session that has ended is still of use")
			}
			if slot := h.slot(); slot != "" || told != 1 {
				t.Errorf("slot %q, told %d times", slot, told)
			}
			h.close()
			if told != 1 {
				t.Errorf("told %d times", told)
			}
		})
	}
}
