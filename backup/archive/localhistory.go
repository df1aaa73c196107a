package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// HistoryHere gives the history of timeline t as the server that wrote dir sees
// it: from its history file, else from the archive if that knows exactly one.
func HistoryHere(ctx context.Context, r *repo.Repo, dir string, t pg.Timeline) (pg.History, error) {
	if t == 1 {
		return pg.FirstTimeline(), nil
	}
	name := pg.HistoryName(t)
	content, err := small(filepath.Join(dir, name))
	if err == nil {
		return pg.ParseHistory(t, content)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return pg.History{}, err
	}
	histories, err := archivedHistories(ctx, r)
	if err != nil {
		return pg.History{}, err
	}
	h, err := chooseLineage(t, histories)
	if err != nil {
		return pg.History{}, finding.WithHint(
			fmt.Errorf("find the history of timeline %s: %s is not in %s, and the archive does not settle it: %w", t, name, dir, err),
			"archive %s first, or copy it from another member's pg_wal into this one's", name)
	}
	return h, nil
}

// localHistories gives the histories in dir, the newest timeline first. Files
// that are none are passed over: they decide nothing here.
func localHistories(dir string) []pg.History {
	files, err := filepath.Glob(filepath.Join(escapeGlob(dir), "????????.history"))
	if err != nil {
		return nil
	}
	var out []pg.History
	for _, path := range files {
		t, err := pg.ParseHistoryName(filepath.Base(path))
		if err != nil {
			continue
		}
		content, err := small(path)
		if err != nil {
			continue
		}
		if h, err := pg.ParseHistory(t, content); err == nil {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b pg.History) int { return int(int64(b.Timeline) - int64(a.Timeline)) })
	return out
}

// leftIn gives the position within seg at which its timeline was left, as the
// server's own histories say, or else the archived ones. These may be of a timeline
// that somebody else left for while this server wrote on: where its next segment
// is there, a whole segment whose WAL ends early is damaged.
func leftIn(ctx context.Context, r *repo.Repo, dir string, own pg.History, size pg.SegmentSize, seg pg.Segment) (pg.LSN, bool) {
	histories := localHistories(dir)
	if end, ok := forkIn(histories, own, size, seg); ok {
		return end, true
	}
	if followed(dir, size, seg) {
		return 0, false
	}
	archived, err := archivedHistories(ctx, r)
	if err != nil {
		return 0, false // not known; the push is tried again
	}
	slices.Reverse(archived)
	return forkIn(archived, own, size, seg)
}

// forkIn is leftIn's decision: the first of the histories that descends from
// own and left its timeline inside seg.
func forkIn(histories []pg.History, own pg.History, size pg.SegmentSize, seg pg.Segment) (pg.LSN, bool) {
	for _, h := range histories {
		end, left := h.End(seg.Timeline)
		if left && descends(h, own) && end > size.Start(seg.Number) && end < size.Start(seg.Number+1) {
			return end, true
		}
	}
	return 0, false
}

// localSegmentSize reads the segment size from any segment in dir.
func localSegmentSize(dir string) (pg.SegmentSize, bool) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, false
	}
	for _, e := range entries {
		if !pg.IsSegmentName(e.Name()) {
			continue
		}
		f, err := openSegment(filepath.Join(dir, e.Name()))
		if err != nil {
			continue
		}
		size := f.size
		f.Close() // opened for reading
		return size, true
	}
	return 0, false
}

// SegmentSize reads the cluster's segment size from the archive: from its first
// segment, or where damage is found, from one of the next. It is an
// [fs.ErrNotExist] if no segment is archived.
func SegmentSize(ctx context.Context, r *repo.Repo) (pg.SegmentSize, error) {
	incarnations, err := r.Incarnations(ctx)
	if err != nil {
		return 0, err
	}
	const tries = 20 // that damage may cost
	var damaged []error
	for _, i := range incarnations {
		// What number a name means depends on the size asked for, so a listing
		// with another size can call a key damaged; the object knows better.
		for o, err := range r.Segments(ctx, i, pg.DefaultSegmentSize, 0) {
			key := o.Object.Key
			if bad := (*repo.CorruptError)(nil); errors.As(err, &bad) {
				key = bad.Key
			} else if err != nil {
				return 0, err
			}
			if k, err := repo.ParseKey(key); err == nil && k.WAL.Backup {
				continue // no segment
			}
			h, err := r.ReadWALHeader(ctx, key)
			if bad := (*repo.CorruptError)(nil); errors.As(err, &bad) && len(damaged) < tries {
				damaged = append(damaged, err)
				continue
			}
			return h.SegmentSize, storage.NotAbsence(err) // it was listed: something is archived
		}
	}
	if len(damaged) > 0 {
		return 0, damaged[0]
	}
	return 0, fmt.Errorf("read the segment size from the archive of %s: no segment is archived: %w", r.Cluster(), fs.ErrNotExist)
}

// escapeGlob makes dir match itself alone.
func escapeGlob(dir string) string {
	var out []rune
	for _, c := range dir {
		if c == '*' || c == '?' || c == '[' || c == '\\' {
			out = append(out, '\\')
		}
		out = append(out, c)
	}
	return string(out)
}
