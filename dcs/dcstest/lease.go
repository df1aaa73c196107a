package dcstest

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/dcs"
)

var leaseTests = []test{
	{"the second acquirer learns who holds the key", func(f *fixture) {
		f.acquire(f.a, "lock", "node a")
		f.held(f.b, "lock", "node a")
		f.held(f.a, "lock", "node a")
		if diff := cmp.Diff(map[string]string{"lock": "node a"}, f.data(f.read(f.b))); diff != "" {
			f.Error(diff)
		}
	}},
	{"of many acquirers exactly one wins", func(f *fixture) {
		var winners []string
		f.race(8, func(node Node, i int) (string, error) {
			value := fmt.Sprint("acquirer ", i)
			_, err := node.Acquire(f.ctx, f.key("lock"), value, f.TTL)
			var held *dcs.HeldError
			if errors.As(err, &held) {
				return "", nil
			}
			if err == nil {
				f.locked(func() { winners = append(winners, value) })
			}
			return "", err
		})
		if len(winners) != 1 {
			f.Fatalf("winners: %q", winners)
		}
		f.held(f.a, "lock", winners[0])
	}},
	{"a lasting key cannot be acquired", func(f *fixture) {
		f.put("lock", "lasting")
		f.held(f.a, "lock", "lasting")
		if snap := f.read(f.a); snap.Keys[f.key("lock")].Leased {
			f.Error("the key is leased now")
		}
	}},
	{"a released key can be acquired at once", func(f *fixture) {
		for range 3 {
			for _, node := range []Node{f.a, f.b} {
				lease := f.acquire(node, "lock", "holder")
				if err := lease.Release(f.ctx); err != nil {
					f.Fatal(err)
				}
				if len(f.read(f.a).Keys) != 0 {
					f.Fatal("the key is there after its release")
				}
				if err := lease.Release(f.ctx); err != nil {
					f.Errorf("second release: %v", err)
				}
			}
		}
	}},
	{"a renewed lease outlives its TTL", func(f *fixture) {
		lease := f.acquire(f.a, "lock", "node a")
		for end := time.Now().Add(f.TTL + f.Expiry + f.TTL/3); time.Now().Before(end); {
			if err := lease.Renew(f.ctx); err != nil {
				f.Fatal(err)
			}
			f.held(f.b, "lock", "node a")
			for next := time.Now().Add(f.TTL / 3); time.Now().Before(next); {
				f.pause()
			}
		}
	}},
	{"an expired lease frees the key and stays lost", func(f *fixture) {
		start := time.Now()
		old := f.acquire(f.a, "lock", "node a")
		lease := f.acquireWithin(f.b, "lock", "node b", f.TTL+f.Expiry)
		if took := time.Since(start); took < f.TTL {
			f.Errorf("the key was free after %s, granted for %s", took, f.TTL)
		}
		f.isLost(old.Renew(f.ctx))
		if err := old.Release(f.ctx); err != nil {
			f.Errorf("release of a lost lease: %v", err)
		}
		f.held(f.a, "lock", "node b")
		if err := lease.Renew(f.ctx); err != nil {
			f.Errorf("the successor's lease: %v", err)
		}
	}},
	{"a renewal after expiry fails although nobody took the key", func(f *fixture) {
		lease := f.acquire(f.a, "lock", "node a")
		for deadline := time.Now().Add(f.TTL + f.Expiry); len(f.read(f.b).Keys) != 0; f.pause() {
			if time.Now().After(deadline) {
				f.Fatalf("the key is still there after %s", f.TTL+f.Expiry)
			}
		}
		f.isLost(lease.Renew(f.ctx))
	}},
	{"a key that was taken away is lost", func(f *fixture) {
		lease := f.acquire(f.a, "lock", "node a")
		f.Delete(f.T, f.key("lock"))
		f.isLost(lease.Renew(f.ctx))

		lease = f.acquireWithin(f.a, "lock", "node a", f.TTL)
		f.Delete(f.T, f.key("lock"))
		successor := f.acquireWithin(f.b, "lock", "node b", f.TTL)
		f.isLost(lease.Renew(f.ctx))
		if err := lease.Release(f.ctx); err != nil {
			f.Errorf("release of a lost lease: %v", err)
		}
		if err := successor.Renew(f.ctx); err != nil {
			f.Errorf("the successor's lease: %v", err)
		}
	}},
	{"a TTL that is no whole number of seconds is rounded up", func(f *fixture) {
		ttl := f.TTL + 300*time.Millisecond
		lease, err := f.a.Acquire(f.ctx, f.key("lock"), "node a", ttl)
		if err != nil {
			f.Fatal(err)
		}
		if lease.TTL() < ttl {
			f.Errorf("asked for %s, got %s", ttl, lease.TTL())
		}
	}},
}

func (f *fixture) isLost(err error) {
	f.Helper()
	if !errors.Is(err, dcs.ErrLeaseLost) {
		f.Errorf("renew: error %v, want ErrLeaseLost", err)
	}
}
