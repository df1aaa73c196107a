// Package limit holds a [storage.Store] to a rate of bytes per second, up and
// down together, and to a number of calls under way.
package limit

import (
	"context"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
)

// Options are the limits; zero is none.
type Options struct {
	BytesPerSecond int64
	// Calls under way at once. A Get is under way until its reader is closed
	// and a List until the loop over it ends, so a caller that holds one open
	// while it makes another call needs room for both.
	Calls int
}

// Store is a storage.Store within limits.
type Store struct {
	inner storage.Store
	rate  *bucket       // nil: unlimited
	slots chan struct{} // nil: unlimited
}

var _ storage.Wrapper = (*Store)(nil)

// New puts limits on inner. All callers of the Store share them.
func New(inner storage.Store, opts Options) *Store {
	s := &Store{inner: inner}
	if opts.BytesPerSecond > 0 {
		s.rate = &bucket{perSecond: opts.BytesPerSecond}
	}
	if opts.Calls > 0 {
		s.slots = make(chan struct{}, opts.Calls)
	}
	return s
}

// Unwrap gives the store below.
func (s *Store) Unwrap() storage.Store { return s.inner }

// String is the name of the store below.
func (s *Store) String() string { return s.inner.String() }

// Put waits for its turn; its bytes are counted once, however often the store
// below reads them.
func (s *Store) Put(ctx context.Context, key string, src io.ReaderAt, size int64, opts storage.PutOptions) error {
	release, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	defer release()
	if s.rate != nil && size > 0 {
		src = newSource(ctx, src, size, s.rate)
	}
	return s.inner.Put(ctx, key, src, size, opts)
}

// Get waits for its turn; the rate applies as the reader is read.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	release, err := s.enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	r, err := s.inner.Get(ctx, key, off, n)
	if err != nil {
		release()
		return nil, err
	}
	return &reader{ctx: ctx, r: r, rate: s.rate, release: sync.OnceFunc(release)}, nil
}

// List waits for its turn.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		release, err := s.enter(ctx)
		if err != nil {
			yield(storage.Object{}, fmt.Errorf("list %s: %w", prefix, err))
			return
		}
		defer release()
		s.inner.List(ctx, prefix, after)(yield)
	}
}

// Delete waits for its turn.
func (s *Store) Delete(ctx context.Context, key string) error {
	release, err := s.enter(ctx)
	if err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	defer release()
	return s.inner.Delete(ctx, key)
}

func (s *Store) enter(ctx context.Context) (release func(), err error) {
	if s.slots == nil {
		return func() {}, nil
	}
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots }, nil
	case <-ctx.Done():
		return nil, storage.ContextError(ctx)
	}
}

// bucket hands out the right to move bytes. Whoever takes some moves the
// moment from which the next taker may go on.
type bucket struct {
	perSecond int64

	mu   sync.Mutex
	next time.Time // guarded by mu
}

// take waits until n bytes may pass.
func (b *bucket) take(ctx context.Context, n int) error {
	b.mu.Lock()
	now := time.Now()
	if b.next.Before(now) {
		b.next = now
	}
	b.next = b.next.Add(time.Duration(float64(n) / float64(b.perSecond) * float64(time.Second)))
	wait := b.next.Sub(now)
	b.mu.Unlock()

	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return storage.ContextError(ctx)
	}
}

// step is how many bytes move at once: small enough for an even flow and for
// a prompt end, large enough for few timers.
const step = 64 << 10

// source charges each step of an object once. Stores read a section again for
// a digest or a retry, and that is no traffic worth holding back twice.
type source struct {
	ctx  context.Context
	src  io.ReaderAt
	size int64
	rate *bucket

	mu      sync.Mutex
	charged []bool // by step; guarded by mu
}

func newSource(ctx context.Context, src io.ReaderAt, size int64, rate *bucket) *source {
	return &source{ctx: ctx, src: src, size: size, rate: rate, charged: make([]bool, (size+step-1)/step)}
}

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	if off >= 0 {
		for i := off / step; i < int64(len(s.charged)) && i*step < off+int64(len(p)); i++ {
			if err := s.charge(i); err != nil {
				return 0, err
			}
		}
	}
	return s.src.ReadAt(p, off)
}

func (s *source) charge(i int64) error {
	s.mu.Lock()
	done := s.charged[i]
	s.charged[i] = true
	s.mu.Unlock()
	if done {
		return nil
	}
	return s.rate.take(s.ctx, int(min(step, s.size-i*step)))
}

// reader is under way until it is closed.
type reader struct {
	ctx     context.Context
	r       io.ReadCloser
	rate    *bucket // nil: unlimited
	release func()
}

func (r *reader) Read(p []byte) (int, error) {
	if r.rate == nil {
		return r.r.Read(p)
	}
	n, err := r.r.Read(p[:min(len(p), step)])
	if n > 0 {
		if wait := r.rate.take(r.ctx, n); wait != nil {
			return n, wait
		}
	}
	return n, err
}

// ObjectSize is that of the reader below.
func (r *reader) ObjectSize() int64 { return storage.ObjectSize(r.r) }

func (r *reader) Close() error {
	defer r.release()
	return r.r.Close()
}
