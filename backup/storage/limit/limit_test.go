package limit_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/limit"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
)

func TestStore(t *testing.T) {
	storagetest.Run(t, func(testing.TB) storage.Store {
		return limit.New(mem.New(), limit.Options{BytesPerSecond: 1 << 40, Calls: 3})
	})
}

func TestStoreWithoutLimits(t *testing.T) {
	storagetest.Run(t, func(testing.TB) storage.Store { return limit.New(mem.New(), limit.Options{}) })
}

const rate = 1 << 20 // bytes per second

func TestRateIsSharedUpAndDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := limit.New(mem.New(), limit.Options{BytesPerSecond: rate})
		data := make([]byte, 10*rate+1)
		began := time.Now()
		if err := storage.PutBytes(t.Context(), s, "k", data, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		between(t, "10 MiB up", time.Since(began), 10*time.Second)

		began = time.Now()
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() { storage.ReadRange(t.Context(), s, "k", int64(i), 5*rate) })
		}
		wg.Go(func() { storage.PutBytes(t.Context(), s, "l", data[:10*rate], storage.PutOptions{}) })
		wg.Wait()
		between(t, "10 MiB down beside 10 MiB up", time.Since(began), 20*time.Second)
	})
}

// twice reads each source two times, as stores do that sign what they send.
type twice struct{ storage.Store }

func (s twice) Put(ctx context.Context, key string, src io.ReaderAt, size int64, opts storage.PutOptions) error {
	if _, err := io.Copy(io.Discard, io.NewSectionReader(src, 0, size)); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, src, size, opts)
}

func TestBytesReadTwiceAreChargedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := limit.New(twice{mem.New()}, limit.Options{BytesPerSecond: rate})
		began := time.Now()
		if err := storage.PutBytes(t.Context(), s, "k", make([]byte, 3*rate+100), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		between(t, "3 MiB", time.Since(began), 3*time.Second)
	})
}

func between(t *testing.T, what string, took, want time.Duration) {
	t.Helper()
	if took < want || took > want+100*time.Millisecond {
		t.Errorf("%s took %v, want %v", what, took, want)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := limit.New(mem.New(), limit.Options{BytesPerSecond: 1, Calls: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := storage.PutBytes(ctx, s, "k", make([]byte, 1000), storage.PutOptions{})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("waiting for the rate: %v after %v", err, time.Since(began))
		}

		if err := storage.PutBytes(t.Context(), s, "k", nil, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		r, err := s.Get(t.Context(), "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Delete(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for a call's end: %v", err)
		}
		r.Close()
		r.Close() // gives its place back only once
		if err := s.Delete(t.Context(), "k"); err != nil {
			t.Errorf("after the reader was closed: %v", err)
		}
	})
}

// gauge notes the largest number of Puts under way.
type gauge struct {
	storage.Store
	now, top atomic.Int64
}

func (g *gauge) Put(ctx context.Context, key string, src io.ReaderAt, size int64, opts storage.PutOptions) error {
	g.top.Store(max(g.top.Load(), g.now.Add(1)))
	defer g.now.Add(-1)
	time.Sleep(time.Second) // in a synctest bubble: until all others wait
	return g.Store.Put(ctx, key, src, size, opts)
}

func TestCallsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gauge{Store: mem.New()}
		s := limit.New(g, limit.Options{Calls: 3})
		began := time.Now()
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() { s.Put(t.Context(), "k", bytes.NewReader(nil), 0, storage.PutOptions{}) })
		}
		wg.Wait()
		if g.top.Load() != 3 || time.Since(began) != 4*time.Second {
			t.Errorf("%d calls at once, 12 of a second each took %v", g.top.Load(), time.Since(began))
		}
	})
}
