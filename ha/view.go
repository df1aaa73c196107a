package ha

import (
	"fmt"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

// View is everything a decision is based on. It is a value.
type View struct {
	Cluster patroni.Cluster
	// Err says that Cluster could not be read; nothing in it counts then.
	Err error
	// Self is this node's member name, "" where it is none.
	Self   string
	Policy Policy
	Now    time.Time // when the cluster was read

	// Confirmed is what members said about themselves over REST since the
	// cluster was read, by name. A member that is missing was not asked.
	Confirmed map[string]Confirmation
}

// Confirmation is a member's own word.
type Confirmation struct {
	Err      error // it did not answer
	Role     patroni.Role
	State    patroni.State
	Timeline pg.Timeline // 0 if it did not say
	SystemID pg.SystemID // 0 if it did not say
}

// Policy is what the operator wants of backups.
type Policy struct {
	Leader LeaderPolicy
	// MaxLag is how many bytes of WAL a replica may have yet to replay and
	// still be the source. 0 means DefaultMaxLag.
	MaxLag int64
	// Member overrides the choice: this member or none. It is not refused for
	// its tags or its lag.
	Member string
}

// DefaultMaxLag is sixteen WAL segments of the usual size.
const DefaultMaxLag int64 = 256 << 20

// LeaderPolicy says whether backups may be taken from the leader.
type LeaderPolicy uint8

const (
	LeaderAllowed LeaderPolicy = iota // if no replica can be the source
	LeaderNever
	LeaderOnly
)

var leaderPolicyNames = [...]string{"allow", "never", "only"}

func (p LeaderPolicy) String() string { return leaderPolicyNames[p] }

// ParseLeaderPolicy reads the configuration's word; "" is allow.
func ParseLeaderPolicy(s string) (LeaderPolicy, error) {
	if s == "" {
		return LeaderAllowed, nil
	}
	for i, name := range leaderPolicyNames {
		if s == name {
			return LeaderPolicy(i), nil
		}
	}
	return 0, fmt.Errorf("leader policy %q is none of allow, never, only", s)
}

// Tags by which members say what they are for.
const (
	TagExclude = "nobackup" // true: never the source
	TagPrefer  = "backup"   // true: the source before any other replica
)

func (v View) maxLag() int64 {
	if v.Policy.MaxLag > 0 {
		return v.Policy.MaxLag
	}
	return DefaultMaxLag
}

// leaderTimeline gives the leader's timeline: its own word before its key.
func (v View) leaderTimeline() pg.Timeline {
	if c, ok := v.Confirmed[v.Cluster.Leader]; ok && c.Err == nil && !c.Timeline.IsZero() {
		return c.Timeline
	}
	return v.Cluster.LeaderTimeline()
}

// timeline gives a member's timeline: its own word before its key.
func (v View) timeline(m patroni.Member) pg.Timeline {
	if c, ok := v.Confirmed[m.Name]; ok && c.Err == nil && !c.Timeline.IsZero() {
		return c.Timeline
	}
	return m.Timeline
}

// role gives a member's role: its own word before its key.
func (v View) role(m patroni.Member) patroni.Role {
	if c, ok := v.Confirmed[m.Name]; ok && c.Err == nil && c.Role != patroni.RoleUnknown {
		return c.Role
	}
	return m.Role
}
