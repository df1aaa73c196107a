// Package retry repeats failed calls of a [storage.Store] that has no retries
// of its own, within a budget. What is worth repeating is decided by
// [storage.Retryable] alone.
package retry

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
)

// Options are the budget of one call. The zero value has sensible defaults.
type Options struct {
	Attempts   int           // in all; 0: 6
	Backoff    time.Duration // before the first repetition, doubled for each further one; 0: 200 ms
	MaxBackoff time.Duration // 0: 10 s
	Budget     time.Duration // no attempt starts later than this after the call; 0: 2 min

	// Log hears of each repetition at level warning; nil: nobody does.
	Log *slog.Logger
}

// Store is a storage.Store that repeats.
type Store struct {
	inner storage.Store
	opts  Options
}

var _ storage.Wrapper = (*Store)(nil)

// New repeats failed calls of inner.
func New(inner storage.Store, opts Options) *Store {
	if opts.Attempts <= 0 {
		opts.Attempts = 6
	}
	if opts.Backoff <= 0 {
		opts.Backoff = 200 * time.Millisecond
	}
	if opts.MaxBackoff <= 0 {
		opts.MaxBackoff = 10 * time.Second
	}
	if opts.Budget <= 0 {
		opts.Budget = 2 * time.Minute
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Store{inner, opts}
}

// Unwrap gives the store below.
func (s *Store) Unwrap() storage.Store { return s.inner }

// String is the name of the store below.
func (s *Store) String() string { return s.inner.String() }

// Put may return storage.ErrExists for an object that an earlier attempt of
// the same call stored.
func (s *Store) Put(ctx context.Context, key string, src io.ReaderAt, size int64, opts storage.PutOptions) error {
	return s.repeat(ctx, "put", key, func() error { return s.inner.Put(ctx, key, src, size, opts) })
}

// Get repeats until there is a reader. A reader that breaks afterwards is not
// mended: the object may have been replaced, and this wrapper cannot tell.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (r io.ReadCloser, err error) {
	err = s.repeat(ctx, "get", key, func() (err error) {
		r, err = s.inner.Get(ctx, key, off, n)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Delete repeats: a second removal does no harm.
func (s *Store) Delete(ctx context.Context, key string) error {
	return s.repeat(ctx, "delete", key, func() error { return s.inner.Delete(ctx, key) })
}

// List goes on after the last key that was yielded. Each new key makes the
// budget whole again.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		last, left := after, false
		for {
			progress := false
			err := s.repeat(ctx, "list", prefix, func() error {
				for o, err := range s.inner.List(ctx, prefix, last) {
					if err != nil && progress {
						return nil // begin a new budget
					}
					if err != nil {
						return err
					}
					last, progress = o.Key, true
					if left = !yield(o, nil); left {
						return nil
					}
				}
				progress = false
				return nil
			})
			if err != nil && !left {
				yield(storage.Object{}, err)
			}
			if err != nil || left || !progress {
				return
			}
		}
	}
}

// repeat calls do until it succeeds, fails for good, or the budget is spent.
func (s *Store) repeat(ctx context.Context, op, key string, do func() error) error {
	began, backoff := time.Now(), s.opts.Backoff
	for attempt := 1; ; attempt++ {
		if err := storage.ContextError(ctx); err != nil {
			return fmt.Errorf("%s %s: %w", op, key, err)
		}
		err := do()
		if err == nil || !storage.Retryable(err) || ctx.Err() != nil {
			return err
		}
		// Between half and the whole, so that many callers do not come back
		// at the same moment.
		wait := backoff/2 + rand.N(backoff/2+1)
		if attempt >= s.opts.Attempts || time.Since(began)+wait > s.opts.Budget {
			return fmt.Errorf("gave up after %d attempts in %v: %w", attempt, time.Since(began).Round(time.Millisecond), err)
		}
		s.opts.Log.WarnContext(ctx, "storage call failed, repeating it",
			"store", s.inner.String(), "op", op, "key", key, "attempt", attempt, "wait", wait, "error", err)
		if err := sleep(ctx, wait); err != nil {
			return fmt.Errorf("%s %s: %w", op, key, err)
		}
		backoff = min(2*backoff, s.opts.MaxBackoff)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return storage.ContextError(ctx)
	}
}
