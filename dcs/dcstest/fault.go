package dcstest

import (
	"context"
	"errors"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/dcs"
)

var faultTests = []test{
	{"a server that hangs is unavailable, in the context's time", func(f *fixture) { f.unreachable(Hang) }},
	{"a server that is cut off is unavailable, in the context's time", func(f *fixture) { f.unreachable(Cut) }},
	{"a request without deadline does not wait for ever", func(f *fixture) {
		f.read(f.a)
		f.a.Break(Hang)
		defer f.a.Mend()
		start := time.Now()
		if _, err := f.a.Read(context.WithoutCancel(f.ctx), f.dir); !errors.Is(err, dcs.ErrUnavailable) {
			f.Errorf("read: error %v, want one that wraps ErrUnavailable", err)
		}
		if took := time.Since(start); took > 2*dcs.DefaultTimeout {
			f.Errorf("read took %s", took)
		}
	}},
	{"a request that the caller takes back does not accuse the server", func(f *fixture) {
		f.a.Break(Hang)
		defer f.a.Mend()
		ctx, cancel := context.WithCancel(f.ctx)
		time.AfterFunc(100*time.Millisecond, cancel)
		_, err := f.a.Read(ctx, f.dir)
		if !errors.Is(err, context.Canceled) || errors.Is(err, dcs.ErrUnavailable) {
			f.Errorf("read: error %v, want context.Canceled alone", err)
		}
		if _, err := f.a.Acquire(ctx, f.key("lock"), "a", f.TTL); !errors.Is(err, context.Canceled) {
			f.Errorf("acquire: error %v, want context.Canceled", err)
		}
	}},
	{"a closed store is unavailable", func(f *fixture) {
		if err := f.a.Close(); err != nil {
			f.Fatal(err)
		}
		if err := f.a.Close(); err != nil {
			f.Errorf("second close: %v", err)
		}
		f.unavailable("read", func(ctx context.Context) error { _, err := f.a.Read(ctx, f.dir); return err })
	}},
	{"a create whose answer was lost is repeated and finds its own value", func(f *fixture) {
		f.a.Break(LostAnswers)
		f.unavailable("create", func(ctx context.Context) error {
			_, _, err := f.a.Create(ctx, f.key("owner"), "mine")
			return err
		})
		f.a.Mend()
		f.mended(f.a)
		if existing, created, err := f.a.Create(f.ctx, f.key("owner"), "mine"); existing != "mine" || created || err != nil {
			f.Errorf("repeated create: existing %q, created %t, error %v", existing, created, err)
		}
	}},
	{"a replacement whose answer was lost has happened once", func(f *fixture) {
		f.put("owner", "one")
		f.a.Break(LostAnswers)
		f.unavailable("replace", func(ctx context.Context) error {
			return f.a.Replace(ctx, f.key("owner"), "one", "two")
		})
		f.a.Mend()
		f.mended(f.a)
		f.isChanged(f.a.Replace(f.ctx, f.key("owner"), "one", "two"))
		if diff := cmp.Diff(map[string]string{"owner": "two"}, f.data(f.read(f.b))); diff != "" {
			f.Error(diff)
		}
	}},
	{"an acquire whose answer was lost blocks the key no longer than the TTL", func(f *fixture) {
		f.a.Break(LostAnswers)
		f.unavailable("acquire", func(ctx context.Context) error {
			_, err := f.a.Acquire(ctx, f.key("lock"), "node a", f.TTL)
			return err
		})
		f.a.Mend()
		f.acquireWithin(f.a, "lock", "node a again", f.TTL+f.Expiry)
		f.held(f.b, "lock", "node a again")
	}},
}

// unreachable asserts that nothing looks absent or done while the store cannot
// reach the server, that the server's other clients go on, and that the store
// recovers.
func (f *fixture) unreachable(fault Fault) {
	f.put("config", "1")
	f.read(f.a)
	lease := f.acquire(f.a, "lock", "node a")
	f.a.Break(fault)
	f.unavailable("read", func(ctx context.Context) error {
		snap, err := f.a.Read(ctx, f.dir)
		if len(snap.Keys) != 0 {
			f.Errorf("read %v although %s", snap.Keys, fault)
		}
		return err
	})
	f.unavailable("create", func(ctx context.Context) error {
		_, created, err := f.a.Create(ctx, f.key("owner"), "x")
		if created {
			f.Errorf("created a key although %s", fault)
		}
		return err
	})
	f.unavailable("replace", func(ctx context.Context) error { return f.a.Replace(ctx, f.key("config"), "1", "2") })
	f.unavailable("acquire", func(ctx context.Context) error {
		_, err := f.a.Acquire(ctx, f.key("other"), "a", f.TTL)
		return err
	})
	f.unavailable("renew", lease.Renew)
	f.unavailable("release", lease.Release)
	if diff := cmp.Diff("1", f.data(f.read(f.b))["config"]); diff != "" {
		f.Error(diff)
	}
	f.a.Mend()
	f.mended(f.a)
	if _, created, err := f.a.Create(f.ctx, f.key("owner"), "y"); !created || err != nil {
		f.Errorf("create after mending: created %t, error %v", created, err)
	}
}

// mended waits until node reaches its server again.
func (f *fixture) mended(node Node) {
	f.Helper()
	for {
		_, err := node.Read(f.ctx, f.dir)
		if err == nil {
			return
		}
		if !errors.Is(err, dcs.ErrUnavailable) {
			f.Fatal(err)
		}
		f.pause()
	}
}

var holdTests = []test{
	{"a held lease keeps others out until it is released", func(f *fixture) {
		opts := dcs.HoldOptions{Key: f.key("lock"), Value: "node a", TTL: f.TTL}
		held, release, err := dcs.Hold(f.ctx, f.a, opts)
		if err != nil {
			f.Fatal(err)
		}
		for end := time.Now().Add(f.TTL + f.Expiry + f.TTL/3); time.Now().Before(end); f.pause() {
			f.held(f.b, "lock", "node a")
			if held.Err() != nil {
				f.Fatalf("the lease was lost: %v", context.Cause(held))
			}
		}
		release()
		if held.Err() == nil {
			f.Error("the context goes on after the release")
		}
		f.acquireWithin(f.b, "lock", "node b", time.Second)
	}},
	{"a held lease has ended when another acquires the key", func(f *fixture) { f.outage(Hang) }},
	{"a held lease has ended when another acquires the key, the network being cut", func(f *fixture) { f.outage(Cut) }},
}

func (f *fixture) outage(fault Fault) {
	opts := dcs.HoldOptions{Key: f.key("lock"), Value: "node a", TTL: f.TTL}
	held, release, err := dcs.Hold(f.ctx, f.a, opts)
	if err != nil {
		f.Fatal(err)
	}
	defer release()
	f.a.Break(fault)
	defer f.a.Mend()
	f.acquireWithin(f.b, "lock", "node b", 2*f.TTL+f.Expiry)
	if !errors.Is(context.Cause(held), dcs.ErrLeaseLost) {
		f.Errorf("the context's cause is %v, want ErrLeaseLost", context.Cause(held))
	}
}
