package receive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

// holder holds the leader's WAL by a slot, which moves with what is durably in
// the repository. The stream itself uses no slot: see the package comment.
type holder struct {
	conn *server.Conn
	name string
	at   pg.LSN // where the slot was last seen
	log  *slog.Logger

	temporary bool // it ends with the session
}

// hold finds or makes the slot. kept says that a permanent one stays.
func hold(ctx context.Context, conn *server.Conn, name string, kept bool, log *slog.Logger) (*holder, error) {
	h := &holder{conn: conn, name: name, log: log}
	slots, err := conn.PhysicalSlots(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range slots {
		if s.Name != name || s.Temporary {
			continue
		}
		if s.WALStatus == "lost" {
			log.WarnContext(ctx, "the slot has lost its WAL, it is made anew", "slot", name)
			if err := conn.DropSlot(ctx, name); err != nil {
				return nil, err
			}
			break
		}
		if !kept {
			log.WarnContext(ctx, undeclared(name), "slot", name)
		}
		if h.at = s.Restart; h.at != 0 {
			return h, nil
		}
		// It reserves no WAL yet; nothing can be advanced that is not held.
		if err := conn.DropSlot(ctx, name); err != nil {
			return nil, err
		}
		break
	}
	if !kept {
		h.name, h.temporary = temporaryName(name), true
		log.WarnContext(ctx, undeclared(name), "slot", h.name)
	}
	if h.at, err = conn.CreateSlot(ctx, h.name, h.temporary); err != nil {
		return nil, finding.WithHint(err, "the user needs REPLICATION, and the server a free slot (max_replication_slots)")
	}
	return h, nil
}

// temporaryName is for a slot that ends with its session, of which a killed
// receiver's may still be there.
func temporaryName(name string) string {
	suffix := fmt.Sprintf("_%d", os.Getpid())
	return name[:min(len(name), 63-len(suffix))] + suffix
}

// undeclared says what is wrong with a slot that nobody keeps.
func undeclared(name string) string {
	return fmt.Sprintf("the slot is not declared to Patroni, so no WAL is held for the receiver while it is away: patronictl edit-config -s 'slots.%s.type=physical'", name)
}

// advance lets go of the WAL before to.
func (h *holder) advance(ctx context.Context, to pg.LSN) error {
	if to <= h.at {
		return nil
	}
	at, err := h.conn.AdvanceSlot(ctx, h.name, to)
	if err != nil {
		return err
	}
	h.at = at
	return nil
}

// errNotPrimary means that the server named as leader does not lead, or not
// yet.
var errNotPrimary = errors.New("the server is in recovery")
