package ha_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/mem"
	"github.com/pgtender/pgtender/ha"
)

// receiver says whether its function runs.
type receiver struct {
	running atomic.Bool
	end     chan error
}

func startReceiver(ctx context.Context, store dcs.Store, name string) *receiver {
	r := &receiver{end: make(chan error, 1)}
	go func() {
		r.end <- ha.WhileReceiver(ctx, store, prefix, name, nil, func(ctx context.Context) error {
			r.running.Store(true)
			defer r.running.Store(false)
			<-ctx.Done()
			return context.Cause(ctx)
		})
	}()
	return r
}

func TestOneReceiverRunsAndTheNextTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mem.NewServer()
		firstCtx, stop := context.WithCancel(t.Context())
		first := startReceiver(firstCtx, server.Open(mem.Options{}), "one")
		synctest.Wait()
		secondCtx, stopSecond := context.WithCancel(t.Context())
		second := startReceiver(secondCtx, server.Open(mem.Options{}), "two")
		time.Sleep(time.Hour) // of a synctest bubble
		if !first.running.Load() || second.running.Load() {
			t.Fatalf("running: %v, %v", first.running.Load(), second.running.Load())
		}
		stop()
		if err := <-first.end; !errors.Is(err, context.Canceled) {
			t.Errorf("the first ended with %v", err)
		}
		time.Sleep(10 * time.Second)
		if !second.running.Load() {
			t.Error("the second did not take over")
		}
		stopSecond()
		<-second.end
	})
}

func TestADCSThatIsDownStopsNoReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mem.NewServer()
		var down atomic.Bool
		cut := server.Open(mem.Options{Fault: func(context.Context, mem.Op, string) (bool, error) {
			if down.Load() {
				return false, dcs.ErrUnavailable
			}
			return true, nil
		}})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		first := startReceiver(ctx, cut, "one")
		synctest.Wait()
		down.Store(true)
		time.Sleep(10 * time.Minute)
		if !first.running.Load() {
			t.Error("it ended because the DCS did not answer")
		}
		down.Store(false)
		time.Sleep(time.Minute)
		second := startReceiver(ctx, server.Open(mem.Options{}), "two")
		time.Sleep(10 * time.Minute)
		if !first.running.Load() || second.running.Load() {
			t.Errorf("running once it answers: %v, %v", first.running.Load(), second.running.Load())
		}
		// Cut off while somebody else gets the lease, it ends once it is told. A
		// receiver that died is replaced as soon.
		down.Store(true)
		time.Sleep(15 * time.Second)
		if !second.running.Load() {
			t.Error("the second did not get the lease of one that is cut off")
		}
		down.Store(false)
		time.Sleep(time.Minute)
		if first.running.Load() {
			t.Error("it went on although somebody else has the lease")
		}
		stop()
		<-first.end
		<-second.end
	})
}

// A lease that was lost and could not be given back keeps the key for a while:
// that is nobody else.
func TestAReceiverDoesNotGiveWayToItsOwnLastLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mem.NewServer()
		var broken atomic.Bool
		store := server.Open(mem.Options{Fault: func(_ context.Context, op mem.Op, _ string) (bool, error) {
			switch {
			case !broken.Load():
				return true, nil
			case op == mem.Renew: // the server has it, and we do not hear of it
				return true, dcs.ErrUnavailable
			case op == mem.Release:
				return false, dcs.ErrUnavailable
			}
			return true, nil
		}})
		var starts atomic.Int32
		ctx, stop := context.WithCancel(t.Context())
		end := make(chan error, 1)
		go func() {
			end <- ha.WhileReceiver(ctx, store, prefix, "one", nil, func(ctx context.Context) error {
				starts.Add(1)
				<-ctx.Done()
				return context.Cause(ctx)
			})
		}()
		synctest.Wait()
		broken.Store(true)
		time.Sleep(2 * ha.ReceiveTTL)
		broken.Store(false)
		time.Sleep(10 * time.Minute)
		if n := starts.Load(); n != 1 {
			t.Errorf("it was started %d times", n)
		}
		stop()
		<-end
	})
}

func TestAReceiversOwnErrorEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := errors.New("of another cluster")
		err := ha.WhileReceiver(t.Context(), mem.NewServer().Open(mem.Options{}), prefix, "one", nil, func(context.Context) error { return want })
		if err != want {
			t.Errorf("error %v", err)
		}
	})
}
