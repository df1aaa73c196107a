package ha

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pgtender/pgtender/patroni"
)

// Decision names the member that a backup should be taken from.
type Decision struct {
	Source string `json:"source"` // "" if there is none
	Reason string `json:"reason"` // why this one, or why none
	// Candidates are all members in order of preference, those that are
	// refused last.
	Candidates []Candidate `json:"candidates"`
}

// Candidate is one member with what speaks for and against it.
type Candidate struct {
	Member   string   `json:"member"`
	Class    Class    `json:"class"`
	Eligible bool     `json:"eligible"`
	Lag      int64    `json:"lag"` // bytes yet to replay, if LagKnown
	LagKnown bool     `json:"lag_known"`
	For      []string `json:"for,omitempty"`
	Against  []string `json:"against,omitempty"` // refused if any
	// Drawbacks put the member behind others of its kind.
	Drawbacks []string `json:"drawbacks,omitempty"`
}

// Class is what a member is to a backup.
type Class uint8

const (
	ClassReplica Class = iota
	ClassSyncStandby
	ClassQuorumStandby // counts as a replica: it need not have every commit
	ClassLeader
	ClassStandbyLeader
)

var classNames = [...]string{"replica", "sync_standby", "quorum_standby", "leader", "standby_leader"}

func (c Class) String() string { return classNames[c] }

// MarshalText implements encoding.TextMarshaler.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

func (c Class) leads() bool { return c == ClassLeader || c == ClassStandbyLeader }

// IsSource reports whether the decision names member.
func (d Decision) IsSource(member string) bool { return member != "" && d.Source == member }

// Why gives the reason that concerns one member: why it is the source, or why
// another or none is.
func (d Decision) Why(member string) string {
	if d.IsSource(member) {
		return d.Reason
	}
	for _, c := range d.Candidates {
		if c.Member == member && len(c.Against) > 0 {
			return fmt.Sprintf("%s is no source: %s", member, strings.Join(c.Against, "; "))
		}
	}
	if d.Source != "" {
		return fmt.Sprintf("the source is %s: %s", d.Source, d.Reason)
	}
	return d.Reason
}

// Decide chooses the member to take a backup from: a synchronous standby before
// other replicas, those by what they have yet to replay, and the leader last,
// as far as policy allows it. A replica tagged backup goes before all others:
// it is the operator's word. Refused are members that do not run, are not on
// the leader's timeline, do not receive WAL, lag too far or are tagged nobackup.
//
// A cluster without a leader, or with one whose timeline is not known, has no
// source: whether a replica is on the right timeline cannot be said.
func Decide(v View) Decision {
	if v.Err != nil {
		return Decision{Reason: fmt.Sprintf("the cluster is unknown: %v", v.Err)}
	}
	var d Decision
	for _, m := range v.Cluster.Members {
		d.Candidates = append(d.Candidates, v.candidate(m))
	}
	slices.SortStableFunc(d.Candidates, v.compare)
	switch blocked := v.blocked(); {
	case v.Policy.Member != "":
		d.Source, d.Reason = v.demanded(d.Candidates, blocked)
	case blocked != "":
		d.Reason = blocked
	case len(d.Candidates) > 0 && d.Candidates[0].Eligible:
		d.Source, d.Reason = d.Candidates[0].Member, v.choice(d.Candidates)
	default:
		d.Reason = "no member can be the source"
	}
	return d
}

// blocked says why no member at all can be the source, "" if one may.
func (v View) blocked() string {
	switch {
	case v.Cluster.Init == patroni.Bootstrapping:
		return "the cluster is being bootstrapped"
	case v.Cluster.Leader == "":
		return "the cluster has no leader"
	}
	leader, ok := v.Cluster.LeaderMember()
	switch {
	case !ok:
		return fmt.Sprintf("the leader %s has no member key", v.Cluster.Leader)
	case !v.leads(leader):
		return fmt.Sprintf("the leader %s says that its role is %s: a failover is under way", leader.Name, v.role(leader))
	case v.leaderTimeline().IsZero():
		return fmt.Sprintf("the timeline of the leader %s is not known (state %s)", leader.Name, stateText(leader))
	}
	return ""
}

// leads reports whether the holder of the leader key says that it acts as one.
func (v View) leads(leader patroni.Member) bool {
	switch v.role(leader) {
	case patroni.RolePrimary, patroni.RolePromoted, patroni.RoleStandbyLeader:
		return true
	}
	return false
}

// candidate weighs one member.
func (v View) candidate(m patroni.Member) Candidate {
	c := Candidate{Member: m.Name, Class: v.class(m)}
	c.Lag, c.LagKnown = v.Cluster.Lag(m)
	c.Against = append(c.Against, v.unfit(m)...)
	if c.Class.leads() {
		if v.Policy.Leader == LeaderNever {
			c.Against = append(c.Against, "it leads, and policy leader: never keeps backups off the leader")
		}
	} else {
		c.Against = append(c.Against, v.unfitReplica(m)...)
		c.Drawbacks = drawbacks(m)
	}
	c.Against = append(c.Against, v.unwanted(m, c)...)
	c.For = v.merits(m, c)
	c.Eligible = len(c.Against) == 0
	return c
}

func (v View) class(m patroni.Member) Class {
	if m.Name == v.Cluster.Leader {
		if v.Cluster.StandbyCluster() {
			return ClassStandbyLeader
		}
		return ClassLeader
	}
	switch v.Cluster.SyncStanding(m.Name) {
	case patroni.SyncStandby:
		return ClassSyncStandby
	case patroni.QuorumStandby:
		return ClassQuorumStandby
	}
	return ClassReplica
}

// unfit says why no backup can be taken from a member, whatever anybody wants.
func (v View) unfit(m patroni.Member) []string {
	var out []string
	switch m.State {
	case patroni.StateRunning:
	case patroni.StateCreatingReplica:
		out = append(out, "it is being rebuilt (creating replica)")
	default:
		out = append(out, fmt.Sprintf("its PostgreSQL is not running (state %s)", stateText(m)))
	}
	if c, ok := v.Confirmed[m.Name]; ok {
		switch {
		case c.Err != nil:
			out = append(out, fmt.Sprintf("its REST API does not answer: %v", c.Err))
		case c.State != patroni.StateRunning && m.State == patroni.StateRunning:
			out = append(out, fmt.Sprintf("its REST API says that it is not running (state %s)", c.State))
		case !c.SystemID.IsZero() && !v.Cluster.SystemID.IsZero() && c.SystemID != v.Cluster.SystemID:
			out = append(out, fmt.Sprintf("it has system identifier %s, the cluster has %s", c.SystemID, v.Cluster.SystemID))
		}
	}
	return out
}

// unfitReplica says why no backup can be taken from a replica that runs.
func (v View) unfitReplica(m patroni.Member) []string {
	if m.State != patroni.StateRunning {
		return nil
	}
	var out []string
	leader, own := v.leaderTimeline(), v.timeline(m)
	switch {
	case own.IsZero():
		out = append(out, "its timeline is not known")
	case !leader.IsZero() && own != leader:
		out = append(out, fmt.Sprintf("it is on timeline %s, the leader on %s", own, leader))
	}
	switch role := v.role(m); role {
	case patroni.RoleReplica, patroni.RoleUnknown:
	default:
		out = append(out, fmt.Sprintf("it says that its role is %s, but does not hold the leader key", role))
	}
	if m.Replication == "" && m.ReportsReplication() && !m.Tags.Bool("nostream") {
		out = append(out, "it receives no WAL")
	}
	return append(out, v.upstream(m)...)
}

// upstream judges the member that a cascading replica streams from. One that is
// not there does no harm: Patroni then streams from the leader.
func (v View) upstream(m patroni.Member) []string {
	from := m.Tags.ReplicateFrom()
	up, ok := v.Cluster.Member(from)
	if from == "" || !ok || from == m.Name || from == v.Cluster.Leader {
		return nil
	}
	lag, known := v.Cluster.Lag(up)
	switch {
	case up.State != patroni.StateRunning:
		return []string{fmt.Sprintf("it streams from %s, which is not running (state %s)", from, stateText(up))}
	case known && lag > v.maxLag():
		return []string{fmt.Sprintf("it streams from %s, which lags by %s", from, bytesText(lag))}
	}
	return nil
}

// unwanted says why policy and tags refuse a member. A demanded member is not
// asked for its tags and its lag.
func (v View) unwanted(m patroni.Member, c Candidate) []string {
	var out []string
	if v.Policy.Leader == LeaderOnly && !c.Class.leads() {
		out = append(out, "it does not lead, and policy leader: only takes backups from the leader")
	}
	if v.Policy.Member == m.Name {
		return out
	}
	if m.Tags.Bool(TagExclude) {
		out = append(out, "it is tagged "+TagExclude)
	}
	if c.Class.leads() || m.State != patroni.StateRunning {
		return out
	}
	switch {
	case m.Replayed().IsZero():
		out = append(out, "its position is not known")
	case !c.LagKnown:
		out = append(out, "the leader's position is not known, and so neither is its lag")
	case c.Lag > v.maxLag():
		out = append(out, fmt.Sprintf("it lags by %s, more than the %s allowed", bytesText(c.Lag), bytesText(v.maxLag())))
	}
	return out
}

// merits says what speaks for a member.
func (v View) merits(m patroni.Member, c Candidate) []string {
	var out []string
	switch c.Class {
	case ClassSyncStandby:
		out = append(out, "it is a synchronous standby")
	case ClassQuorumStandby:
		out = append(out, "it is one of the quorum's voters, which guarantees nothing of a single one")
	case ClassReplica:
		out = append(out, "it is a replica")
	case ClassLeader:
		out = append(out, "it is the leader")
	case ClassStandbyLeader:
		out = append(out, "it is the leader of a standby cluster")
	}
	if c.Class.leads() {
		return out
	}
	if m.Tags.Bool(TagPrefer) {
		out = append(out, "it is tagged "+TagPrefer)
	}
	if c.LagKnown {
		out = append(out, "it lags by "+bytesText(c.Lag))
	}
	if m.Tags.Bool("noloadbalance") {
		out = append(out, "it serves no clients (noloadbalance)")
	}
	if m.Tags.NoFailover() {
		out = append(out, "it will not be promoted (nofailover)")
	}
	return out
}

// drawbacks put a replica behind others and refuse nothing. A pending restart
// is among them because it lasts until somebody acts: refusing would end all
// backups until then.
func drawbacks(m patroni.Member) []string {
	var out []string
	if m.PendingRestart {
		out = append(out, "a restart of it is pending")
	}
	if m.ScheduledRestart != "" {
		out = append(out, "a restart of it is scheduled for "+m.ScheduledRestart)
	}
	if m.Replication == patroni.InArchiveRecovery || m.Replication == "" && m.Tags.Bool("nostream") {
		out = append(out, "it follows the archive, it does not stream")
	}
	return out
}

// lagStep is the grain in which lags are compared: positions are as old as
// Patroni's last loop, and nodes that each decide for themselves must not come
// to different ends over a few bytes.
const lagStep = 16 << 20

// compare orders candidates by preference.
func (v View) compare(a, b Candidate) int {
	am, _ := v.Cluster.Member(a.Member)
	bm, _ := v.Cluster.Member(b.Member)
	return cmp.Or(
		first(a.Eligible, b.Eligible),
		first(!a.Class.leads(), !b.Class.leads()),
		first(am.Tags.Bool(TagPrefer), bm.Tags.Bool(TagPrefer)),
		cmp.Compare(len(a.Drawbacks), len(b.Drawbacks)),
		first(a.Class == ClassSyncStandby, b.Class == ClassSyncStandby),
		first(a.LagKnown, b.LagKnown),
		cmp.Compare(a.Lag/lagStep, b.Lag/lagStep),
		first(am.Tags.Bool("noloadbalance"), bm.Tags.Bool("noloadbalance")),
		first(am.Tags.NoFailover(), bm.Tags.NoFailover()),
		strings.Compare(a.Member, b.Member),
	)
}

// first orders what has a property before what has not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// choice says why the first candidate is the source.
func (v View) choice(candidates []Candidate) string {
	c := candidates[0]
	reason := strings.Join(c.For, ", ")
	if len(c.Drawbacks) > 0 {
		reason += "; but " + strings.Join(c.Drawbacks, ", ")
	}
	if c.Class.leads() && v.Policy.Leader != LeaderOnly {
		reason += ", and no replica can be the source"
	}
	if v.Policy.Leader == LeaderOnly {
		reason += ", as policy leader: only wants"
	}
	return reason
}

// demanded answers a choice made by hand.
func (v View) demanded(candidates []Candidate, blocked string) (source, reason string) {
	name := v.Policy.Member
	i := slices.IndexFunc(candidates, func(c Candidate) bool { return c.Member == name })
	switch {
	case i < 0:
		return "", fmt.Sprintf("%s is no member of the cluster", name)
	case blocked != "":
		return "", blocked
	case !candidates[i].Eligible:
		return "", fmt.Sprintf("%s was asked for, but %s", name, strings.Join(candidates[i].Against, "; "))
	}
	return name, fmt.Sprintf("%s was asked for", name)
}

func stateText(m patroni.Member) string {
	if m.RawState != "" {
		return m.RawState
	}
	return m.State.String()
}

// bytesText prints a size for people.
func bytesText(n int64) string {
	const units = "kMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), -1
	for value >= 1<<10 && unit+1 < len(units) {
		value /= 1 << 10
		unit++
	}
	return fmt.Sprintf("%.1f %cB", value, units[unit])
}
