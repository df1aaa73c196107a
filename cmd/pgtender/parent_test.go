package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestACommandEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var parent atomic.Int64
		parent.Store(42)
		ctx, cancel := whileParent(t.Context(), func() int { return int(parent.Load()) }, time.Second)
		defer cancel()
		time.Sleep(time.Hour)
		if ctx.Err() != nil {
			t.Fatalf("it has ended: %v", context.Cause(ctx))
		}
		parent.Store(1)
		time.Sleep(2 * time.Second)
		if !errors.Is(context.Cause(ctx), errOrphaned) {
			t.Errorf("it ends with %v", context.Cause(ctx))
		}
	})
}
