package dcs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// HoldOptions say what Hold holds.
type HoldOptions struct {
	Key   string
	Value string        // tells others who holds it
	TTL   time.Duration // the lease is renewed each third of it

	// Margin is how long before the lease can expire the context ends, so
	// that what runs under it has stopped when the next holder starts, even
	// if clocks run at different speeds. 0 means a sixth of the TTL.
	Margin time.Duration

	Log *slog.Logger // failed renewals; nil discards
}

const releaseTimeout = 5 * time.Second

// Hold acquires a lease and turns it into a context: held is ctx, and ends
// besides with a cause that wraps [ErrLeaseLost] once the lease is lost, or
// could not be renewed until Margin before it expires. That time counts from
// the start of the last renewal that succeeded, so held always ends first, and
// it does so even while a renewal hangs.
//
// The lease is renewed in the background until release is called, also after
// ctx has ended: what must be undone is undone under the lease. The caller must
// call release; it ends held, waits for the renewer to end, and gives the lease
// back even if ctx has ended, within seconds. Calling it again does nothing.
//
// Time is the monotonic clock, which stands still while the machine is
// suspended: like any lease this one is no fence.
//
// If the lease cannot be had, the error is Acquire's (see [*HeldError]), held
// has ended already and release does nothing.
func Hold(ctx context.Context, locker Locker, opts HoldOptions) (held context.Context, release func(), err error) {
	held, lose := context.WithCancelCause(ctx)
	start := time.Now()
	lease, err := locker.Acquire(ctx, opts.Key, opts.Value, opts.TTL)
	if err != nil {
		lose(err)
		return held, func() {}, err
	}

	h := &holder{lease: lease, key: opts.Key, ttl: lease.TTL(), margin: opts.Margin, log: opts.Log, lose: lose}
	if h.margin <= 0 {
		h.margin = h.ttl / 6
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	lasting, halt := context.WithCancel(context.WithoutCancel(ctx))
	h.expiry = time.AfterFunc(h.left(start), func() {
		h.lose(h.expired())
		halt()
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.renew(lasting, start)
	}()
	return held, sync.OnceFunc(func() {
		lose(nil)
		halt()
		<-done
		h.expiry.Stop()
		h.release(ctx)
	}), nil
}

// holder renews one lease.
type holder struct {
	lease       Lease
	key         string
	ttl, margin time.Duration
	log         *slog.Logger

	lose    context.CancelCauseFunc // ends the context given out
	expiry  *time.Timer             // fires when the lease must be taken for lost
	lastErr atomic.Pointer[error]   // of the renewal that failed last
}

// left is the time until the lease must be taken for lost if the renewal that
// started then is the last to succeed.
func (h *holder) left(start time.Time) time.Duration {
	return time.Until(start.Add(h.ttl - h.margin))
}

// renew runs until ctx ends, that is until release or expiry, or until the
// lease is lost.
func (h *holder) renew(ctx context.Context, start time.Time) {
	for next := start.Add(h.ttl / 3); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
		}
		start = time.Now()
		err := h.attempt(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrLeaseLost):
			h.lose(err)
			return
		case err != nil:
			h.lastErr.Store(&err)
			h.log.Warn("lease not renewed", "key", h.key, "err", err)
			next = time.Now().Add(h.ttl / 15)
		case !h.expiry.Stop():
			return // expired while the answer was under way
		default:
			h.expiry.Reset(h.left(start))
			next = start.Add(h.ttl / 3)
		}
	}
}

// attempt leaves time for another one, on another connection or member, before
// the lease expires.
func (h *holder) attempt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.ttl/6)
	defer cancel()
	return h.lease.Renew(ctx)
}

func (h *holder) expired() error {
	err := fmt.Errorf("%w: %s was not renewed within %s", ErrLeaseLost, h.key, h.ttl-h.margin)
	if last := h.lastErr.Load(); last != nil {
		err = fmt.Errorf("%w: %w", err, *last)
	}
	return err
}

func (h *holder) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err := h.lease.Release(ctx); err != nil {
		h.log.Warn("lease not released, it expires by itself", "key", h.key, "ttl", h.ttl, "err", err)
	}
}
