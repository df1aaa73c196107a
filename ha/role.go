package ha

import (
	"fmt"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

// Role is a member's part in archiving one timeline.
type Role uint8

const (
	// RoleUnknown: nothing is proved. Archiving goes on, with no claim to
	// authority.
	RoleUnknown Role = iota
	// RoleLeader: the leader key names this member, and it says that it is a
	// primary.
	RoleLeader
	// RoleReplica: another member leads, and this one runs as its replica.
	RoleReplica
	// RoleExLeader: another member leads, and this one led the timeline
	// before: it drains its backlog, or Patroni archives from it while it is
	// stopped.
	RoleExLeader
)

var roleNames = [...]string{"unknown", "leader", "replica", "ex-leader"}

func (r Role) String() string { return roleNames[r] }

// MarshalText implements encoding.TextMarshaler.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// ArchiveRole says what part v.Self plays in archiving a file of timeline t,
// and why. RoleLeader is a proof only if the view is fresh: read after the
// conflict that it is to decide was found.
func ArchiveRole(v View, t pg.Timeline) (Role, string) {
	switch {
	case v.Err != nil:
		return RoleUnknown, fmt.Sprintf("the cluster is unknown: %v", v.Err)
	case v.Self == "":
		return RoleUnknown, "this node is no member"
	case v.Cluster.Leader == "":
		return RoleUnknown, "the cluster has no leader"
	}
	self, ok := v.Cluster.Member(v.Self)
	if v.Cluster.Leader == v.Self {
		return leaderRole(v, self, ok, t)
	}
	if led(v, self, t) {
		return RoleExLeader, fmt.Sprintf("%s led timeline %s, now %s leads", v.Self, t, v.Cluster.Leader)
	}
	switch {
	case !ok:
		return RoleUnknown, fmt.Sprintf("%s has no member key", v.Self)
	case self.Role == patroni.RoleReplica && self.State == patroni.StateRunning:
		return RoleReplica, fmt.Sprintf("%s is a replica of %s", v.Self, v.Cluster.Leader)
	}
	return RoleUnknown, fmt.Sprintf("%s does not lead and is no running replica (role %s, state %s)", v.Self, self.Role, stateText(self))
}

// leaderRole judges the member that the leader key names. Its own key may be a
// loop older: a member that has just won, or is stepping down, proves nothing.
func leaderRole(v View, self patroni.Member, ok bool, t pg.Timeline) (Role, string) {
	switch {
	case !ok:
		return RoleUnknown, fmt.Sprintf("%s holds the leader key and has no member key", v.Self)
	case !v.leads(self) || v.role(self) == patroni.RolePromoted:
		return RoleUnknown, fmt.Sprintf("%s holds the leader key, but says that its role is %s", v.Self, v.role(self))
	case self.State != patroni.StateRunning:
		return RoleUnknown, fmt.Sprintf("%s holds the leader key, but its PostgreSQL is not running (state %s)", v.Self, stateText(self))
	case !t.IsZero() && !self.Timeline.IsZero() && t > self.Timeline:
		return RoleUnknown, fmt.Sprintf("%s holds the leader key on timeline %s, not on %s", v.Self, self.Timeline, t)
	}
	return RoleLeader, fmt.Sprintf("%s holds the leader key", v.Self)
}

// led reports whether the member led timeline t while another leads now: by the
// cluster's history if that tells, else by what the member last said.
func led(v View, self patroni.Member, t pg.Timeline) bool {
	current := v.leaderTimeline()
	if !t.IsZero() {
		if name := v.Cluster.Timeline.LeaderOf(t); name != "" {
			return name == v.Self
		}
		if !current.IsZero() && t > current {
			return false
		}
	}
	switch self.Role {
	case patroni.RolePrimary, patroni.RolePromoted, patroni.RoleDemoted:
		return true
	}
	return false
}
