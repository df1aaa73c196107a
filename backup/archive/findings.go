package archive

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// Findings says what is wrong with the archive, and that nothing is if so.
func (s *Status) Findings() []finding.Finding {
	var out []finding.Finding
	add := func(severity finding.Severity, hint, format string, args ...any) {
		out = append(out, finding.Finding{Severity: severity, Text: fmt.Sprintf(format, args...), Hint: hint})
	}
	for _, a := range s.Alarms {
		add(finding.Error, "when it is dealt with: pgtender wal acknowledge "+a.ID.String(), "alarm of %s about %s: %s", a.Time.Format("2006-01-02 15:04:05 MST"), a.Subject, a.Text)
	}
	if s.LineageError != nil {
		add(finding.Warning, finding.Hint(s.LineageError), "it is not known which history the archived WAL is to follow: %v", s.LineageError)
	}
	count := make(map[pg.Timeline]int)
	for i := range s.Timelines {
		t := &s.Timelines[i]
		count[t.Incarnation.Timeline]++
		s.timelineFindings(t, add)
		s.formerLeader(t, add)
	}
	for i := range s.Timelines {
		if t := s.Timelines[i].Incarnation.Timeline; count[t] > 1 {
			add(finding.Warning, "this is in order after a restore to a point in time by a second cluster, or after two promotions at once; pgtender follows the leader's",
				"the archive holds %d different timelines %s", count[t], t)
			count[t] = 0
		}
	}
	if len(out) == 0 && len(s.Timelines) > 0 {
		add(finding.OK, "", "archived WAL has no hole and no conflict")
	}
	finding.Sort(out)
	return out
}

func (s *Status) timelineFindings(t *TimelineStatus, add func(finding.Severity, string, string, ...any)) {
	for _, h := range t.Holes {
		first, last := h.Names(s.SegmentSize)
		severity, hint := finding.Error, "look for them in each member's pg_wal and push what is there (pgtender archive-push PATH); otherwise take a new full backup, since no older one can be recovered past here"
		if !t.OnLineage {
			severity, hint = finding.Info, ""
		}
		if h.Count() == 1 {
			add(severity, hint, "WAL segment %s is missing in the archive", first)
		} else {
			add(severity, hint, "%d WAL segments are missing in the archive, %s to %s", h.Count(), first, last)
		}
	}
	if len(t.Conflicts) > 0 {
		add(finding.Warning, "two servers wrote different WAL under these names; the proved leader's is used", "%d segments of timeline %s were archived twice with different content: %s",
			len(t.Conflicts), t.Incarnation.Timeline, strings.Join(t.Conflicts[:min(len(t.Conflicts), 5)], ", "))
	}
	switch {
	case s.stranger(t):
		add(finding.Error,
			"a copy of a member was promoted and archives here: find it, and set archive_mode = off in it; a restore that cannot ask the DCS would follow it, unless it is told: --target-timeline "+repo.IncarnationOf(s.Lineage.History).String(),
			"%d archived segments are of timeline %s, which the leader, on timeline %s, has not come to", t.Segments, t.Incarnation, s.Lineage.Timeline)
	case t.Orphans > 0:
		add(finding.Info, "", "%d archived segments of timeline %s were left behind by a failover and are never served", t.Orphans, t.Incarnation)
	}
}

// stranger reports whether a timeline is newer than the leader's and not on its way:
// the cluster itself has never been on it. Of one that has just begun the DCS may not
// tell yet.
func (s *Status) stranger(t *TimelineStatus) bool {
	return s.Lineage.Source == SourceLeader && !t.OnLineage && t.Incarnation.Timeline > s.Lineage.Timeline &&
		t.Segments > 0 && !t.Begun.IsZero() && s.At.Sub(t.Begun) > lateAfter
}

// lateFor is for how long late WAL of a former leader is an error, at least. One that
// has come back under Patroni stores what it had, and no more; of one that goes on and
// seldom has a whole segment the next is waited for twice as long as for any before.
const lateFor = time.Hour

// formerLeader says that a server still writes what the cluster has left: whoever
// is connected to it loses all that they commit.
func (s *Status) formerLeader(t *TimelineStatus, add func(finding.Severity, string, string, ...any)) {
	until := t.Late.Add(max(lateFor, 2*t.LatePause))
	if t.Late.IsZero() || s.At.After(until) {
		return
	}
	const layout = "2006-01-02 15:04:05 MST"
	add(finding.Error,
		"a former leader may still run and take writes, all of which are lost: look on every host for a PostgreSQL that Patroni does not have under control, and stop it; if it has come back as a replica since, or is stopped, this passes at "+until.UTC().Format(layout),
		"WAL of timeline %s past %s, where the cluster left it, was archived at %s, after the next timeline had begun",
		t.Incarnation.Timeline, t.End, t.Late.UTC().Format(layout))
}
