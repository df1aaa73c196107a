package backup

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// subjectWAL is the subject of a condemnation of WAL.
const subjectWAL = "wal"

// endless is past every segment.
const endless = pg.SegmentNumber(1<<64 - 1)

// walIndex answers what is archived.
type walIndex struct {
	s  *Stock
	of map[repo.Incarnation][]WALSpan
}

func newWALIndex(s *Stock) walIndex {
	x := walIndex{s, make(map[repo.Incarnation][]WALSpan)}
	for _, w := range s.WAL {
		x.of[w.Incarnation] = append(x.of[w.Incarnation], w)
	}
	return x
}

// has reports whether a segment is archived.
func (x walIndex) has(i repo.Incarnation, n pg.SegmentNumber) bool {
	spans := x.of[i]
	at := sort.Search(len(spans), func(k int) bool { return spans[k].Last >= n })
	for ; at < len(spans) && spans[at].First <= n; at++ {
		if !spans[at].Partial && n <= spans[at].Last {
			return true
		}
	}
	return false
}

// covers reports whether all WAL from a backup's start to its stop is archived,
// along its own history or a later one that leads through it, and else the
// first segment that is not.
func (x walIndex) covers(b *StockBackup) (missing string, ok bool) {
	if b.Backup == nil {
		return "", false
	}
	try := []pg.History{b.Backup.StopHistory()}
	for _, h := range x.s.Histories {
		if h.Timeline > b.Backup.Stop.Timeline && archive.LeadsThrough(h, b.Backup) {
			try = append(try, h)
		}
	}
	for _, h := range try {
		gap := x.gap(h, b.Backup)
		if gap == "" {
			return "", true
		}
		if missing == "" {
			missing = gap
		}
	}
	return missing, false
}

func (x walIndex) gap(h pg.History, b *repo.Backup) string {
	first, last := span(b)
	return x.missing(h, b.SegmentSize, first, last+1)
}

// hole gives the first segment along a history that is missing between the starts
// of two backups, "" if none is.
func (x walIndex) hole(h pg.History, a, b *repo.Backup) string {
	first, _ := span(a)
	last, _ := span(b)
	return x.missing(h, b.SegmentSize, first, last)
}

// missing gives the first segment from first to before end that is not archived
// along a history, "" if all are.
func (x walIndex) missing(h pg.History, size pg.SegmentSize, first, end pg.SegmentNumber) string {
	for n := first; n < end; n++ {
		t := archive.SegmentTimeline(h, size, n)
		own, ok := archive.Ancestor(h, t)
		if !ok || !x.has(repo.IncarnationOf(own), n) {
			return pg.Segment{Timeline: t, Number: n}.Name(size)
		}
	}
	return ""
}

// span gives the segments that a backup needs to become consistent.
func span(b *repo.Backup) (first, last pg.SegmentNumber) {
	return b.SegmentSize.SegmentOf(b.Start.LSN), b.SegmentSize.SegmentBefore(b.Stop.LSN)
}

// need is a range of segments that must stay.
type need struct {
	first, last pg.SegmentNumber
	why         string
}

// segments decides about WAL.
func (d *decider) segments() {
	all := d.allWAL()
	d.baseOfWAL()
	for _, i := range slices.SortedFunc(maps.Keys(d.wal.of), func(a, b repo.Incarnation) int { return strings.Compare(a.String(), b.String()) }) {
		var shared []need
		if all == "" {
			shared = d.needs(i)
		}
		var items []ExpiryItem
		for _, w := range d.wal.of[i] {
			needs := shared
			if all != "" {
				needs = []need{{0, endless, all}}
			} else if why := d.recent(&w); why != "" {
				needs = append(slices.Clone(shared), need{w.First, w.Last, why})
			}
			items = d.split(items, &w, needs)
		}
		for _, it := range items {
			it.Name = d.rangeName(it.wal)
			if it.Action == Condemn {
				d.e.wal = append(d.e.wal, it.wal)
			}
			d.item(it)
		}
	}
	d.chunks(all)
}

func (d *decider) rangeName(r WALRange) string {
	name := func(n pg.SegmentNumber) string {
		return pg.Segment{Timeline: r.Incarnation.Timeline, Number: n}.Name(d.s.SegmentSize)
	}
	if r.First == r.Last {
		return name(r.First)
	}
	return name(r.First) + ".." + name(r.Last)
}

// allWAL says why no WAL at all can go, "" if some can.
func (d *decider) allWAL() string {
	s := d.s
	switch {
	case !s.Policy.set():
		return "no retention is configured"
	case s.LineageError != nil:
		return fmt.Sprintf("which history is in force is not known: %v", s.LineageError)
	case len(d.order) == 0:
		return "there is no good backup"
	case d.readsAny:
		return "a reader is at work that does not say what it reads"
	}
	for i := range s.Backups {
		if b := &s.Backups[i]; b.Err != nil && !d.gone[b] {
			return fmt.Sprintf("the manifest of backup %s cannot be read, so that nobody knows what WAL it needs", b.ID)
		}
	}
	return ""
}

// baseOfWAL finds the backup from which on all WAL stays: where the recovery
// window begins, or the oldest good backup that stays.
func (d *decider) baseOfWAL() {
	if d.base != nil {
		return
	}
	for _, b := range d.order {
		if !d.gone[b] {
			d.base = b
			return
		}
	}
}

// needs gives the segments of an incarnation that must stay.
func (d *decider) needs(i repo.Incarnation) []need {
	var out []need
	h, known := d.s.Histories[i]
	if !known {
		return []need{{0, endless, "the history of its timeline is not archived, so that it cannot be judged"}}
	}
	line := d.s.Lineage.History
	own, on := archive.Ancestor(line, h.Timeline)
	on = on && own.Equal(h)
	if d.base != nil {
		first, _ := span(d.base.Backup)
		why := fmt.Sprintf("recovery to any point after backup %s needs it", d.base.ID)
		switch end, left := line.End(h.Timeline); {
		case on && left:
			if last := d.s.SegmentSize.SegmentOf(end); last > first {
				out = append(out, need{first, last - 1, why})
			}
		case on, descends(h, line):
			out = append(out, need{first, endless, why})
		}
	}
	for k := range d.s.Backups {
		b := &d.s.Backups[k]
		if b.Backup == nil || d.gone[b] || !d.related(i, b.Backup) {
			continue
		}
		first, last := span(b.Backup)
		out = append(out, need{first, last, fmt.Sprintf("backup %s needs it to become consistent", b.ID)})
		if d.reads[b.ID] {
			out = append(out, need{first, endless, fmt.Sprintf("backup %s is being restored", b.ID)})
		}
	}
	return out
}

// related reports whether a server that starts from b may read WAL of i: i's
// history passes through b's, or the other way round.
func (d *decider) related(i repo.Incarnation, b *repo.Backup) bool {
	h, o := d.s.Histories[i], b.StopHistory()
	return h.Equal(o) || descends(h, o) || descends(o, h)
}

// descends reports whether h is a later timeline of the same line as o.
func descends(h, o pg.History) bool {
	own, ok := archive.Ancestor(h, o.Timeline)
	return ok && own.Equal(o)
}

// recent says why WAL that no rule needs stays a while: it was archived not
// long ago, on a branch that the cluster left, and recovery to a point on that
// branch may still be wanted. What lies before the base, and was archived
// before it, is not recent.
func (d *decider) recent(w *WALSpan) string {
	since := d.s.Now.Add(-d.s.Policy.RecoveryWindow)
	if d.s.Policy.RecoveryWindow == 0 && d.base != nil {
		since = d.base.Backup.Started
	}
	h, line := d.s.Histories[w.Incarnation], d.s.Lineage.History
	own, on := archive.Ancestor(line, h.Timeline)
	if end, left := line.End(h.Timeline); on && own.Equal(h) && (!left || w.Last < d.s.SegmentSize.SegmentOf(end)) {
		return ""
	}
	if w.Newest.After(since) {
		return "the cluster left this branch, but not before the recovery window"
	}
	return ""
}

// split cuts a span by what is needed and what is condemned, and adds the parts
// to items, joined with the last one where they go on in the same way. Objects
// and bytes are shared out evenly.
func (d *decider) split(items []ExpiryItem, w *WALSpan, needs []need) []ExpiryItem {
	per, bytes := int(w.Last-w.First+1), w.Bytes
	for n := w.First; n <= w.Last; {
		it, last := d.partFrom(w, n, needs)
		count := int(last - n + 1)
		it.Kind, it.wal = ItemWAL, WALRange{w.Incarnation, n, last}
		it.Objects, it.Bytes = max(count*w.Objects/per, 1), bytes*int64(count)/int64(per)
		if k := len(items) - 1; k >= 0 && items[k].Action == it.Action && items[k].Reason == it.Reason && items[k].wal.Last+1 == n {
			items[k].wal.Last = last
			items[k].Objects += it.Objects
			items[k].Bytes += it.Bytes
		} else {
			items = append(items, it)
		}
		if last == endless {
			break
		}
		n = last + 1
	}
	return items
}

// partFrom decides about segment n of a span, and says up to which segment the
// same holds.
func (d *decider) partFrom(w *WALSpan, n pg.SegmentNumber, needs []need) (ExpiryItem, pg.SegmentNumber) {
	last := w.Last
	for _, x := range needs {
		if x.first <= n && n <= x.last {
			return ExpiryItem{Action: Keep, Reason: x.why}, min(last, x.last)
		}
		if x.first > n {
			last = min(last, x.first-1)
		}
	}
	it := ExpiryItem{Action: Condemn, Reason: "no backup that stays needs it, nor the recovery window"}
	for _, c := range d.s.Condemned {
		if c.Subject != subjectWAL || c.Err != nil || c.Verdict == repo.Pardoned {
			continue
		}
		for _, r := range condemnedWAL(&c, w.Incarnation) {
			switch {
			case r.First <= n && n <= r.Last:
				last = min(last, r.Last)
				if old := d.s.Now.Sub(c.Since); old >= d.s.Policy.Grace {
					it.Action = Remove
				} else if it.Action == Condemn {
					it.Action = Wait
				}
			case r.First > n:
				last = min(last, r.First-1)
			}
		}
	}
	return it, last
}

// chunks decides about what receive stored of segments that were not complete.
func (d *decider) chunks(all string) {
	type group struct {
		action Action
		reason string
	}
	found := make(map[group]*ExpiryItem)
	for _, c := range d.s.Chunks {
		i, n := c.Key.Incarnation, c.Segment.Number
		g := group{Keep, "their segments are not archived yet"}
		switch {
		case d.wal.has(i, n) && d.s.Now.Sub(c.Object.Modified) >= d.s.Policy.Grace:
			g = group{Remove, "their segments are archived"}
		case d.wal.has(i, n):
			g.reason = "their segments are archived, but only just"
		case all != "":
			g.reason = all
		default:
			w := WALSpan{Incarnation: i, First: n, Last: n, Newest: c.Object.Modified}
			needs := d.needs(i)
			if why := d.recent(&w); why != "" {
				needs = append(needs, need{n, n, why})
			}
			it, _ := d.partFrom(&w, n, needs)
			if g = (group{it.Action, it.Reason}); it.Action == Condemn {
				d.e.wal = append(d.e.wal, WALRange{i, n, n})
			}
		}
		it := found[g]
		if it == nil {
			it = &ExpiryItem{Kind: ItemChunks, Name: c.Key.Name(), Action: g.action, Reason: g.reason}
			found[g] = it
		}
		it.Objects++
		it.Bytes += c.Object.Size
		it.chunks = append(it.chunks, c)
	}
	for _, it := range found {
		d.item(*it)
	}
}

// condemnedWAL gives the ranges of an incarnation that a condemnation names.
func condemnedWAL(c *repo.Condemnation, i repo.Incarnation) []archive.SegmentRange {
	return archive.SegmentRanges(c.Data, i)
}

// walData is what condemnedWAL reads.
func walData(ranges []WALRange) map[string]string {
	set := make(archive.SegmentSet)
	for _, r := range ranges {
		set.Add(r.Incarnation, archive.SegmentRange{First: r.First, Last: r.Last})
	}
	return set.Data()
}
