package dcstest

import (
	"context"
	"errors"
	"time"

	"github.com/pgtender/pgtender/dcs"
)

// watch is a watch in the background.
type watch struct {
	changed chan struct{} // holds one event while there were any not yet seen
	err     chan error
	stop    context.CancelCauseFunc
}

// watch watches the subtest's folder from node, after what snap shows.
func (f *fixture) watch(node Node, snap dcs.Snapshot) *watch {
	ctx, stop := context.WithCancelCause(f.ctx)
	w := &watch{changed: make(chan struct{}, 1), err: make(chan error, 1), stop: stop}
	go func() {
		w.err <- node.Watch(ctx, f.dir, snap.Revision, func() {
			select {
			case w.changed <- struct{}{}:
			default:
			}
		})
	}()
	f.Cleanup(func() { stop(nil) })
	return w
}

// until waits until, after an event, node's view meets the condition. An event
// may tell of an earlier change than the one waited for.
func (f *fixture) until(w *watch, node Node, what string, ok func(map[string]string) bool) {
	f.Helper()
	limit := time.After(f.Break + f.TTL + f.Expiry)
	for {
		select {
		case <-w.changed:
			if ok(f.data(f.read(node))) {
				return
			}
		case err := <-w.err:
			f.Fatalf("the watch broke while waiting until %s: %v", what, err)
		case <-limit:
			f.Fatalf("no event tells that %s", what)
		}
	}
}

var watchTests = []test{
	{"a watch tells of every kind of change by others", func(f *fixture) {
		w := f.watch(f.a, f.read(f.a))
		is := func(name, value string) func(map[string]string) bool {
			return func(data map[string]string) bool { got, ok := data[name]; return ok && got == value }
		}
		gone := func(name string) func(map[string]string) bool {
			return func(data map[string]string) bool { _, ok := data[name]; return !ok }
		}
		f.put("config", "1")
		f.until(w, f.a, "a key was put", is("config", "1"))
		if err := f.b.Replace(f.ctx, f.key("config"), "1", "2"); err != nil {
			f.Fatal(err)
		}
		f.until(w, f.a, "a key was replaced", is("config", "2"))
		if _, _, err := f.b.Create(f.ctx, f.key("deep/er/key"), "x"); err != nil {
			f.Fatal(err)
		}
		f.until(w, f.a, "a key was created", is("deep/er/key", "x"))
		f.Delete(f.T, f.key("config"))
		f.until(w, f.a, "a key was deleted", gone("config"))
		lease := f.acquire(f.b, "lock", "b")
		f.until(w, f.a, "a lease was acquired", is("lock", "b"))
		if err := lease.Release(f.ctx); err != nil {
			f.Fatal(err)
		}
		f.until(w, f.a, "a lease was released", gone("lock"))
		f.acquire(f.b, "lock", "b")
		f.until(w, f.a, "a lease was acquired anew", is("lock", "b"))
		f.until(w, f.a, "a lease has expired", gone("lock"))
	}},
	{"a watch tells of changes made between the read and itself", func(f *fixture) {
		f.put("gone", "1")
		snap := f.read(f.a)
		f.put("config", "1")
		w := f.watch(f.a, snap)
		f.until(w, f.a, "a key was put", func(data map[string]string) bool { return data["config"] == "1" })
		snap = f.read(f.a)
		f.Delete(f.T, f.key("gone"))
		w = f.watch(f.a, snap)
		f.until(w, f.a, "a key was deleted", func(data map[string]string) bool { return len(data) == 1 })
	}},
	{"a watch ends with its context and tells why", func(f *fixture) {
		w := f.watch(f.a, f.read(f.a))
		f.put("config", "1")
		f.until(w, f.a, "a key was put", func(data map[string]string) bool { return len(data) == 1 })
		why := errors.New("enough")
		w.stop(why)
		select {
		case err := <-w.err:
			if !errors.Is(err, why) || errors.Is(err, dcs.ErrUnavailable) {
				f.Errorf("the watch ended with %v, want %v", err, why)
			}
		case <-time.After(5 * time.Second):
			f.Error("the watch goes on")
		}
	}},
	{"a watch breaks when its server hangs", func(f *fixture) { f.watchBreaks(Hang) }},
	{"a watch breaks when its network is cut", func(f *fixture) { f.watchBreaks(Cut) }},
}

// watchBreaks asserts that a broken watch says so, and that a new one with the
// old snapshot tells of what was missed.
func (f *fixture) watchBreaks(fault Fault) {
	snap := f.read(f.a)
	w := f.watch(f.a, snap)
	f.a.Break(fault)
	f.put("config", "1")
	select {
	case err := <-w.err:
		if !errors.Is(err, dcs.ErrUnavailable) {
			f.Errorf("the watch broke with %v, want one that wraps ErrUnavailable", err)
		}
	case <-time.After(f.Break):
		f.Fatalf("the watch does not notice within %s that %s", f.Break, fault)
	}
	f.a.Mend()
	f.mended(f.a)
	f.until(f.watch(f.a, snap), f.a, "a key was put", func(data map[string]string) bool { return data["config"] == "1" })
}
