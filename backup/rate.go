package backup

import (
	"context"
	"sync"
	"time"
)

// rate bounds bytes per second over all workers. The zero value does not
// bound. Time not used is not saved up beyond a tenth of a second, so a pause
// is followed by no burst.
type rate struct {
	perSecond int64 // bytes; 0: unbounded

	mu   sync.Mutex
	next time.Time // when the bytes granted so far are used up
}

// chunk is how many bytes to read at a time: a quarter of a second's worth,
// within minFrame and readSize.
func (r *rate) chunk() int {
	if r.perSecond == 0 {
		return readSize
	}
	return int(min(max(r.perSecond/4, minFrame), readSize)) &^ (minFrame - 1)
}

// wait returns when n more bytes may be read.
func (r *rate) wait(ctx context.Context, n int) error {
	if r.perSecond == 0 {
		return context.Cause(ctx)
	}
	r.mu.Lock()
	now := time.Now()
	if earliest := now.Add(-time.Second / 10); r.next.Before(earliest) {
		r.next = earliest
	}
	r.next = r.next.Add(time.Duration(float64(n) / float64(r.perSecond) * float64(time.Second)))
	pause := r.next.Sub(now)
	r.mu.Unlock()
	if pause <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
