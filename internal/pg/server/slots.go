package server

import (
	"context"
	"fmt"

	"github.com/pgtender/pgtender/internal/pg"
)

// Slot is a physical replication slot.
type Slot struct {
	Name      string
	Temporary bool // ends with the session that created it
	Active    bool
	Restart   pg.LSN // oldest WAL it holds; 0 if it holds none
	WALStatus string // reserved, extended, unreserved, lost; "" if it holds none
}

// PhysicalSlots lists the server's physical replication slots by name.
func (c *Conn) PhysicalSlots(ctx context.Context) ([]Slot, error) {
	rows, err := c.Query(ctx, `SELECT slot_name, temporary, active, restart_lsn, wal_status
		FROM pg_replication_slots WHERE slot_type = 'physical' ORDER BY 1`)
	if err != nil {
		return nil, fmt.Errorf("list replication slots: %w", err)
	}
	slots := make([]Slot, len(rows))
	for i, row := range rows {
		p := fields{row: row}
		slots[i] = Slot{Name: row[0], Temporary: row[1] == "t", Active: row[2] == "t", Restart: p.lsn(3), WALStatus: row[4]}
		if p.err != nil {
			return nil, fmt.Errorf("list replication slots: %s: %w", row[0], p.err)
		}
	}
	return slots, nil
}

// CreateSlot creates a physical slot that holds WAL from now on (from the last
// restartpoint's redo on a standby) and gives the position it holds. A
// temporary one ends with this session. Patroni drops slots it does not know,
// unless they are temporary or named under ignore_slots.
func (c *Conn) CreateSlot(ctx context.Context, name string, temporary bool) (pg.LSN, error) {
	if err := checkSlotName(name); err != nil {
		return 0, err
	}
	temp := "false"
	if temporary {
		temp = "true"
	}
	return c.lsn(ctx, "create replication slot "+name,
		`SELECT lsn FROM pg_create_physical_replication_slot($1, true, $2)`, name, temp)
}

// AdvanceSlot lets go of the WAL before to and gives the position the slot
// holds now, which is never past what the server has flushed (replayed, on a
// standby). Going back is an error of the server.
func (c *Conn) AdvanceSlot(ctx context.Context, name string, to pg.LSN) (pg.LSN, error) {
	return c.lsn(ctx, "advance replication slot "+name,
		`SELECT end_lsn FROM pg_replication_slot_advance($1, $2::pg_lsn)`, name, to.String())
}

// DropSlot removes a slot that is not in use.
func (c *Conn) DropSlot(ctx context.Context, name string) error {
	if _, err := c.Query(ctx, `SELECT pg_drop_replication_slot($1)`, name); err != nil {
		return fmt.Errorf("drop replication slot %s: %w", name, err)
	}
	return nil
}

// checkSlotName applies PostgreSQL's rule (ReplicationSlotValidateName, slot.c):
// such a name needs no quoting in the replication grammar.
func checkSlotName(name string) error {
	ok := len(name) >= 1 && len(name) <= 63
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_')
	}
	if !ok {
		return fmt.Errorf("replication slot name %q: want 1 to 63 of a-z, 0-9 and _", name)
	}
	return nil
}
