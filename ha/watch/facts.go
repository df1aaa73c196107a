package watch

import (
	"time"

	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

// Facts is what was known at one moment. It is a value.
type Facts struct {
	// View is the cluster; Self names the member that is watched and Now the
	// moment.
	View ha.View
	// Position is how far the member's recovery is known to have come; 0 if
	// that is not known.
	Position pg.LSN
	// Progress is any text that changes while recovery gets on, besides
	// Position: while a server is starting its position moves only with its
	// restartpoints, its startup process tells more.
	Progress string
	// LeaderWAL says whether the leader still has the WAL after Position.
	LeaderWAL Holding
	// Rebuilds says when members were last rebuilt by a watcher, by name.
	Rebuilds map[string]time.Time
}

// Holding is what is known of somebody's having something.
type Holding uint8

const (
	HoldingUnknown Holding = iota
	HoldingYes
	HoldingNo
)

var holdingNames = [...]string{"unknown", "yes", "no"}

func (h Holding) String() string { return holdingNames[h] }

// self gives the watched member's key.
func (f Facts) self() (patroni.Member, bool) { return f.View.Cluster.Member(f.View.Self) }

// Trail remembers since when things are as they are. The zero value is a watch
// that has just begun. It is a value.
type Trail struct {
	// Moved is when the member was last seen to get on, to change its state,
	// or to be fine.
	Moved time.Time
	// Led is when the leader was last seen to change.
	Led time.Time

	at     mark
	leader reign
}

// mark is what changes while a member gets on.
type mark struct {
	position pg.LSN
	progress string
	state    patroni.State
}

// reign is who leads, and where.
type reign struct {
	leader   string
	timeline pg.Timeline
}

// Next gives the trail after one more look. A look that could not see the
// cluster says nothing about the member, so the clocks start anew: a member is
// never rebuilt for what nobody watched.
func (t Trail) Next(f Facts) Trail {
	now := f.View.Now
	self, ok := f.self()
	if f.View.Err != nil || !ok {
		return Trail{Moved: now, Led: now}
	}
	at := mark{f.Position, f.Progress, self.State}
	if t.Moved.IsZero() || at != t.at || f.well(self) {
		t.Moved, t.at = now, at
	}
	is := reign{f.View.Cluster.Leader, f.View.Cluster.LeaderTimeline()}
	if t.Led.IsZero() || is != t.leader {
		t.Led, t.leader = now, is
	}
	return t
}

// well reports whether nothing is wrong with a member at this moment.
func (f Facts) well(m patroni.Member) bool {
	if m.Name == f.View.Cluster.Leader {
		return true
	}
	if m.State != patroni.StateRunning {
		return false
	}
	if m.Replication == patroni.Streaming {
		return true
	}
	lag, known := f.View.Cluster.Lag(m)
	return known && lag == 0
}
