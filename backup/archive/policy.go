package archive

import "time"

// Policy says how long a fetch that fails without an answer goes on trying.
type Policy struct {
	Retry  time.Duration // from the first attempt on
	Reason string
}

// GetPolicy decides how patient a fetch is with a store that does not answer.
//
// A standby takes any failure for the end of the archive and turns to
// streaming, so an answer within seconds keeps an outage from holding up a
// failover. But a segment that the last good listing showed exists: giving up
// on it would leave a standby behind whose upstream no longer has it, so that
// one is tried for minutes. Without standby.signal a failure stops recovery for
// good, which only a long outage is worth.
func GetPolicy(standby, seen bool) Policy {
	switch {
	case !standby:
		return Policy{10 * time.Minute, "recovery stops for good if this fails"}
	case seen:
		return Policy{3 * time.Minute, "the last good listing showed the segment"}
	}
	return Policy{5 * time.Second, "a standby can stream instead"}
}

// backoff gives the pause after the attempt numbered from 0 on.
func backoff(attempt int) time.Duration {
	const first, most = 200 * time.Millisecond, 5 * time.Second
	return min(first<<min(attempt, 10), most)
}
