package main

import (
	"context"
	"errors"
	"os"
	"time"
)

// errOrphaned ends a command whose caller is gone.
var errOrphaned = errors.New("the process that called this one has ended")

// whileCalled ends the context when the process that called this one has ended.
// A Patroni that is killed leaves its create-replica behind, and calls another
// one when it runs again (postgresql/cancellable.py ends its children only when it
// ends in good order). The kernel's signal for this would come with the end of
// the thread that called, of which Patroni has many.
func whileCalled(ctx context.Context) (context.Context, context.CancelFunc) {
	return whileParent(ctx, os.Getppid, time.Second)
}

func whileParent(ctx context.Context, parent func() int, every time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	caller := parent()
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if parent() != caller {
					cancel(errOrphaned)
					return
				}
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}
