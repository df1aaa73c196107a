package ha

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pgtender/pgtender/dcs"
)

const receiveKey = "pgtender/receive"

// ReceiveKey is the key of the lease that keeps a cluster's second receiver
// waiting. prefix is the cluster's ([patroni.Prefix]).
func ReceiveKey(prefix string) string { return prefix + "/" + receiveKey }

const (
	// ReceiveTTL is how long the receiver's lease outlives a process that died:
	// that long nobody receives, not even the same one started anew. Two that run
	// at once for a moment do no harm, so it can be short; Consul takes no less.
	ReceiveTTL = 10 * time.Second
	// receiveRetry is the pause between two attempts to get it.
	receiveRetry = time.Second
)

// errReplaced ends a receiver whose lease somebody else has.
var errReplaced = errors.New("another receiver has taken over")

// WhileReceiver runs f as the cluster's one receiver, whenever this process has
// the lease, until ctx ends or f returns by itself, and gives its error.
//
// holder must be unlike any other process's.
//
// The lease only keeps two from doing the same work. So a DCS that does not
// answer stops nothing that runs: f's context ends when somebody else is known
// to have the lease, not when it merely could not be renewed. A first lease is
// waited for.
func WhileReceiver(ctx context.Context, locker dcs.Locker, prefix, holder string, log *slog.Logger, f func(context.Context) error) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	hold := func(ctx context.Context) (context.Context, func(), error) {
		held, release, err := dcs.Hold(ctx, locker, dcs.HoldOptions{Key: ReceiveKey(prefix), Value: holder, TTL: ReceiveTTL, Log: log})
		if taken := (*dcs.HeldError)(nil); errors.As(err, &taken) && taken.Value == holder {
			// A lease of ours that was lost, or of which the answer was, keeps
			// the key until it expires. Nobody else has taken over.
			err = errors.New("our own last lease has not expired yet")
		}
		return held, release, err
	}
	waits := ""
	for {
		held, release, err := hold(ctx)
		if err == nil {
			waits = ""
			err = receiveUnder(ctx, held, release, hold, log, f)
			if !errors.Is(err, errReplaced) {
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if text := err.Error(); text != waits { // once for each reason
			waits = text
			log.InfoContext(ctx, "waiting to be the receiver", "because", text)
		}
		if !pause(ctx) {
			return context.Cause(ctx)
		}
	}
}

// receiveUnder runs f until it returns or another has the lease. held is the
// lease in force, which is taken again whenever it is lost.
func receiveUnder(ctx, held context.Context, release func(), hold func(context.Context) (context.Context, func(), error), log *slog.Logger, f func(context.Context) error) error {
	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	done := make(chan error, 1)
	go func() { done <- f(running) }()
	defer func() { release() }()
	for {
		select {
		case err := <-done:
			return err
		case <-held.Done():
		}
		release()
		release = func() {}
		again, releaseAgain, err := hold(ctx)
		taken := (*dcs.HeldError)(nil)
		switch {
		case err == nil:
			held, release = again, releaseAgain
			continue
		case errors.As(err, &taken):
			replaced := fmt.Errorf("%w: %w", errReplaced, err)
			stop(replaced)
			<-done
			return replaced
		case ctx.Err() != nil:
			return <-done
		}
		log.WarnContext(ctx, "the receiver's lease cannot be renewed; receiving goes on", "error", err)
		pause(ctx)
	}
}

// pause waits before the next attempt, and reports whether ctx goes on.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(receiveRetry):
		return true
	}
}
