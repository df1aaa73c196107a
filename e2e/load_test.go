package e2e_test

import (
	"context"
	"testing"

	"github.com/pgtender/pgtender/internal/pgtest"
)

// load is work on a cluster: pgbench's transactions, and beside them DDL of all
// kinds, databases that come and go, rewrites and truncation.
type load struct {
	stop    context.CancelFunc
	pgbench *pgtest.Load
	ddl     chan error
}

// startLoad lets the load run until end, at the latest until the test ends.
func startLoad(t *testing.T, primary *pgtest.Cluster, seed uint64) *load {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &load{stop: stop, pgbench: primary.Pgbench(ctx, t, 2), ddl: make(chan error, 1)}
	w := primary.Workload(seed)
	go func() {
		var err error
		for err == nil && ctx.Err() == nil {
			err = w.Step(ctx)
		}
		if ctx.Err() != nil {
			err = nil
		}
		l.ddl <- err
	}()
	return l
}

// end stops the load, which must have run until now.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	if err := l.pgbench.Wait(); err != nil {
		t.Error(err)
	}
	if err := <-l.ddl; err != nil {
		t.Error(err)
	}
}

// agree fails the test unless pgbench's tables agree with each other, as they do
// at each moment of its history.
func agree(t testing.TB, c *pgtest.Cluster) {
	t.Helper()
	got := c.Query(t, `SELECT sum(abalance), (SELECT sum(tbalance) FROM pgbench_tellers),
		(SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history) FROM pgbench_accounts`)[0]
	for _, sum := range got[1:] {
		if sum != got[0] {
			t.Errorf("pgbench's tables disagree: accounts, tellers, branches, history sum up to %v", got)
			return
		}
	}
}
