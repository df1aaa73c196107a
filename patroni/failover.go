package patroni

import "strings"

// Failover is the failover key: a switchover or manual failover that somebody
// asked for and that has not happened yet.
type Failover struct {
	From        string // the leader to step down; set means switchover
	To          string // the candidate, "" for any
	ScheduledAt string // as written, "" for now
}

// Pending reports whether anything was asked for.
func (f Failover) Pending() bool { return f.From != "" || f.To != "" }

// parseFailover reads the key (Failover.from_node): an object, or the old form
// leader:candidate.
func parseFailover(value string) (Failover, string) {
	if strings.TrimSpace(value) == "" {
		return Failover{}, ""
	}
	v, err := decodeJSON(value)
	if err != nil {
		from, to, _ := strings.Cut(value, ":")
		to, _, _ = strings.Cut(to, ":")
		return Failover{From: strings.TrimSpace(from), To: strings.TrimSpace(to)}, ""
	}
	m, ok := v.(map[string]any)
	if !ok {
		return Failover{}, "the failover request is ignored: it is no JSON object"
	}
	o := Object(m)
	return Failover{From: o.Text("leader"), To: o.Text("member"), ScheduledAt: o.Text("scheduled_at")}, ""
}
