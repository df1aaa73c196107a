package archive

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// LocalSegment is a whole segment in a pg_wal.
type LocalSegment struct {
	pg.Segment
	Written int64 // when it was last written to, as seconds since 1970
}

// Unarchived lists the segments in dir that h is made of and that the archive
// lacks, in order of the WAL: those that end at or before end, the position up
// to which the server has WAL. archived remembers from one call to the next
// what is known to be archived; where it knows all, the store is not asked.
func Unarchived(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize, dir string, end pg.LSN, archived map[pg.Segment]bool) ([]LocalSegment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []LocalSegment
	here := map[pg.Segment]bool{}
	for _, e := range entries {
		g, err := pg.ParseSegment(e.Name(), size)
		if err != nil || !Serves(h, size, g) || size.Start(g.Number+1) > end {
			continue
		}
		here[g] = true
		if archived[g] {
			continue
		}
		if info, err := e.Info(); err == nil { // else it was recycled meanwhile
			out = append(out, LocalSegment{g, info.ModTime().Unix()})
		}
	}
	for g := range archived {
		if !here[g] {
			delete(archived, g)
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	slices.SortFunc(out, func(a, b LocalSegment) int { return cmp.Compare(a.Number, b.Number) })
	listed, err := archivedOf(ctx, r, h, size, out[0].Number)
	if err != nil && !errors.Is(err, repo.ErrCorrupt) {
		return nil, err // of what follows a key that is none, too much is listed, which is safe
	}
	for g := range listed {
		if here[g] {
			archived[g] = true
		}
	}
	return slices.DeleteFunc(out, func(s LocalSegment) bool { return archived[s.Segment] }), nil
}
