package patroni

import (
	"strings"

	"github.com/pgtender/pgtender/internal/pg"
)

// InitState is what the initialize key says.
type InitState uint8

const (
	NeverInitialized InitState = iota // no key
	Bootstrapping                     // the key is empty: the first bootstrap is running
	Initialized                       // the key holds the system identifier
)

var initNames = [...]string{"never initialized", "bootstrapping", "initialized"}

func (s InitState) String() string { return initNames[s] }

// MarshalText implements encoding.TextMarshaler.
func (s InitState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Cluster is what the DCS said about one cluster at one revision. It is a
// value: nothing in it is modified after it is built, and its users must not.
type Cluster struct {
	Namespace string
	Scope     string // with Citus: scope/group
	Revision  int64  // of the DCS; feeds dcs.Reader's Watch

	Init     InitState
	SystemID pg.SystemID // known if and only if Init is Initialized

	// Leader is the member that holds the leader key, "" while nobody does. It
	// need not be among Members: the keys of a node expire in any order.
	Leader   string
	Members  []Member // by name
	Sync     Sync
	Status   Status
	Timeline Timelines // the history key
	Failover Failover
	Dynamic  Dynamic

	// Problems are what could not be read and is taken for absent.
	Problems []Problem
}

// Prefix gives the key below which the cluster's keys are.
func (c Cluster) Prefix() string { return Prefix(c.Namespace, c.Scope) }

// Member gives a member by its exact name.
func (c Cluster) Member(name string) (Member, bool) {
	for _, m := range c.Members {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}

// LeaderMember gives the leader's member key, if there is a leader and its
// member key is there.
func (c Cluster) LeaderMember() (Member, bool) {
	if c.Leader == "" {
		return Member{}, false
	}
	return c.Member(c.Leader)
}

// LeaderTimeline gives the timeline the leader reports, 0 if it is unknown: no
// leader, or one that is just starting. One that is being promoted may still
// report the timeline it comes from.
func (c Cluster) LeaderTimeline() pg.Timeline {
	m, _ := c.LeaderMember()
	return m.Timeline
}

// LeaderLSN gives the newest position known to have been reached by the
// leader, 0 if none is known. Patroni refreshes it once per loop_wait, so the
// truth is a little further; after a clean shutdown of the leader it may be
// nearly a segment further (ha.py:Ha.shutdown leaves the switch out).
func (c Cluster) LeaderLSN() pg.LSN {
	m, _ := c.LeaderMember()
	return max(c.Status.LSN, m.LSN)
}

// Lag gives how many bytes of WAL a member has yet to replay to reach
// LeaderLSN, and whether that is known. A member past it, which an optime
// refreshed once per loop_wait lets happen all the time, has no lag.
func (c Cluster) Lag(m Member) (bytes int64, known bool) {
	at, leader := m.Replayed(), c.LeaderLSN()
	if at.IsZero() || leader.IsZero() {
		return 0, false
	}
	if at >= leader {
		return 0, true
	}
	return int64(min(leader-at, 1<<63-1)), true
}

// StandbyCluster reports whether this is a standby cluster: its leader follows
// a server outside it and is in recovery itself.
func (c Cluster) StandbyCluster() bool { return c.Dynamic.StandbyCluster.Enabled() }

// SyncStanding says what the sync key guarantees about one member.
type SyncStanding uint8

const (
	NotSync       SyncStanding = iota
	SyncStandby                // has every commit that was acknowledged
	QuorumStandby              // one of several of which some have each commit; this one need not
)

var syncNames = [...]string{"", "sync_standby", "quorum_standby"}

// String gives the word GET /cluster uses, "" for NotSync.
func (s SyncStanding) String() string { return syncNames[s] }

// SyncStanding gives what the sync key guarantees about a member. An invalid
// sync key guarantees nothing ([Sync.Valid]).
func (c Cluster) SyncStanding(member string) SyncStanding {
	if !c.Sync.Valid || strings.EqualFold(member, c.Leader) || !c.Sync.names(member) {
		return NotSync
	}
	if c.Sync.Ambiguous {
		return QuorumStandby
	}
	return SyncStandby
}
