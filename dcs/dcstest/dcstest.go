// Package dcstest is the suite that every implementation of dcs.Store passes,
// with the tools its tests need: a network that fails on demand and a
// certificate authority.
package dcstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgtender/pgtender/dcs"
)

// Fault is a way in which a store and its server lose each other.
type Fault string

const (
	// Hang leaves connections open but nothing comes through, as when the
	// server is stopped or packets are dropped.
	Hang Fault = "the server hangs"
	// Cut closes connections and refuses new ones.
	Cut Fault = "the network is cut"
	// LostAnswers has changes of keys carried out while their answers never
	// arrive. What else is asked may work or fail.
	LostAnswers Fault = "answers are lost"
)

// Harness is one server under test, as one subtest sees it. Subtests use keys
// of their own, so they may share a server.
type Harness struct {
	// Open gives another store on the server, which the harness closes when
	// the test ends, with a network of its own. Its requests time out after
	// more than two seconds.
	Open func(t testing.TB) Node

	// Put and Delete change a key as another program would.
	Put    func(t testing.TB, key, value string)
	Delete func(t testing.TB, key string)

	// TTL is the shortest lease the server grants, and Expiry the longest time
	// it may then take until the key is free.
	TTL, Expiry time.Duration

	// Break is how long a watch may take to notice that its server is gone.
	Break time.Duration
}

// Node is a store and the network between it and the server.
type Node struct {
	dcs.Store
	Break func(Fault) // until Mend
	Mend  func()
}

// Run runs the suite. Where no bubble is used subtests run in parallel.
func Run(t *testing.T, open func(testing.TB) Harness) {
	run(t, func(t *testing.T, test func(*testing.T)) {
		t.Parallel()
		test(t)
	}, open)
}

// RunIn runs the suite with each subtest in a bubble: synctest.Test.
func RunIn(t *testing.T, bubble func(*testing.T, func(*testing.T)), open func(testing.TB) Harness) {
	run(t, bubble, open)
}

func run(t *testing.T, bubble func(*testing.T, func(*testing.T)), open func(testing.TB) Harness) {
	for _, group := range [][]test{readTests, registryTests, leaseTests, watchTests, faultTests, holdTests} {
		for _, test := range group {
			t.Run(test.name, func(t *testing.T) {
				bubble(t, func(t *testing.T) { test.run(newFixture(t, open(t))) })
			})
		}
	}
}

type test struct {
	name string
	run  func(*fixture)
}

// fixture is what a subtest works with: two nodes and a folder of keys.
type fixture struct {
	*testing.T
	Harness
	ctx  context.Context
	dir  string // a prefix of this subtest's own
	a, b Node
}

var folders atomic.Int64

func newFixture(t *testing.T, h Harness) *fixture {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return &fixture{
		T: t, Harness: h, ctx: ctx,
		dir: fmt.Sprintf("service/t%d-%d", time.Now().UnixNano(), folders.Add(1)),
		a:   h.Open(t), b: h.Open(t),
	}
}

// key gives the full name of a key in the subtest's folder.
func (f *fixture) key(name string) string { return f.dir + "/" + name }

func (f *fixture) put(name, value string) { f.Helper(); f.Put(f.T, f.key(name), value) }

// read gives what node sees below the subtest's folder.
func (f *fixture) read(node Node) dcs.Snapshot {
	f.Helper()
	snap, err := node.Read(f.ctx, f.dir)
	if err != nil {
		f.Fatal(err)
	}
	return snap
}

// data gives the values of a snapshot by their names in the subtest's folder.
func (f *fixture) data(snap dcs.Snapshot) map[string]string {
	values := make(map[string]string)
	for key, value := range snap.Keys {
		values[strings.TrimPrefix(key, f.dir+"/")] = value.Data
	}
	return values
}

func (f *fixture) acquire(node Node, name, value string) dcs.Lease {
	f.Helper()
	lease, err := node.Acquire(f.ctx, f.key(name), value, f.TTL)
	if err != nil {
		f.Fatal(err)
	}
	if lease.TTL() < f.TTL {
		f.Fatalf("asked for a lease of %s, got one of %s", f.TTL, lease.TTL())
	}
	return lease
}

// held asserts that node cannot acquire name because holder has it.
func (f *fixture) held(node Node, name, holder string) {
	f.Helper()
	_, err := node.Acquire(f.ctx, f.key(name), "intruder", f.TTL)
	var held *dcs.HeldError
	if !errors.As(err, &held) {
		f.Fatalf("acquire of a held key: %v, want a HeldError", err)
	}
	if held.Key != f.key(name) || held.Value != holder {
		f.Fatalf("HeldError for %q by %q, want %q by %q", held.Key, held.Value, f.key(name), holder)
	}
}

// acquireWithin acquires name once it is free, which it must be in time.
func (f *fixture) acquireWithin(node Node, name, value string, limit time.Duration) dcs.Lease {
	f.Helper()
	deadline := time.Now().Add(limit)
	for {
		lease, err := node.Acquire(f.ctx, f.key(name), value, f.TTL)
		if err == nil {
			return lease
		}
		var held *dcs.HeldError
		if !errors.As(err, &held) {
			f.Fatalf("acquire: %v, want success or a HeldError", err)
		}
		if time.Now().After(deadline) {
			f.Fatalf("%v, still after %s", err, limit)
		}
		f.pause()
	}
}

// pause is the interval at which states are polled.
func (f *fixture) pause() {
	f.Helper()
	select {
	case <-time.After(50 * time.Millisecond):
	case <-f.ctx.Done():
		f.Fatal("the test has run out of time")
	}
}

// unavailable asserts that call, given a second, fails in that time because
// the DCS is unavailable.
func (f *fixture) unavailable(what string, call func(context.Context) error) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, time.Second)
	defer cancel()
	start := time.Now()
	err := call(ctx)
	if took := time.Since(start); took > 3*time.Second {
		f.Errorf("%s took %s, with a context of 1s", what, took)
	}
	if !errors.Is(err, dcs.ErrUnavailable) {
		f.Errorf("%s: error %v, want one that wraps ErrUnavailable", what, err)
	}
}
