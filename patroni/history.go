package patroni

import (
	"errors"
	"fmt"

	"github.com/pgtender/pgtender/internal/pg"
)

// Errors of [Timelines.History] and [Cluster.LeaderHistory].
var (
	// ErrNoHistory: the history key is absent or could not be read.
	ErrNoHistory = errors.New("the timeline history is not in the DCS")
	// ErrHistoryTruncated: the oldest rows are gone (max_timelines_history).
	ErrHistoryTruncated = errors.New("the timeline history in the DCS is truncated")
	// ErrHistoryStale: the history describes another timeline than the
	// leader's; the leader rewrites it some seconds after a promotion.
	ErrHistoryStale = errors.New("the timeline history in the DCS is not the leader's")
)

// Timelines is the history key (ha.py:Ha.update_cluster_history), which
// mirrors the leader's .history file.
type Timelines struct {
	Known bool // the key is there and could be read
	Rows  []TimelineRow
}

// TimelineRow is one row: Parent was left at Switch.
type TimelineRow struct {
	Parent pg.Timeline `json:"parent"`
	Switch pg.LSN      `json:"switch"`
	Reason string      `json:"reason,omitempty"`
	Time   string      `json:"time,omitempty"`   // when the next timeline began, as written; "" in old rows
	Leader string      `json:"leader,omitempty"` // who led the next timeline; "" in old rows
}

// Timeline gives the timeline that the rows describe, 0 if they are unknown.
// Patroni takes it to be the last row's plus one (Cluster.timeline); a cluster
// that has skipped a number shows as stale in [Cluster.LeaderHistory].
func (t Timelines) Timeline() pg.Timeline {
	if !t.Known {
		return 0
	}
	if len(t.Rows) == 0 {
		return 1
	}
	return t.Rows[len(t.Rows)-1].Parent + 1
}

// LeaderOf gives the member that began timeline tli, "" if that is unknown.
func (t Timelines) LeaderOf(tli pg.Timeline) string {
	for i, row := range t.Rows {
		// The timeline that a row's leader began is the next row's parent.
		began := row.Parent + 1
		if i+1 < len(t.Rows) {
			began = t.Rows[i+1].Parent
		}
		if began == tli {
			return row.Leader
		}
	}
	return ""
}

// History converts the rows. Truncated rows are an error: a history without
// its oldest forks compares with none correctly.
func (t Timelines) History() (pg.History, error) {
	if !t.Known {
		return pg.History{}, ErrNoHistory
	}
	if len(t.Rows) > 0 && t.Rows[0].Parent != 1 {
		return pg.History{}, fmt.Errorf("%w: it begins with timeline %s", ErrHistoryTruncated, t.Rows[0].Parent)
	}
	h := pg.History{Timeline: t.Timeline()}
	for _, row := range t.Rows {
		h.Forks = append(h.Forks, pg.Fork{Parent: row.Parent, Switch: row.Switch, Reason: row.Reason})
	}
	return h, nil
}

// LeaderHistory gives the history of the timeline the leader is on, which is
// the one to judge positions by. It is an error if the DCS does not hold
// exactly that one; the archive's .history file is the other source.
//
// A member that has just won the leader key still names the timeline on which it
// was a replica, and the history key still agrees with it (ha.py:Ha.touch_member
// and update_cluster_history run a loop later). That timeline ends somewhere the
// DCS does not know yet, so only a member that says it leads is believed.
func (c Cluster) LeaderHistory() (pg.History, error) {
	leader, _ := c.LeaderMember()
	tli := leader.Timeline
	switch {
	case tli.IsZero():
		return pg.History{}, fmt.Errorf("%w: the leader's timeline is unknown", ErrHistoryStale)
	case leader.Role != RolePrimary && leader.Role != RoleStandbyLeader:
		return pg.History{}, fmt.Errorf("%w: %s holds the leader key, but says that its role is %s", ErrHistoryStale, leader.Name, leader.Role)
	case tli == 1:
		return pg.FirstTimeline(), nil
	case !c.Timeline.Known:
		return pg.History{}, ErrNoHistory
	case c.Timeline.Timeline() != tli:
		return pg.History{}, fmt.Errorf("%w: it ends with timeline %s, the leader is on %s", ErrHistoryStale, c.Timeline.Timeline(), tli)
	}
	return c.Timeline.History()
}

// ParseTimelines reads the history key's value, which GET /history returns too.
func ParseTimelines(value string) (Timelines, error) {
	t, problem := parseTimelines(value)
	if problem != "" {
		return Timelines{}, errors.New(problem)
	}
	return t, nil
}

// parseTimelines reads the history key. Patroni takes what it cannot read for
// an empty list, which would mean timeline 1; here it is unknown.
func parseTimelines(value string) (Timelines, string) {
	ignored := func(format string, args ...any) (Timelines, string) {
		return Timelines{}, "the timeline history is ignored: " + fmt.Sprintf(format, args...)
	}
	v, err := decodeJSON(value)
	if err != nil {
		return ignored("%v", err)
	}
	list, ok := v.([]any)
	if !ok {
		return ignored("it is no list")
	}
	t := Timelines{Known: true}
	for i, item := range list {
		cells, _ := item.([]any)
		if len(cells) < 3 || len(cells) > 5 {
			return ignored("row %d does not have 3 to 5 items", i+1)
		}
		o := Object{}
		for j, name := range []string{"parent", "switch", "reason", "time", "leader"}[:len(cells)] {
			o[name] = cells[j]
		}
		row := TimelineRow{
			Parent: o.Timeline("parent"), Switch: o.LSN("switch"),
			Reason: o.Text("reason"), Time: o.Text("time"), Leader: o.Text("leader"),
		}
		if row.Parent == 0 || row.Parent == 1<<32-1 || row.Switch == 0 {
			return ignored("row %d has no timeline and switch point", i+1)
		}
		if n := len(t.Rows); n > 0 && (row.Parent <= t.Rows[n-1].Parent || row.Switch < t.Rows[n-1].Switch) {
			return ignored("row %d does not follow row %d", i+1, i)
		}
		t.Rows = append(t.Rows, row)
	}
	return t, ""
}
