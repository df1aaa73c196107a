package mem_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtender/pgtender/dcs/dcstest"
	"github.com/pgtender/pgtender/dcs/mem"
)

func TestStore(t *testing.T) {
	dcstest.RunIn(t, synctest.Test, func(t testing.TB) dcstest.Harness {
		server := mem.NewServer()
		return dcstest.Harness{
			Open:   func(t testing.TB) dcstest.Node { return open(t, server) },
			Put:    func(_ testing.TB, key, value string) { server.Put(key, value) },
			Delete: func(_ testing.TB, key string) { server.Delete(key) },
			TTL:    2 * time.Second,
			Expiry: time.Second,
			Break:  20 * time.Second,
		}
	})
}

func open(t testing.TB, server *mem.Server) dcstest.Node {
	var fault atomic.Value
	fault.Store(dcstest.Fault(""))
	store := server.Open(mem.Options{Fault: func(ctx context.Context, op mem.Op, _ string) (bool, error) {
		switch fault.Load() {
		case dcstest.Cut:
			return false, errors.New("connection refused")
		case dcstest.Hang:
			<-ctx.Done()
			return false, ctx.Err()
		case dcstest.LostAnswers:
			return op == mem.Create || op == mem.Replace || op == mem.Acquire, errors.New("connection reset")
		}
		return true, nil
	}})
	t.Cleanup(func() { store.Close() })
	return dcstest.Node{
		Store: store,
		Break: func(f dcstest.Fault) { fault.Store(f) },
		Mend:  func() { fault.Store(dcstest.Fault("")) },
	}
}
