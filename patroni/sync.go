package patroni

import "strings"

// SyncMode is the dynamic configuration's synchronous_mode.
type SyncMode uint8

const (
	SyncOff SyncMode = iota
	SyncOn
	SyncQuorum // 4.0 and later
)

var syncModeNames = [...]string{"off", "on", "quorum"}

func (m SyncMode) String() string { return syncModeNames[m] }

// MarshalText implements encoding.TextMarshaler.
func (m SyncMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// Sync is the sync key: which standbys the leader's commits wait for.
type Sync struct {
	Present  bool
	Leader   string // who wrote it
	Standbys []string
	Quorum   int // how many voters a candidate must see; 0 without quorum mode

	// Valid says whether the key means anything now; Why says why not. A key
	// outlives the leader that wrote it, and in 3.0.2 the synchronous mode.
	Valid bool
	Why   string

	// Ambiguous: the standbys are voters of a quorum. Each commit is on some
	// of them, and none is known to have them all.
	Ambiguous bool
}

// names reports whether the key lists member. PostgreSQL compares names in
// synchronous_standby_names without regard to case, and so does Patroni 4.
func (s Sync) names(member string) bool {
	for _, name := range s.Standbys {
		if strings.EqualFold(name, member) {
			return true
		}
	}
	return false
}

// parseSync reads the sync key (SyncState.from_node).
func parseSync(value string) (Sync, string) {
	s := Sync{Present: true}
	if strings.TrimSpace(value) == "" {
		return s, ""
	}
	o, err := ParseObject(value)
	if err != nil {
		return s, "the sync state is ignored: " + err.Error()
	}
	s.Leader = o.Text("leader")
	if s.Leader == "" {
		return s, ""
	}
	for _, name := range strings.Split(o.Text("sync_standby"), ",") {
		if name = strings.TrimSpace(name); name != "" {
			s.Standbys = append(s.Standbys, name)
		}
	}
	quorum, ok := o.Int("quorum")
	if o.Has("quorum") && (!ok || quorum < 0 || quorum > 1<<20) {
		return Sync{Present: true}, "the sync state is ignored: quorum is no count"
	}
	s.Quorum = int(quorum)
	return s, ""
}

// judge decides whether s means anything, from who leads and what the
// configuration says (global_config.py:is_synchronous_mode,
// SyncState.leader_matches). It is the one place that does.
func (s Sync) judge(leader string, d Dynamic) Sync {
	s.Ambiguous = d.SynchronousMode == SyncQuorum || s.Quorum > 0
	switch {
	case !s.Present:
		s.Why = "there is no sync key"
	case s.Leader == "":
		s.Why = "the sync key names no leader"
	case leader == "":
		s.Why = "the cluster has no leader"
	case !strings.EqualFold(s.Leader, leader):
		s.Why = "the sync key is stale: it was written by " + s.Leader
	case !d.Known:
		s.Why = "the dynamic configuration is unknown"
	case d.SynchronousMode == SyncOff:
		s.Why = "synchronous_mode is off"
	case d.StandbyCluster.Enabled():
		s.Why = "a standby cluster has no synchronous standbys"
	default:
		s.Valid = true
	}
	return s
}
