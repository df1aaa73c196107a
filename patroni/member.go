package patroni

import (
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/pgtender/pgtender/internal/pg"
)

// Member is one member key (ha.py:Ha.touch_member). Fields that the member did
// not write are zero: LSNs and timeline are missing while PostgreSQL does not
// run and while a replica is being created, Received and ReplayLSN before
// Patroni 4.1, Replication before 3.0.4.
type Member struct {
	Name     string
	Role     Role
	RawRole  string // as written
	State    State
	RawState string // as written

	Host string // PostgreSQL's address, from conn_url
	Port int
	// APIURL is where Patroni's REST API listens, with the path /patroni.
	APIURL string

	Timeline pg.Timeline
	// LSN is xlog_location: on a primary the position written (3.0.2) or
	// flushed (4.x), on a standby the later of received and replayed.
	LSN       pg.LSN
	Received  pg.LSN
	ReplayLSN pg.LSN
	// Replication is [Streaming], [InArchiveRecovery] or "".
	Replication string

	Tags             Tags
	Version          string // of Patroni
	PendingRestart   bool
	ScheduledRestart string // time, "" for none
	// CheckpointPending: promoted, and the checkpoint that ends the promotion
	// has not finished.
	CheckpointPending bool
	Paused            bool // the member has noticed that the cluster is paused

	Leased   bool  // the key vanishes with the member's lease
	Revision int64 // of the key's last change
}

// Replayed gives the position the member has replayed, or the nearest that is
// known: before 4.1 a standby tells no more than LSN.
func (m Member) Replayed() pg.LSN {
	if !m.ReplayLSN.IsZero() {
		return m.ReplayLSN
	}
	return m.LSN
}

// Address gives host:port, "" if unknown.
func (m Member) Address() string {
	if m.Host == "" {
		return ""
	}
	return net.JoinHostPort(m.Host, strconv.Itoa(m.Port))
}

// SlotName gives the name of the member's replication slot.
func (m Member) SlotName() string { return SlotName(m.Name) }

// ReportsReplication says whether the member's Patroni is new enough to write
// replication_state, so that its absence means something (3.0.4).
func (m Member) ReportsReplication() bool { return versionAtLeast(m.Version, 3, 0, 4) }

// Tags are a member's tags (tags.py), all values as text.
type Tags map[string]string

// Bool reads a tag as a boolean; a missing one is false. Any number above zero
// and any text but the spellings of false count as true.
func (t Tags) Bool(name string) bool {
	text, ok := t[name]
	if !ok || text == "" {
		return false
	}
	if b, ok := parseBool(text); ok {
		return b
	}
	if n, ok := parseInt(text); ok {
		return n > 0
	}
	return true
}

// NoFailover: the member is never promoted.
func (t Tags) NoFailover() bool { return t.barred("nofailover", "failover_priority") }

// NoSync: the member is never made a synchronous standby.
func (t Tags) NoSync() bool { return t.barred("nosync", "sync_priority") }

// barred is Tags._bool_tag: the boolean tag decides if it is there, else a
// priority that is not positive does.
func (t Tags) barred(boolean, priority string) bool {
	if _, ok := t[boolean]; ok {
		return t.Bool(boolean)
	}
	n, ok := parseInt(t[priority])
	return ok && n <= 0
}

// ReplicateFrom names the member this one streams from, "" for the leader.
func (t Tags) ReplicateFrom() string { return t["replicatefrom"] }

// parseMember reads a member key's value. What cannot be read at all makes a
// member of which only the name is known (Member.from_node), and a problem.
func parseMember(name, value string) (Member, string) {
	m := Member{Name: name}
	if strings.HasPrefix(value, "postgres") {
		// The oldest form: the whole value is a connection URL.
		return m.withConnURL(value), ""
	}
	o, err := ParseObject(value)
	if err != nil {
		return m, "the member's value is ignored: " + err.Error()
	}
	m.RawRole, m.RawState = o.Text("role"), o.Text("state")
	m.Role, m.State = ParseRole(m.RawRole), ParseState(m.RawState)
	m.APIURL = o.Text("api_url")
	m.Timeline = o.Timeline("timeline")
	m.LSN, m.Received, m.ReplayLSN = o.LSN("xlog_location"), o.LSN("receive_lsn"), o.LSN("replay_lsn")
	m.Replication = o.Text("replication_state")
	m.Tags = o.Sub("tags").Texts()
	m.Version = o.Text("version")
	m.PendingRestart = o.Bool("pending_restart")
	m.ScheduledRestart = o.Sub("scheduled_restart").Text("schedule")
	_, hasCheckpoint := o["checkpoint_after_promote"]
	m.CheckpointPending = hasCheckpoint && !o.Bool("checkpoint_after_promote")
	m.Paused = o.Bool("pause")
	m = m.withConnURL(o.Text("conn_url"))
	return m, m.oddity(o)
}

// oddity names what the member wrote and this package does not know.
func (m Member) oddity(o Object) string {
	switch {
	case m.RawRole != "" && m.Role == RoleUnknown:
		return "unknown role " + strconv.Quote(m.RawRole)
	case m.RawState != "" && m.State == StateUnknown:
		return "unknown state " + strconv.Quote(m.RawState)
	case o.Has("timeline") && m.Timeline.IsZero():
		return "timeline is no number from 1 to 4294967295"
	case o.Has("conn_url") && m.Host == "":
		return "conn_url is no URL with a host"
	}
	return ""
}

const defaultPort = 5432

func (m Member) withConnURL(text string) Member {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return m
	}
	port := defaultPort
	if u.Port() != "" {
		n, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil || n == 0 {
			return m
		}
		port = int(n)
	}
	m.Host, m.Port = u.Hostname(), port
	if m.APIURL == "" {
		m.APIURL = u.Query().Get("application_name")
	}
	return m
}

// versionAtLeast compares a Patroni version; one that is no version is older
// than any.
func versionAtLeast(version string, want ...int) bool {
	parts := strings.Split(version, ".")
	for i, w := range want {
		if i >= len(parts) {
			return false
		}
		end := strings.IndexFunc(parts[i]+".", func(c rune) bool { return c < '0' || c > '9' })
		n, err := strconv.Atoi(parts[i][:end])
		if err != nil || n < w {
			return false
		}
		if n > w {
			return true
		}
	}
	return true
}
