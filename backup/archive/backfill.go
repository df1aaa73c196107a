package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

const defaultBackfillBudget = 2 * time.Minute

// BackfillResult is what a backfill did. Names are in order of the WAL.
type BackfillResult struct {
	Archived []string // segments that were missing and are archived now
	Left     []string // missing segments that are here and that another try may archive
	Refused  []string // missing segments that are here and that no other try archives
}

// Backfill archives what opts.WALDir holds of the timelines that h left and the
// archive lacks.
//
// With archive_mode=on a standby marks every streamed segment as done
// (walreceiver.c, XLogWalRcvWrite), so what a dead leader had not archived
// would never be offered by the one that took over, although its pg_wal has it.
// Pushing the new timeline's history therefore ends with a backfill.
//
// Segments that the archiver will offer by itself (.ready), those of h's own
// timeline and the one with the switch point are left to others. The oldest go
// first since they are recycled first, and it ends when opts.BackfillBudget is
// used up. An error means that some are Left: repeating goes on with those.
// Everything in Archived is archived all the same. What is damaged, conflicts
// or ends too early is Refused, which is no error: it would stay so for ever.
func Backfill(ctx context.Context, r *repo.Repo, h pg.History, opts PushOptions) (BackfillResult, error) {
	var result BackfillResult
	size, ok := localSegmentSize(opts.WALDir)
	if !ok {
		return result, nil // no segment here
	}
	local, err := offered(opts.WALDir, h, size)
	if err != nil || len(local) == 0 {
		return result, err
	}
	archived, err := archivedOf(ctx, r, h, size, local[0].Number)
	if err != nil && !errors.Is(err, repo.ErrCorrupt) {
		return result, err
	}
	// Where the listing holds a key that is none, what follows it is pushed as
	// if it were missing, which is safe.
	missing := slices.DeleteFunc(local, func(g pg.Segment) bool { return archived[g] })
	budget := opts.BackfillBudget
	if budget == 0 {
		budget = defaultBackfillBudget
	}
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	var failed []error
	for _, g := range missing {
		name := g.Name(size)
		err := context.Cause(ctx)
		if err == nil {
			o := opts
			o.Path = filepath.Join(opts.WALDir, name)
			_, err = pushAlong(ctx, r, h, o)
		}
		switch {
		case err == nil:
			result.Archived = append(result.Archived, name)
		case gone(filepath.Join(opts.WALDir, name)):
			// Recycled meanwhile: nobody can archive it from here.
		case hopeless(err):
			result.Refused = append(result.Refused, name)
			if opts.Log != nil {
				opts.Log.WarnContext(ctx, "a segment that the archive lacks cannot be archived", "file", name, "error", err)
			}
		default:
			result.Left = append(result.Left, name)
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		err = fmt.Errorf("backfill: %d of %d segments that the archive lacks could not be archived, the first being %s: %w",
			len(failed), len(missing), result.Left[0], failed[0])
	}
	return result, err
}

// hopeless reports whether a segment's push failed for what the segment is, or
// what lies in its place, so that no repetition mends it.
func hopeless(err error) bool {
	var damaged *DamagedError
	var incomplete *IncompleteError
	return errors.As(err, &damaged) || errors.As(err, &incomplete) || errors.Is(err, errNoSegment) ||
		errors.Is(err, wal.ErrForeign) || errors.Is(err, repo.ErrConflict) || errors.Is(err, repo.ErrCorrupt)
}

func gone(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// offered lists the segments in dir that a backfill for h is about, in order of
// the WAL: those that h takes from older timelines and the archiver does not
// know of.
func offered(dir string, h pg.History, size pg.SegmentSize) ([]pg.Segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []pg.Segment
	for _, e := range entries {
		g, err := pg.ParseSegment(e.Name(), size)
		if err != nil || g.Timeline == h.Timeline || !Serves(h, size, g) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "archive_status", e.Name()+".ready")); err == nil {
			continue
		}
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b pg.Segment) int {
		if a.Number < b.Number {
			return -1
		}
		return 1 // h takes each number from one timeline, so none is equal
	})
	return out, nil
}

// archivedOf gives the archived segments of h from number from on, with an
// error those that were listed before it.
func archivedOf(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize, from pg.SegmentNumber) (map[pg.Segment]bool, error) {
	archived := make(map[pg.Segment]bool)
	for o, err := range Along(ctx, r, h, size, from) {
		if err != nil {
			return archived, err
		}
		archived[o.Segment] = true
	}
	return archived, nil
}
