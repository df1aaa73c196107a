package receive

import (
	"testing"
	"time"
)

// A failover takes half a minute, and the pause must not have grown to that by
// then: the new leader's first WAL would wait for as long.
func TestThePauseStaysShort(t *testing.T) {
	o := &Options{}
	last := time.Duration(0)
	for attempt := range 100 {
		pause := o.backoff(attempt)
		if pause < last || pause < 500*time.Millisecond || pause > 5*time.Second {
			t.Fatalf("after attempt %d it is %s, before it %s", attempt, pause, last)
		}
		last = pause
	}
}
