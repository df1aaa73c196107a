package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// Span is a run of segments of one timeline, both ends included.
type Span struct{ First, Last pg.Segment }

// Count is how many segments the span has.
func (s Span) Count() int { return int(s.Last.Number-s.First.Number) + 1 }

// Names gives the file names of both ends.
func (s Span) Names(size pg.SegmentSize) (first, last string) {
	return s.First.Name(size), s.Last.Name(size)
}

// TimelineStatus is what the archive holds of one timeline incarnation.
type TimelineStatus struct {
	Incarnation repo.Incarnation
	// OnLineage says that the history in force passes through this incarnation.
	OnLineage bool
	// Begin and End are where the history in force entered and left the
	// timeline; End is 0 where it did not. Both are 0 off the lineage.
	Begin, End pg.LSN

	Spans    []Span // archived, ascending; between two of them something is missing
	Segments int
	Bytes    int64 // as stored
	// Holes are the segments that are missing between archived ones: of the
	// history in force, if the incarnation is on it, else of itself.
	Holes []Span
	// Orphans are archived segments that the history in force left behind: at
	// or past the fork, or all of an incarnation that it does not pass through.
	Orphans int
	// Begun is when the timeline's history was archived, by the store's clock; zero:
	// it is not, or the timeline is the first.
	Begun time.Time
	// Late is when the newest of these came, by the store's clock, if that was
	// long after the history in force had left the timeline and the segment lies
	// past the one of the fork: then a former leader may still run. Zero: none is.
	Late time.Time
	// LatePause is the longest time between two of these.
	LatePause time.Duration
	// Partials and Conflicts are the names of .partial files, and of segments
	// that a proved leader stored beside different ones.
	Partials, Conflicts []string
}

// First and Last give the outermost archived segments; zero if none is.
func (t *TimelineStatus) First() pg.Segment {
	if len(t.Spans) == 0 {
		return pg.Segment{}
	}
	return t.Spans[0].First
}

// Last gives the last archived segment, zero if none is.
func (t *TimelineStatus) Last() pg.Segment {
	if len(t.Spans) == 0 {
		return pg.Segment{}
	}
	return t.Spans[len(t.Spans)-1].Last
}

// lateAfter is how long after a timeline began WAL of the one before, past the
// fork, is no surprise: a leader that steps down has it under way. As long the DCS
// may take to tell of it.
const lateAfter = time.Minute

// Status is what the archive holds and what is wrong with it.
type Status struct {
	At          time.Time      // when it was read
	SegmentSize pg.SegmentSize // 0: nothing is archived
	// Lineage is the history that orphans and holes are judged by; its
	// Timeline is 0 if none could be found, and LineageError says why.
	Lineage      Lineage
	LineageError error
	Timelines    []TimelineStatus // ascending by timeline
	// Streamed is what receive stored behind the last archived segment of the
	// history in force; nil: nothing.
	Streamed *Streamed
	// Alarms are those that nobody has acknowledged, oldest first.
	// Quarantined content is known by its alarms.
	Alarms []Alarm
}

// ReadStatus lists the whole archive, at one request for a thousand objects,
// and judges it by names alone.
func ReadStatus(ctx context.Context, r *repo.Repo, opts LineageOptions) (Status, error) {
	s := Status{At: time.Now()}
	if err := s.list(ctx, r, opts); err != nil {
		return s, err
	}
	// Expiry says what it removes before it does, so that whatever a listing
	// misses for its sake is known afterwards.
	events, err := r.Events(ctx)
	if err != nil {
		return s, err
	}
	s.Alarms = slices.DeleteFunc(AlarmsOf(events), func(a Alarm) bool { return a.Acknowledged })
	if s.SegmentSize == 0 {
		return s, nil
	}
	s.judge()
	gone, _ := expired(events)
	for i := range s.Timelines {
		t := &s.Timelines[i]
		t.Holes = gone.without(t.Incarnation, t.Holes)
	}
	return s, s.readStreamed(ctx, r)
}

// list finds the history in force and lists the segments. Where nothing is
// archived the segment size stays 0.
func (s *Status) list(ctx context.Context, r *repo.Repo, opts LineageOptions) (err error) {
	if s.SegmentSize, err = SegmentSize(ctx, r); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if s.Lineage, err = ResolveLineage(ctx, r, opts); err != nil {
		if ctx.Err() != nil {
			return err
		}
		s.Lineage, s.LineageError = Lineage{}, err
	}
	incarnations, err := r.Incarnations(ctx)
	if err != nil {
		return err
	}
	begun, err := r.HistoryTimes(ctx)
	if err != nil {
		return err
	}
	left := s.leaving(begun)
	for _, i := range incarnations {
		t := TimelineStatus{Incarnation: i, Begun: begun[i]}
		leave, isLeft := left[i]
		for o, err := range r.Segments(ctx, i, s.SegmentSize, 0) {
			if err != nil {
				return fmt.Errorf("list archived WAL of timeline %s: %w", i, err)
			}
			t.add(o)
			if isLeft && leave.late(o) {
				t.addLate(o.Object.Modified)
			}
		}
		s.Timelines = append(s.Timelines, t)
	}
	return nil
}

// addLate notes when the next late segment was archived.
func (t *TimelineStatus) addLate(at time.Time) {
	if !t.Late.IsZero() {
		t.LatePause = max(t.LatePause, at.Sub(t.Late))
	}
	if at.After(t.Late) {
		t.Late = at
	}
}

// leaving is where and when the history in force left a timeline.
type leaving struct {
	in pg.SegmentNumber // that the fork lies in
	at time.Time        // when the next one's history was archived
}

// late reports whether a segment past the fork came long after it.
func (l leaving) late(o repo.WALObject) bool {
	return !o.Key.WAL.Backup && !o.Key.WAL.Partial && o.Segment.Number > l.in && o.Object.Modified.Sub(l.at) > lateAfter
}

// leaving finds where and when the history in force left its timelines. begun
// says when histories were archived; one that is missing tells nothing.
func (s *Status) leaving(begun map[repo.Incarnation]time.Time) map[repo.Incarnation]leaving {
	out := make(map[repo.Incarnation]leaving)
	h := s.Lineage.History
	for i, fork := range h.Forks {
		next := h.Timeline
		if i+1 < len(h.Forks) {
			next = h.Forks[i+1].Parent
		}
		own, _ := Ancestor(h, fork.Parent)
		following, _ := Ancestor(h, next)
		if at, ok := begun[repo.IncarnationOf(following)]; ok {
			out[repo.IncarnationOf(own)] = leaving{s.SegmentSize.SegmentOf(fork.Switch), at}
		}
	}
	return out
}

// readStreamed looks for chunks of the segment behind the last archived one.
func (s *Status) readStreamed(ctx context.Context, r *repo.Repo) error {
	next, ok := s.Next()
	if !ok {
		return nil
	}
	streamed, err := StreamedOf(ctx, r, s.Lineage.History, s.SegmentSize, next.Number)
	if err == nil && streamed.Chunks > 0 {
		s.Streamed = &streamed
	}
	return err
}

// Hole reports whether the history in force has one.
func (s *Status) Hole() bool {
	return slices.ContainsFunc(s.Timelines, func(t TimelineStatus) bool { return t.OnLineage && len(t.Holes) > 0 })
}

// Next gives the segment behind the last archived one of the history in force;
// false if there is none, or no such history.
func (s *Status) Next() (pg.Segment, bool) {
	if s.Lineage.Timeline == 0 {
		return pg.Segment{}, false
	}
	last := pg.SegmentNumber(0)
	for _, run := range runs(s.Lineage.History, s.SegmentSize) {
		for _, sp := range clip(s.spansOf(run.incarnation), run.first, run.end) {
			last = max(last, sp.Last.Number)
		}
	}
	return pg.Segment{Timeline: SegmentTimeline(s.Lineage.History, s.SegmentSize, last+1), Number: last + 1}, last > 0
}

// add takes the next object of a listing in order.
func (t *TimelineStatus) add(o repo.WALObject) {
	switch {
	case o.Key.WAL.Backup:
		return
	case o.Key.WAL.Partial:
		t.Partials = append(t.Partials, o.Key.WAL.String())
	default:
		if o.Conflicting() {
			t.Conflicts = append(t.Conflicts, o.Key.WAL.String())
		}
		t.count(o.Segment)
	}
	t.Bytes += o.Object.Size
}

// count counts a segment once, however many objects it has: any of them is one
// that is served.
func (t *TimelineStatus) count(g pg.Segment) {
	n := len(t.Spans)
	switch {
	case n > 0 && t.Spans[n-1].Last == g:
		return
	case n > 0 && t.Spans[n-1].Last.Number+1 == g.Number:
		t.Spans[n-1].Last = g
	default:
		t.Spans = append(t.Spans, Span{g, g})
	}
	t.Segments++
}

// judge finds holes and orphans: the decision over what was listed.
func (s *Status) judge() {
	var onLineage []run
	if s.Lineage.Timeline != 0 {
		onLineage = runs(s.Lineage.History, s.SegmentSize)
	}
	for i := range s.Timelines {
		t := &s.Timelines[i]
		own, ok := Ancestor(s.Lineage.History, t.Incarnation.Timeline)
		t.OnLineage = s.Lineage.Timeline != 0 && ok && repo.IncarnationOf(own) == t.Incarnation
		switch {
		case t.OnLineage:
			t.Begin, _ = s.Lineage.Begin(t.Incarnation.Timeline)
			t.End, _ = s.Lineage.End(t.Incarnation.Timeline)
			t.Orphans = t.Segments
			if r := runOf(onLineage, t.Incarnation); r != nil {
				t.Orphans -= countWithin(t.Spans, r.first, r.end)
			}
		case s.Lineage.Timeline != 0:
			t.Orphans = t.Segments
			t.Holes = between(t.Spans)
		default:
			t.Holes = between(t.Spans)
		}
	}
	s.lineageHoles(onLineage)
}

// lineageHoles finds what is missing along the lineage, from the first segment
// that is archived of it to the last. A timeline that is missing altogether
// gets an entry.
func (s *Status) lineageHoles(onLineage []run) {
	first, last := noSegment, pg.SegmentNumber(0)
	for _, r := range onLineage {
		for _, sp := range clip(s.spansOf(r.incarnation), r.first, r.end) {
			first, last = min(first, sp.First.Number), max(last, sp.Last.Number)
		}
	}
	for _, r := range onLineage {
		from, to := max(r.first, first), min(r.end, last+1) // to is exclusive
		if first == noSegment || from >= to {
			continue
		}
		t := s.timeline(r.incarnation)
		for _, sp := range clip(t.Spans, from, to) {
			if sp.First.Number > from {
				t.Holes = append(t.Holes, span(r.incarnation.Timeline, from, sp.First.Number-1))
			}
			from = sp.Last.Number + 1
		}
		if from < to {
			t.Holes = append(t.Holes, span(r.incarnation.Timeline, from, to-1))
		}
	}
}

// timeline gives the entry of an incarnation of the lineage, and makes it if
// nothing is archived of it.
func (s *Status) timeline(i repo.Incarnation) *TimelineStatus {
	at, found := slices.BinarySearchFunc(s.Timelines, i, func(t TimelineStatus, i repo.Incarnation) int {
		return cmp.Or(cmp.Compare(t.Incarnation.Timeline, i.Timeline), cmp.Compare(t.Incarnation.String(), i.String()))
	})
	if !found {
		begin, _ := s.Lineage.Begin(i.Timeline)
		end, _ := s.Lineage.End(i.Timeline)
		s.Timelines = slices.Insert(s.Timelines, at, TimelineStatus{Incarnation: i, OnLineage: true, Begin: begin, End: end})
	}
	return &s.Timelines[at]
}

func (s *Status) spansOf(i repo.Incarnation) []Span {
	for _, t := range s.Timelines {
		if t.Incarnation == i {
			return t.Spans
		}
	}
	return nil
}

func runOf(runs []run, i repo.Incarnation) *run {
	for k := range runs {
		if runs[k].incarnation == i {
			return &runs[k]
		}
	}
	return nil
}

func span(t pg.Timeline, first, last pg.SegmentNumber) Span {
	return Span{pg.Segment{Timeline: t, Number: first}, pg.Segment{Timeline: t, Number: last}}
}

// clip gives the parts of spans from first to before end.
func clip(spans []Span, first, end pg.SegmentNumber) []Span {
	var out []Span
	for _, sp := range spans {
		lo, hi := max(sp.First.Number, first), min(sp.Last.Number, end-1)
		if lo <= hi {
			out = append(out, span(sp.First.Timeline, lo, hi))
		}
	}
	return out
}

func countWithin(spans []Span, first, end pg.SegmentNumber) (n int) {
	for _, sp := range clip(spans, first, end) {
		n += sp.Count()
	}
	return n
}

// between gives the gaps between spans.
func between(spans []Span) []Span {
	var out []Span
	for i := 1; i < len(spans); i++ {
		out = append(out, span(spans[i].First.Timeline, spans[i-1].Last.Number+1, spans[i].First.Number-1))
	}
	return out
}
