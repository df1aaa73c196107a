package archive

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// SegmentSet names segments by incarnation: ranges, ascending, that neither
// overlap nor touch.
type SegmentSet map[repo.Incarnation][]SegmentRange

// SegmentRange is a run of segments, both ends included.
type SegmentRange struct{ First, Last pg.SegmentNumber }

// Add takes another range of an incarnation.
func (s SegmentSet) Add(i repo.Incarnation, r SegmentRange) {
	all := append(slices.Clone(s[i]), r)
	slices.SortFunc(all, func(a, b SegmentRange) int { return cmp.Compare(a.First, b.First) })
	out := all[:1]
	for _, r := range all[1:] {
		if last := &out[len(out)-1]; r.First <= last.Last+1 {
			last.Last = max(last.Last, r.Last)
		} else {
			out = append(out, r)
		}
	}
	s[i] = out
}

// without gives what is left of spans of an incarnation without the segments of
// the set.
func (s SegmentSet) without(i repo.Incarnation, spans []Span) []Span {
	for _, r := range s[i] {
		var left []Span
		for _, s := range spans {
			t, first, last := s.First.Timeline, s.First.Number, s.Last.Number
			if r.Last < first || r.First > last {
				left = append(left, s)
				continue
			}
			if first < r.First {
				left = append(left, span(t, first, r.First-1))
			}
			if last > r.Last {
				left = append(left, span(t, r.Last+1, last))
			}
		}
		spans = left
	}
	return spans
}

// Data gives the form in which events of the repository name segments
// (docs/format.md): an incarnation to its ranges.
func (s SegmentSet) Data() map[string]string {
	data := make(map[string]string)
	for i, ranges := range s {
		var parts []string
		for _, r := range ranges {
			parts = append(parts, fmt.Sprintf("%X-%X", uint64(r.First), uint64(r.Last)))
		}
		data[i.String()] = strings.Join(parts, ",")
	}
	return data
}

// SegmentRanges reads the ranges that the data of an event names for one
// incarnation. What is no range is passed over: nobody may take a segment to be
// named that is not.
func SegmentRanges(data map[string]string, i repo.Incarnation) []SegmentRange {
	var out []SegmentRange
	for part := range strings.SplitSeq(data[i.String()], ",") {
		first, last, ok := strings.Cut(part, "-")
		a, errA := strconv.ParseUint(first, 16, 64)
		b, errB := strconv.ParseUint(last, 16, 64)
		if ok && errors.Join(errA, errB) == nil && a <= b {
			out = append(out, SegmentRange{pg.SegmentNumber(a), pg.SegmentNumber(b)})
		}
	}
	return out
}
