package archive

import (
	"context"
	"fmt"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// Ambiguous gives the segments of h, from the one that holds from to the last
// one before to, that are archived with different contents. A server that
// follows h by name has been through one or the other, and nothing tells which:
// what rests on its having been through both must not go on.
func Ambiguous(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize, from, to pg.LSN) ([]pg.Segment, error) {
	var out []pg.Segment
	first, end := size.SegmentOf(from), segmentsEnd(size, to)
	for _, run := range runs(h, size) {
		start := max(run.first, first)
		if start >= min(run.end, end) {
			continue
		}
		for o, err := range r.Segments(ctx, run.incarnation, size, start) {
			if err != nil {
				return nil, fmt.Errorf("list archived WAL of timeline %s: %w", run.incarnation, err)
			}
			if n := o.Segment.Number; n >= run.end || n >= end {
				break
			}
			if o.Conflicting() && (len(out) == 0 || out[len(out)-1] != o.Segment) {
				out = append(out, o.Segment)
			}
		}
	}
	return out, nil
}
