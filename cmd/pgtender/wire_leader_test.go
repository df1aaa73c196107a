package main

import (
	"testing"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

func TestOnlyASlotThatKeepsItsWALIsTrusted(t *testing.T) {
	const restart = pg.LSN(0x5000000)
	for status, held := range map[string]bool{"reserved": true, "extended": true, "unreserved": false, "lost": false, "": false} {
		slots := []server.Slot{{Name: "pg1", Restart: 1, WALStatus: "reserved"}, {Name: "pg2", Restart: restart, WALStatus: status}}
		if got, ok := heldBy(slots, "pg2"); ok != held || held && got != restart {
			t.Errorf("status %q: %s, %v; want it held: %v", status, got, ok, held)
		}
	}
	if _, ok := heldBy([]server.Slot{{Name: "pg2", WALStatus: "reserved"}}, "pg2"); ok {
		t.Error("a slot without a position holds WAL")
	}
	if _, ok := heldBy(nil, "pg2"); ok {
		t.Error("no slot holds WAL")
	}
}
