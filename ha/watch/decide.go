package watch

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

// Policy is what the operator allows. The zero value only reports.
type Policy struct {
	// Rebuild: what is wrong is mended, not only told.
	Rebuild bool
	// Patience is how long a running replica may stand still; 0 means
	// DefaultPatience.
	Patience time.Duration
	// StartPatience is how long a starting server may make no progress; 0
	// means DefaultStartPatience.
	StartPatience time.Duration
	// Again is the shortest time between two rebuilds of one member; 0 means
	// DefaultAgain.
	Again time.Duration
	// Spacing is the shortest time between two rebuilds in the cluster; 0
	// means DefaultSpacing.
	Spacing time.Duration
	// Settled is how long a leader must have led before a member is rebuilt
	// after it: a cluster between two failovers needs every copy it has. 0
	// means DefaultSettled.
	Settled time.Duration
}

const (
	DefaultPatience      = 5 * time.Minute
	DefaultStartPatience = 30 * time.Minute
	DefaultAgain         = 6 * time.Hour
	DefaultSpacing       = 15 * time.Minute
	DefaultSettled       = 2 * time.Minute
)

func (p Policy) orDefaults() Policy {
	p.Patience = or(p.Patience, DefaultPatience)
	p.StartPatience = or(p.StartPatience, DefaultStartPatience)
	p.Again = or(p.Again, DefaultAgain)
	p.Spacing = or(p.Spacing, DefaultSpacing)
	p.Settled = or(p.Settled, DefaultSettled)
	return p
}

func or(d, def time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return def
}

// Symptom is what is wrong with a member.
type Symptom uint8

const (
	Well     Symptom = iota
	Waiting          // something may be wrong, and its time is not up
	LostWAL          // it needs WAL that the leader has recycled, and does not get it from the archive
	Diverged         // it is past the point at which the leader's timeline left its own
	Hanging          // its server is starting and makes no progress
	Stalled          // it stands still, and why is not known
)

var symptomNames = [...]string{"well", "waiting", "lost_wal", "diverged", "hanging", "stalled"}

func (s Symptom) String() string { return symptomNames[s] }

// MarshalText implements encoding.TextMarshaler.
func (s Symptom) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Decision says what is wrong with the member and whether to rebuild it now.
type Decision struct {
	Symptom Symptom `json:"symptom"`
	Reason  string  `json:"reason"`
	// Rebuild: it will not come back by itself, and nothing is Against.
	Rebuild bool     `json:"rebuild"`
	Against []string `json:"against,omitempty"`
}

// ill reports whether s is known not to mend itself.
func (s Symptom) ill() bool { return s == LostWAL || s == Diverged || s == Hanging }

func (d Decision) String() string {
	if len(d.Against) == 0 {
		return d.Symptom.String() + ": " + d.Reason
	}
	return fmt.Sprintf("%s: %s; not rebuilt: %s", d.Symptom, d.Reason, strings.Join(d.Against, "; "))
}

// Decide judges the member that f names, by what f and the trail up to f say.
// Only what cannot mend itself is rebuilt: a member that stands still for
// unknown reasons is reported and left alone.
func Decide(f Facts, t Trail, p Policy) Decision {
	p = p.orDefaults()
	d := f.diagnose(t, p)
	if d.Symptom.ill() {
		d.Against = f.against(t, p)
		d.Rebuild = len(d.Against) == 0
	}
	return d
}

// diagnose says what is wrong.
func (f Facts) diagnose(t Trail, p Policy) Decision {
	if f.View.Err != nil {
		return Decision{Symptom: Waiting, Reason: fmt.Sprintf("the cluster is unknown: %v", f.View.Err)}
	}
	self, ok := f.self()
	switch {
	case !ok:
		return Decision{Symptom: Waiting, Reason: fmt.Sprintf("%s has no member key", f.View.Self)}
	case f.well(self):
		return Decision{Symptom: Well, Reason: fmt.Sprintf("%s leads, streams or has all there is", f.View.Self)}
	}
	still := f.View.Now.Sub(t.Moved)
	switch self.State {
	case patroni.StateStarting:
		if still < p.StartPatience {
			return Decision{Symptom: Waiting, Reason: fmt.Sprintf("%s is starting, %s without progress", self.Name, still.Round(time.Second))}
		}
		return Decision{Symptom: Hanging, Reason: fmt.Sprintf("%s has been starting without progress for %s", self.Name, still.Round(time.Second))}
	case patroni.StateRunning:
		return f.diagnoseRunning(self, still, p)
	}
	return Decision{Symptom: Waiting, Reason: fmt.Sprintf("%s is in state %q, which is Patroni's to mend", self.Name, self.RawState)}
}

// diagnoseRunning judges a replica that runs and does not stream.
func (f Facts) diagnoseRunning(self patroni.Member, still time.Duration, p Policy) Decision {
	switch {
	case f.View.Cluster.Leader == "":
		return Decision{Symptom: Waiting, Reason: "the cluster has no leader"}
	case still < p.Patience:
		return Decision{Symptom: Waiting, Reason: fmt.Sprintf("%s does not stream, %s at %s", self.Name, still.Round(time.Second), f.Position)}
	}
	if at, ok := f.forked(self); ok {
		return Decision{Symptom: Diverged, Reason: fmt.Sprintf(
			"%s is at %s of timeline %s, which the leader's history left at %s", self.Name, f.Position, self.Timeline, at)}
	}
	switch f.LeaderWAL {
	case HoldingNo:
		return Decision{Symptom: LostWAL, Reason: fmt.Sprintf(
			"%s has stood at %s for %s: the leader has recycled the WAL after it, and the archive does not carry it on", self.Name, f.Position, still.Round(time.Second))}
	case HoldingYes:
		return Decision{Symptom: Stalled, Reason: fmt.Sprintf(
			"%s has stood at %s for %s, although the leader has the WAL after it: see PostgreSQL's log", self.Name, f.Position, still.Round(time.Second))}
	}
	return Decision{Symptom: Stalled, Reason: fmt.Sprintf(
		"%s has stood at %s for %s, and whether the leader has the WAL after it is not known", self.Name, f.Position, still.Round(time.Second))}
}

// forked reports whether the member is past the end of its timeline in the
// leader's history, and where that is.
func (f Facts) forked(self patroni.Member) (pg.LSN, bool) {
	if self.Timeline.IsZero() || f.Position.IsZero() {
		return 0, false
	}
	history, err := f.View.Cluster.LeaderHistory()
	if err != nil {
		return 0, false
	}
	end, ok := history.End(self.Timeline)
	return end, ok && f.Position > end
}

// against says what forbids to rebuild the member now.
func (f Facts) against(t Trail, p Policy) []string {
	c, now := f.View.Cluster, f.View.Now
	var out []string
	if !p.Rebuild {
		out = append(out, "the configuration only wants it reported")
	}
	if c.Dynamic.Pause {
		out = append(out, "the cluster is paused")
	}
	if c.Failover.Pending() {
		out = append(out, "a switchover or failover is asked for")
	}
	leader, ok := c.LeaderMember()
	switch {
	case c.Leader == "":
		out = append(out, "the cluster has no leader")
	case !ok || leader.State != patroni.StateRunning:
		out = append(out, fmt.Sprintf("the leader %s does not run", c.Leader))
	case now.Sub(t.Led) < p.Settled:
		out = append(out, fmt.Sprintf("%s leads for less than %s", c.Leader, p.Settled))
	}
	if f.lastSync() {
		out = append(out, fmt.Sprintf("%s is the last synchronous standby", f.View.Self))
	}
	return append(out, f.tooSoon(p)...)
}

// lastSync reports whether the member is named by a valid sync key and none of
// the others that it names is well: commits may be on this member alone.
func (f Facts) lastSync() bool {
	c := f.View.Cluster
	if c.SyncStanding(f.View.Self) == patroni.NotSync {
		return false
	}
	for _, m := range c.Members {
		if m.Name != f.View.Self && m.Name != c.Leader && c.SyncStanding(m.Name) != patroni.NotSync && f.well(m) {
			return false
		}
	}
	return true
}

// tooSoon spaces rebuilds, and keeps them one at a time.
func (f Facts) tooSoon(p Policy) []string {
	var out []string
	for _, m := range f.View.Cluster.Members {
		if m.Name != f.View.Self && m.State == patroni.StateCreatingReplica {
			out = append(out, fmt.Sprintf("%s is being rebuilt", m.Name))
		}
	}
	for name, at := range f.Rebuilds {
		age := f.View.Now.Sub(at)
		switch {
		case name == f.View.Self && age < p.Again:
			out = append(out, fmt.Sprintf("it was rebuilt %s ago", age.Round(time.Second)))
		case name != f.View.Self && age < p.Spacing:
			out = append(out, fmt.Sprintf("%s was rebuilt %s ago", name, age.Round(time.Second)))
		}
	}
	return out
}
