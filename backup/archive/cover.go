package archive

import (
	"context"
	"fmt"

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
	first := size.SegmentOf(from)
	archived := make(map[pg.SegmentNumber]int64)
	for i := 0; i <= len(h.Forks); i++ {
		t, begin := h.Timeline, pg.LSN(0)
		if i < len(h.Forks) {
			t = h.Forks[i].Parent
		}
		if i > 0 {
			begin = h.Forks[i-1].Switch
		}
		if i < len(h.Forks) && size.SegmentOf(h.Forks[i].Switch) <= first {
			continue // left before the segment asked for
		}
		own, _ := Ancestor(h, t)
		for o, err := range r.Segments(ctx, repo.IncarnationOf(own), size, max(first, size.SegmentOf(begin))) {
			if err != nil {
				return Cover{}, fmt.Errorf("list archived WAL of timeline %s: %w", t, err)
			}
			n := o.Segment.Number
			if i < len(h.Forks) && n >= size.SegmentOf(h.Forks[i].Switch) {
				break // the switch segment is the next timeline's; past it lie orphans
			}
			if o.Plain() {
				archived[n] = o.Object.Size
			}
		}
	}
	return cover(h, size, from, archived), nil
}

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
