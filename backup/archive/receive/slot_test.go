package receive_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/pgtender/pgtender/backup/archive/receive"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestASlotDeclaredWhileTheReceiverRunsIsTaken: it warns that the slot is not
// declared, somebody declares it, and Patroni makes it. From then on it must move,
// or the leader keeps all WAL.
func TestASlotDeclaredWhileTheReceiverRunsIsTaken(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{WALSegSize: 1})
	s := newSite(t, c)
	var declared atomic.Bool
	opts := options(s.repo, filepath.Join(s.spool, "leader"), s.spool, nil)
	opts.Kept = func(context.Context) (bool, error) { return declared.Load(), nil }
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer func() { cancel(); <-done }()
	go func() { done <- receive.Run(ctx, opts) }()

	const slots = "SELECT string_agg(regexp_replace(slot_name, '[0-9]+', 'N') || ' ' || temporary, ',') FROM pg_replication_slots"
	c.WaitFor(t, slots, "receiver_N true")
	c.Exec(t, "SELECT pg_create_physical_replication_slot('receiver', true)", "CREATE TABLE t AS SELECT generate_series(1, 10000) AS i")
	want := flushed(t, c)
	declared.Store(true)
	c.WaitFor(t, slots, "receiver false")
	c.WaitFor(t, "SELECT (restart_lsn >= '"+want.String()+"')::text FROM pg_replication_slots", "true")
}
