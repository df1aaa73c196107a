package watch_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/mem"
	"github.com/pgtender/pgtender/ha/watch"
)

const prefix = "service/batman"

// node plays one node: what it sees of the cluster and what was done.
type node struct {
	store    dcs.Store
	facts    watch.Facts
	rebuilds []time.Time
	planned  int
	planErr  error
	err      error         // of Rebuild
	mends    bool          // a rebuild makes the member well
	takes    time.Duration // of a rebuild
}

func (n *node) Look(ctx context.Context) watch.Facts {
	f := n.facts
	f.View.Now = time.Now()
	f.Rebuilds, f.View.Err = watch.ReadRebuilds(ctx, n.store, prefix, f.View.Now)
	return f
}

func (n *node) Plan(context.Context) (string, error) {
	n.planned++
	return "converge by block maps", n.planErr
}

func (n *node) Rebuild(ctx context.Context) error {
	n.rebuilds = append(n.rebuilds, time.Now())
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(n.takes):
	}
	if n.mends {
		n.facts.Position = leaderAt
		for i := range n.facts.View.Cluster.Members {
			n.facts.View.Cluster.Members[i].ReplayLSN = leaderAt
		}
	}
	return n.err
}

func (n *node) watcher(p watch.Policy) *watch.Watcher {
	return &watch.Watcher{Actions: n, Policy: p, DCS: n.store, Prefix: prefix, Holder: n.facts.View.Self}
}

// during runs watchers for a while of the bubble's time.
func during(t *testing.T, d time.Duration, watchers ...*watch.Watcher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	done := make(chan error)
	for _, w := range watchers {
		go func() { done <- w.Run(ctx) }()
	}
	for range watchers {
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run ended with %v", err)
		}
	}
}

func bubble(t *testing.T, f func(t *testing.T, server *mem.Server)) {
	synctest.Test(t, func(t *testing.T) { f(t, mem.NewServer()) })
}

func open(t *testing.T, server *mem.Server, o mem.Options) dcs.Store {
	s := server.Open(o)
	t.Cleanup(func() { s.Close() })
	return s
}

func TestWatcherRebuildsOnce(t *testing.T) {
	bubble(t, func(t *testing.T, server *mem.Server) {
		n := &node{store: open(t, server, mem.Options{}), facts: fallen(), mends: true, takes: 20 * time.Minute}
		began := time.Now()
		during(t, 24*time.Hour, n.watcher(watch.Policy{Rebuild: true}))
		if len(n.rebuilds) != 1 || n.planned != 1 {
			t.Fatalf("%d rebuilds, %d plans, want one of each", len(n.rebuilds), n.planned)
		}
		if after := n.rebuilds[0].Sub(began); after < watch.DefaultPatience || after > 2*watch.DefaultPatience {
			t.Errorf("rebuilt after %s", after)
		}
	})
}

func TestWatcherOnlyReports(t *testing.T) {
	bubble(t, func(t *testing.T, server *mem.Server) {
		n := &node{store: open(t, server, mem.Options{}), facts: fallen()}
		during(t, 24*time.Hour, n.watcher(watch.Policy{}))
		if len(n.rebuilds) > 0 || n.planned != 1 {
			t.Errorf("%d rebuilds, %d plans for the log", len(n.rebuilds), n.planned)
		}
	})
}

// A rebuild that does not help is not repeated but after hours, and a watcher
// that was started anew knows of it.
func TestWatcherSpacesRebuilds(t *testing.T) {
	bubble(t, func(t *testing.T, server *mem.Server) {
		n := &node{store: open(t, server, mem.Options{}), facts: fallen(), err: errors.New("the repository is unreachable")}
		for range 13 {
			during(t, time.Hour, n.watcher(watch.Policy{Rebuild: true}))
		}
		if len(n.rebuilds) < 2 || len(n.rebuilds) > 3 {
			t.Fatalf("%d rebuilds in thirteen hours, at most one in six was allowed", len(n.rebuilds))
		}
		for i, at := range n.rebuilds[1:] {
			if gap := at.Sub(n.rebuilds[i]); gap < watch.DefaultAgain {
				t.Errorf("rebuilt again after %s", gap)
			}
		}
	})
}

// Two members fall behind at the same moment: they are rebuilt one after the
// other, the second not before the spacing has passed.
func TestWatchersTakeTurns(t *testing.T) {
	bubble(t, func(t *testing.T, server *mem.Server) {
		a := &node{store: open(t, server, mem.Options{}), facts: fallen(), mends: true, takes: 40 * time.Minute}
		b := &node{store: open(t, server, mem.Options{}), facts: fallen(), mends: true, takes: 40 * time.Minute}
		b.facts.View.Self = "pg2"
		b.facts.View.Cluster.Members[1], b.facts.View.Cluster.Members[2] = b.facts.View.Cluster.Members[2], b.facts.View.Cluster.Members[1]
		b.facts.View.Cluster.Members[1].Name, b.facts.View.Cluster.Members[2].Name = "pg2", "pg3"
		b.facts.View.Cluster.Sync.Standbys = []string{"pg3"}
		p := watch.Policy{Rebuild: true}
		during(t, 12*time.Hour, a.watcher(p), b.watcher(p))
		if len(a.rebuilds) != 1 || len(b.rebuilds) != 1 {
			t.Fatalf("%d and %d rebuilds, want one of each", len(a.rebuilds), len(b.rebuilds))
		}
		if gap := a.rebuilds[0].Sub(b.rebuilds[0]).Abs(); gap < 40*time.Minute {
			t.Errorf("the rebuilds began %s apart and overlapped", gap)
		}
	})
}

func TestWatcherNeedsALeaseAPlanAndARecord(t *testing.T) {
	down := func(op mem.Op) mem.Options {
		return mem.Options{Fault: func(_ context.Context, o mem.Op, _ string) (bool, error) {
			if o == op {
				return false, dcs.ErrUnavailable
			}
			return false, nil
		}}
	}
	tests := []struct {
		name    string
		options mem.Options
		planErr error
	}{
		{"no lease", down(mem.Acquire), nil},
		{"no record", down(mem.Create), nil},
		{"nothing known", down(mem.Read), nil},
		{"no plan", mem.Options{}, errors.New("no backup lies on the leader's history")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, server *mem.Server) {
				n := &node{store: open(t, server, tt.options), facts: fallen(), planErr: tt.planErr}
				during(t, 3*time.Hour, n.watcher(watch.Policy{Rebuild: true}))
				if len(n.rebuilds) > 0 {
					t.Errorf("rebuilt %d times", len(n.rebuilds))
				}
			})
		})
	}
}

// A rebuild whose lease is lost is called back: another member's may begin.
func TestWatcherStopsWithTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, server *mem.Server) {
		store := open(t, server, mem.Options{Fault: func(_ context.Context, o mem.Op, _ string) (bool, error) {
			if o == mem.Renew {
				return false, dcs.ErrUnavailable
			}
			return false, nil
		}})
		n := &node{store: store, facts: fallen(), mends: true, takes: 3 * time.Hour}
		during(t, time.Hour, n.watcher(watch.Policy{Rebuild: true}))
		if len(n.rebuilds) != 1 || n.facts.Position != fallenAt {
			t.Errorf("%d rebuilds, at %s: want one, cut short", len(n.rebuilds), n.facts.Position)
		}
	})
}

func TestWatcherThatOnlyReportsLogsThePlan(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"as it is":             {nil, `level=WARN msg="the member could be rebuilt" member=pg3 plan="converge by block maps"`},
		"or why there is none": {errors.New("no backup"), `level=WARN msg="how the member would be rebuilt is not known" member=pg3 error="no backup"`},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, server *mem.Server) {
				n := &node{store: open(t, server, mem.Options{}), facts: fallen(), planErr: test.err}
				w := n.watcher(watch.Policy{})
				var log strings.Builder
				w.Log = slog.New(slog.NewTextHandler(&log, nil))
				during(t, time.Hour, w)
				if n.planned != 1 || len(n.rebuilds) > 0 || !strings.Contains(log.String(), test.want) {
					t.Errorf("planned %d times, rebuilt %d times:\n%s", n.planned, len(n.rebuilds), log.String())
				}
			})
		})
	}
}
