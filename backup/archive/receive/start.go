package receive

import (
	"context"
	"errors"
	"slices"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// window is how many segments behind the leader's end are looked at for holes:
// a few listing requests.
const window = 4096

// found is what is known when a session begins.
type found struct {
	history  pg.History
	size     pg.SegmentSize
	flush    pg.LSN             // the leader's
	slot     pg.LSN             // that the slot holds; 0: none
	archived []pg.SegmentNumber // ascending, within the window
}

// starts gives where to begin, the best place first: the oldest WAL that the
// archive lacks after some that it has, or that the slot holds. The server may
// have removed it; then the next one is tried. The last one is the segment that
// the server writes now. Each is a segment's start.
func starts(f found) []pg.Pos {
	last := f.size.SegmentOf(f.flush)
	has := func(n pg.SegmentNumber) bool {
		_, ok := slices.BinarySearch(f.archived, n)
		return ok
	}
	candidates := []pg.SegmentNumber{last}
	for i, n := range f.archived {
		if i+1 == len(f.archived) || f.archived[i+1] != n+1 {
			candidates = append(candidates, n+1)
		}
	}
	if f.slot != 0 {
		candidates = append(candidates, f.size.SegmentOf(f.slot))
	}
	for i, n := range candidates {
		for has(n) {
			n++
		}
		candidates[i] = min(n, last)
	}
	slices.Sort(candidates)
	var out []pg.Pos
	for _, n := range slices.Compact(candidates) {
		out = append(out, pg.Pos{Timeline: archive.SegmentTimeline(f.history, f.size, n), LSN: f.size.Start(n)})
	}
	return out
}

// archivedNear lists the archived segments of a history near the leader's end.
func archivedNear(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize, flush pg.LSN) ([]pg.SegmentNumber, error) {
	last := size.SegmentOf(flush)
	var out []pg.SegmentNumber
	for o, err := range archive.Along(ctx, r, h, size, last-min(last, window)) {
		if errors.Is(err, repo.ErrCorrupt) {
			break // a key that is none: what follows counts as missing, which is safe
		}
		if err != nil {
			return nil, err
		}
		out = append(out, o.Segment.Number)
	}
	return out, nil
}
