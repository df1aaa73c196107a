package patroni

import "strings"

// Role is what a member says it is. It is as old as the member's last
// heartbeat: the leader is who holds the leader key ([Cluster.Leader]).
type Role uint8

// Roles (postgresql/misc.py:PostgresqlRole). Patroni before 4.0 writes master
// where later ones write primary; both are RolePrimary.
const (
	RoleUnknown       Role = iota
	RolePrimary            // master, primary
	RoleReplica            // replica
	RoleStandbyLeader      // leads a standby cluster: holds the leader key, is in recovery
	RolePromoted           // promotion succeeded a moment ago
	RoleDemoted            // was the primary and has been stopped
	RoleUninitialized      // no data directory yet
)

var roleNames = [...]string{"unknown", "primary", "replica", "standby_leader", "promoted", "demoted", "uninitialized"}

// ParseRole gives the role Patroni's text stands for, RoleUnknown if none.
func ParseRole(s string) Role {
	if s == "master" {
		return RolePrimary
	}
	for i, name := range roleNames {
		if s == name {
			return Role(i)
		}
	}
	return RoleUnknown
}

// String gives the name Patroni 4 writes.
func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return roleNames[RoleUnknown]
}

// MarshalText implements encoding.TextMarshaler.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// State is what a member's PostgreSQL is doing.
type State uint8

// States (postgresql/misc.py:PostgresqlState).
const (
	StateUnknown State = iota
	StateInitdb
	StateInitdbFailed
	StateCustomBootstrap
	StateCustomBootstrapFailed
	StateCreatingReplica
	StateRunning
	StateStarting // also "starting after custom bootstrap"
	StateStartFailed
	StateRestarting
	StateRestartFailed // 3.0.2 appends the reason in brackets
	StateStopping
	StateStopped
	StateStopFailed
	StateCrashed
)

var stateNames = [...]string{
	"unknown", "initializing new cluster", "initdb failed", "running custom bootstrap script",
	"custom bootstrap failed", "creating replica", "running", "starting", "start failed", "restarting",
	"restart failed", "stopping", "stopped", "stop failed", "crashed",
}

// ParseState gives the state Patroni's text stands for, StateUnknown if none.
// GET /cluster puts a standby's replication state in place of "running" since
// 3.0.4, so "streaming" and "in archive recovery" mean running.
func ParseState(s string) State {
	switch s {
	case "starting after custom bootstrap":
		return StateStarting
	case "streaming", "in archive recovery":
		return StateRunning
	}
	for i, name := range stateNames {
		if s == name {
			return State(i)
		}
	}
	if strings.HasPrefix(s, stateNames[StateRestartFailed]) {
		return StateRestartFailed
	}
	return StateUnknown
}

// String gives the text Patroni writes.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return stateNames[StateUnknown]
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Replication states of a standby (3.0.4 and later; member key and /patroni).
const (
	Streaming         = "streaming"
	InArchiveRecovery = "in archive recovery"
)
