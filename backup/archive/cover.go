package archive

import (
	"context"
	"fmt"
	"iter"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// Cover says how far the archive follows a history without a hole.
type Cover struct {
	History pg.History
	From    pg.LSN // where the question began
	// Until is the position up to which every segment is archived, exclusive:
	// a segment's start. It is at most From where nothing is.
	Until pg.LSN
	// Missing is the first segment that is not archived. There always is one:
	// where the archive simply ends, it is the next to come.
	Missing pg.Segment
	// Beyond is the number of archived segments of the history past Missing.
	// More than none makes Missing a hole.
	Beyond int
	// Segments and Bytes count the objects between From and Until, bytes as
	// stored.
	Segments int
	Bytes    int64
}

// Hole reports whether WAL is missing in the middle, not only at the end.
func (c *Cover) Hole() bool { return c.Beyond > 0 }

// Reaches reports whether all WAL before l is archived.
func (c *Cover) Reaches(l pg.LSN) bool { return l <= c.Until }

// RestoreCover is a Cover for a recovery, which can end in WAL that is streamed
// and not archived. A backup's own WAL must be archived: [Cover.Reaches].
type RestoreCover struct {
	Cover
	// Streamed is how far receive has stored WAL of Missing, 0 if nothing of it.
	Streamed pg.LSN
}

// End is the position up to which a restore can get all WAL, exclusive.
func (c *RestoreCover) End() pg.LSN { return max(c.Until, c.Streamed) }

// RestoresTo reports whether a restore can get all WAL before l.
func (c *RestoreCover) RestoresTo(l pg.LSN) bool { return l <= c.End() }

// SegmentTimeline gives the timeline whose file holds segment n for a server
// that follows h: the newest one that had begun by the segment's end, as in
// PostgreSQL's recovery (xlogrecovery.c, XLogFileReadAnyTLI). The file of a
// segment with a switch point is that of the new timeline, which begins with a
// copy of the old one's WAL.
func SegmentTimeline(h pg.History, size pg.SegmentSize, n pg.SegmentNumber) pg.Timeline {
	t := h.Timeline
	for i := len(h.Forks) - 1; i >= 0; i-- {
		if size.SegmentOf(h.Forks[i].Switch) <= n {
			return t
		}
		t = h.Forks[i].Parent
	}
	return t
}

// Ancestor gives the history of t as h has it, and whether t is part of h.
func Ancestor(h pg.History, t pg.Timeline) (pg.History, bool) {
	if t == h.Timeline {
		return h, true
	}
	for i, f := range h.Forks {
		if f.Parent == t {
			return pg.History{Timeline: t, Forks: h.Forks[:i]}, true
		}
	}
	return pg.History{}, false
}

// Coverage follows h through the archive from the segment that holds from on.
// It judges names and lists as much as there is from there on, at one request
// for a thousand objects; what the objects hold is not read.
func Coverage(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize, from pg.LSN) (Cover, error) {
	archived := make(map[pg.SegmentNumber]int64)
	for o, err := range Along(ctx, r, h, size, size.SegmentOf(from)) {
		if err != nil {
			return Cover{}, err
		}
		archived[o.Segment.Number] = o.Object.Size
	}
	return cover(h, size, from, archived), nil
}

// RestoreCoverage is [Coverage] for a recovery. It takes a request more.
func RestoreCoverage(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize, from pg.LSN) (RestoreCover, error) {
	c, err := Coverage(ctx, r, h, size, from)
	if err != nil {
		return RestoreCover{}, err
	}
	s, err := StreamedOf(ctx, r, h, size, c.Missing.Number)
	if err != nil {
		return RestoreCover{}, err
	}
	out := RestoreCover{Cover: c}
	if s.End > c.Until {
		out.Streamed = s.End
	}
	return out, nil
}

// Along lists the archived segments that h is made of, from number from on, in
// order: of each timeline those that h takes from it. Of a segment that has
// several objects it gives the one that [Get] serves. An error ends it.
func Along(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize, from pg.SegmentNumber) iter.Seq2[repo.WALObject, error] {
	return func(yield func(repo.WALObject, error) bool) {
		for _, run := range runs(h, size) {
			first := max(run.first, from)
			if first >= run.end {
				continue
			}
			var same []repo.WALObject // all of one segment, which lie side by side
			for o, err := range r.Segments(ctx, run.incarnation, size, first) {
				if err != nil {
					yield(o, fmt.Errorf("list archived WAL of timeline %s: %w", run.incarnation, err))
					return
				}
				if o.Segment.Number >= run.end {
					break // the switch segment is the next timeline's; past it lie orphans
				}
				if o.Key.WAL.Partial || o.Key.WAL.Backup {
					continue
				}
				if len(same) > 0 && same[0].Segment.Number != o.Segment.Number {
					if best, _ := authoritative(same); !yield(best, nil) {
						return
					}
					same = same[:0]
				}
				same = append(same, o)
			}
			if best, ok := authoritative(same); ok && !yield(best, nil) {
				return
			}
		}
	}
}

// run is the part of a history's segments that come from the files of one
// timeline: from first to before end.
type run struct {
	incarnation repo.Incarnation
	first, end  pg.SegmentNumber
}

// runs divides the segments of h among its timelines, oldest first. A timeline
// that no segment comes from is not among them.
func runs(h pg.History, size pg.SegmentSize) []run {
	var out []run
	for i := range len(h.Forks) + 1 {
		t := h.Timeline
		if i < len(h.Forks) {
			t = h.Forks[i].Parent
		}
		begin, _ := h.Begin(t)
		r := run{first: size.SegmentOf(begin), end: noSegment}
		if left, ok := h.End(t); ok {
			r.end = size.SegmentOf(left)
		}
		if r.first < r.end {
			own, _ := Ancestor(h, t)
			r.incarnation = repo.IncarnationOf(own)
			out = append(out, r)
		}
	}
	return out
}

// noSegment is greater than the number of any segment.
const noSegment = pg.SegmentNumber(1<<64 - 1)

// cover is Coverage's decision over what was listed: segments of h's own
// files, by number, with their stored sizes.
func cover(h pg.History, size pg.SegmentSize, from pg.LSN, archived map[pg.SegmentNumber]int64) Cover {
	c := Cover{History: h, From: from}
	n := size.SegmentOf(from)
	for ; ; n++ {
		stored, ok := archived[n]
		if !ok {
			break
		}
		c.Segments++
		c.Bytes += stored
	}
	c.Until = size.Start(n)
	c.Missing = pg.Segment{Timeline: SegmentTimeline(h, size, n), Number: n}
	for m := range archived {
		if m > n {
			c.Beyond++
		}
	}
	return c
}
