package dcs_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/mem"
)

const (
	lockKey = "service/batman/pgtender/backup"
	ttl     = 30 * time.Second
)

// node is a store whose server can be taken away.
type node struct {
	*mem.Store
	down  atomic.Bool // requests fail
	hangs atomic.Bool // requests wait until their time is over
}

func newNode(server *mem.Server) *node {
	n := &node{}
	n.Store = server.Open(mem.Options{Fault: func(ctx context.Context, _ mem.Op, _ string) (bool, error) {
		if n.hangs.Load() {
			<-ctx.Done()
			return false, ctx.Err()
		}
		if n.down.Load() {
			return false, errors.New("connection refused")
		}
		return true, nil
	}})
	return n
}

func hold(t *testing.T, ctx context.Context, locker dcs.Locker) (context.Context, func()) {
	t.Helper()
	held, release, err := dcs.Hold(ctx, locker, dcs.HoldOptions{Key: lockKey, Value: "a", TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return held, release
}

func acquire(t *testing.T, locker dcs.Locker) error {
	t.Helper()
	lease, err := locker.Acquire(t.Context(), lockKey, "b", ttl)
	if err == nil {
		err = lease.Release(t.Context())
	}
	return err
}

func isHeld(err error) bool {
	var held *dcs.HeldError
	return errors.As(err, &held)
}

func TestHoldRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mem.NewServer()
		a, b := newNode(server), newNode(server)
		held, release := hold(t, t.Context(), a)
		for range 60 {
			time.Sleep(time.Minute)
			if err := acquire(t, b); !isHeld(err) {
				t.Fatalf("acquire of a held lease: %v", err)
			}
		}
		if held.Err() != nil {
			t.Fatalf("the context ended: %v", context.Cause(held))
		}
		release()
		release()
		if !errors.Is(context.Cause(held), context.Canceled) {
			t.Errorf("the released context's cause is %v", context.Cause(held))
		}
		if err := acquire(t, b); err != nil {
			t.Errorf("acquire of a released lease: %v", err)
		}
	})
}

func TestHoldSurvivesAnOutageShorterThanItsTTL(t *testing.T) {
	for name, set := range outages {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := mem.NewServer()
				a, b := newNode(server), newNode(server)
				held, release := hold(t, t.Context(), a)
				defer release()
				// From a second before a renewal, for as long as leaves one
				// attempt before the margin begins.
				time.Sleep(9 * time.Second)
				set(a, true)
				time.Sleep(14 * time.Second)
				set(a, false)
				time.Sleep(time.Hour)
				if held.Err() != nil {
					t.Fatalf("the context ended: %v", context.Cause(held))
				}
				if err := acquire(t, b); !isHeld(err) {
					t.Errorf("acquire of a held lease: %v", err)
				}
			})
		})
	}
}

var outages = map[string]func(*node, bool){
	"requests fail": func(n *node, on bool) { n.down.Store(on) },
	"requests hang": func(n *node, on bool) { n.hangs.Store(on) },
}

func TestHoldEndsBeforeAnotherCanAcquire(t *testing.T) {
	for name, set := range outages {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := mem.NewServer()
				a, b := newNode(server), newNode(server)
				held, release := hold(t, t.Context(), a)
				defer release()
				time.Sleep(time.Hour + 3*time.Second)
				set(a, true)
				start := time.Now()
				<-held.Done()
				took := time.Since(start)
				if !errors.Is(context.Cause(held), dcs.ErrLeaseLost) || !errors.Is(context.Cause(held), dcs.ErrUnavailable) {
					t.Errorf("cause %v, want ErrLeaseLost and the reason", context.Cause(held))
				}
				if err := acquire(t, b); !isHeld(err) {
					t.Errorf("acquire when the context had just ended: %v", err)
				}
				if took > ttl-ttl/6 || took < ttl/3 {
					t.Errorf("the context ended %s after the outage began", took)
				}
				for isHeld(acquire(t, b)) {
					time.Sleep(time.Second)
				}
				if spare := time.Since(start) - took; spare < ttl/6-time.Second || spare > ttl/6+2*time.Second {
					t.Errorf("another acquired %s after the context ended, want the margin", spare)
				}
			})
		})
	}
}

func TestHoldEndsAtOnceWhenTheLeaseIsTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mem.NewServer()
		held, release := hold(t, t.Context(), newNode(server))
		defer release()
		server.Delete(lockKey)
		start := time.Now()
		<-held.Done()
		if !errors.Is(context.Cause(held), dcs.ErrLeaseLost) {
			t.Errorf("cause %v, want ErrLeaseLost", context.Cause(held))
		}
		if took := time.Since(start); took > ttl/3 {
			t.Errorf("noticed after %s, want the next renewal", took)
		}
	})
}

func TestHoldKeepsTheLeaseUntilReleaseAfterItsContextEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mem.NewServer()
		a, b := newNode(server), newNode(server)
		ctx, cancel := context.WithCancel(t.Context())
		held, release := hold(t, ctx, a)
		cancel()
		<-held.Done()
		time.Sleep(10 * time.Minute) // cleaning up takes its time
		if err := acquire(t, b); !isHeld(err) {
			t.Errorf("acquire before the release: %v", err)
		}
		release()
		if err := acquire(t, b); err != nil {
			t.Errorf("acquire after the release: %v", err)
		}
	})
}

func TestHoldReleasesInSecondsWithoutTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mem.NewServer()
		a, b := newNode(server), newNode(server)
		held, release := hold(t, t.Context(), a)
		time.Sleep(ttl/3 + time.Second) // a renewal is under way below
		a.hangs.Store(true)
		time.Sleep(ttl / 3)
		start := time.Now()
		release()
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("release took %s", took)
		}
		if held.Err() == nil {
			t.Error("the context goes on after release")
		}
		for isHeld(acquire(t, b)) {
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took > ttl {
			t.Errorf("the key was free after %s", took)
		}
	})
}

// A store as slow as its lease is long has nothing to give.
func TestHoldIsLostWhenAcquiringTookTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mem.NewServer()
		slow := server.Open(mem.Options{Timeout: time.Hour, Fault: func(_ context.Context, op mem.Op, _ string) (bool, error) {
			if op == mem.Acquire {
				time.Sleep(ttl)
			}
			return true, nil
		}})
		held, release := hold(t, t.Context(), slow)
		defer release()
		synctest.Wait()
		if !errors.Is(context.Cause(held), dcs.ErrLeaseLost) {
			t.Errorf("cause %v, want ErrLeaseLost", context.Cause(held))
		}
	})
}

func TestHoldOfAHeldKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mem.NewServer()
		_, release := hold(t, t.Context(), newNode(server))
		defer release()
		held, noop, err := dcs.Hold(t.Context(), newNode(server), dcs.HoldOptions{Key: lockKey, Value: "b", TTL: ttl})
		if !isHeld(err) {
			t.Fatalf("error %v, want a HeldError", err)
		}
		if held.Err() == nil {
			t.Error("without the lease the context goes on")
		}
		noop()
	})
}
