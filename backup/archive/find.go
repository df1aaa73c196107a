package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

// find looks for the file and gives what puts it at its destination.
func (g *getter) find(ctx context.Context, name repo.WALName) (func(context.Context) error, error) {
	l, err := g.opts.Lineage(ctx)
	if err != nil {
		return nil, fmt.Errorf("find the history to follow: %w", err)
	}
	if name.History != 0 {
		return g.findHistory(ctx, l, name.History)
	}
	h := l.History
	own, ok := Ancestor(h, name.Timeline())
	if !ok {
		return nil, &AbsentError{g.opts.Name, fmt.Sprintf("timeline %s is not part of the history of timeline %s", name.Timeline(), h.Timeline)}
	}
	size := g.opts.SegmentSize
	if size == 0 {
		if size, err = SegmentSize(ctx, g.repo); errors.Is(err, fs.ErrNotExist) {
			return nil, &AbsentError{g.opts.Name, "no segment is archived at all"}
		} else if err != nil {
			return nil, err
		}
	}
	seg, err := pg.ParseSegment(name.Segment, size)
	if err != nil {
		return nil, &localError{err}
	}
	i := repo.IncarnationOf(own)
	switch {
	case name.Backup:
		return g.findBackupHistory(ctx, i, name, size)
	case name.Partial:
		return g.findPartial(ctx, i, seg, size)
	}
	return g.findSegment(ctx, h, i, seg, size)
}

func (g *getter) findSegment(ctx context.Context, h pg.History, i repo.Incarnation, seg pg.Segment, size pg.SegmentSize) (func(context.Context) error, error) {
	if !Serves(h, size, seg) {
		return nil, &AbsentError{g.opts.Name, fmt.Sprintf("the history of timeline %s takes this WAL from timeline %s", h.Timeline, SegmentTimeline(h, size, seg.Number))}
	}
	g.shown = g.shown || g.seen.shows(i, seg.Number)
	look := lookAhead
	if g.opts.SeenFile == "" || g.seen.shows(i, seg.Number) && seg.Number < g.seen.last {
		look = locate // what lies ahead is known, or nobody would remember it
	}
	l, err := look(ctx, g.repo, i, size, seg.Number)
	if err != nil {
		return nil, err
	}
	if !l.found {
		g.shown = false
		if g.opts.Streamed && !g.opts.Standby {
			if put, err := g.streamedPut(ctx, i, size, seg.Number); put != nil || err != nil {
				return put, err
			}
		}
		return nil, &AbsentError{g.opts.Name, fmt.Sprintf("it is not archived for timeline %s", i)}
	}
	g.shown = true
	if more := g.opts.More; more != nil && (l.last > seg.Number || g.seen.shows(i, seg.Number+1)) {
		g.opts.More = nil
		more()
	}
	g.remember(ctx, seen{i, seg.Number, l.last})
	return g.segmentPut(l.object.Object.Key), nil
}

// remember keeps what a listing showed if it is news.
func (g *getter) remember(ctx context.Context, s seen) {
	if g.opts.SeenFile == "" || g.seen.incarnation == s.incarnation && g.seen.first <= s.first && g.seen.last >= s.last {
		return
	}
	g.seen = s
	if err := s.write(g.opts.SeenFile); err != nil {
		g.log.WarnContext(ctx, "last listing cannot be kept", "file", g.opts.SeenFile, "error", err)
	}
}

func (g *getter) findPartial(ctx context.Context, i repo.Incarnation, seg pg.Segment, size pg.SegmentSize) (func(context.Context) error, error) {
	key := g.repo.WALKey(&repo.WALHeader{Flags: repo.WALPartial, Incarnation: i, Segment: seg.Number, SegmentSize: size})
	_, err := g.repo.ReadWALHeader(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &AbsentError{g.opts.Name, fmt.Sprintf("it is not archived for timeline %s", i)}
	}
	return g.segmentPut(key), err
}

func (g *getter) segmentPut(key string) func(context.Context) error {
	return func(ctx context.Context) error {
		return place(g.opts.Dest, func(w io.Writer) error {
			_, err := g.repo.ReadWAL(ctx, key, w)
			return err
		})
	}
}

func (g *getter) findBackupHistory(ctx context.Context, i repo.Incarnation, name repo.WALName, size pg.SegmentSize) (func(context.Context) error, error) {
	key, err := g.repo.BackupHistoryKey(i, name, size)
	if err != nil {
		return nil, err
	}
	content, err := g.repo.BackupHistory(ctx, key)
	return g.contentPut(content), absentIfGone(err, g.opts.Name)
}

// findHistory finds the history file of timeline t: the one of l's own line, or
// another that l's reader may have.
func (g *getter) findHistory(ctx context.Context, l Lineage, t pg.Timeline) (func(context.Context) error, error) {
	if own, ok := Ancestor(l.History, t); ok {
		if t == 1 {
			return nil, &AbsentError{g.opts.Name, "timeline 1 has no history file"}
		}
		_, content, err := g.repo.History(ctx, repo.IncarnationOf(own))
		return g.contentPut(content), absentIfGone(err, g.opts.Name)
	}
	incarnations, err := g.repo.Histories(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range incarnations {
		if i.Timeline != t {
			continue
		}
		o, content, err := g.repo.History(ctx, i)
		if err != nil {
			return nil, fmt.Errorf("read archived history of timeline %s: %w", i, storage.NotAbsence(err))
		}
		if ServesHistory(l, o) {
			return g.contentPut(content), nil
		}
	}
	return nil, &AbsentError{g.opts.Name, fmt.Sprintf("no archived timeline %s is one that a reader of timeline %s (by %s) may have", t, l.Timeline, l.Source)}
}

func absentIfGone(err error, name string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &AbsentError{name, "the repository does not hold it"}
	}
	return err
}

func (g *getter) contentPut(content []byte) func(context.Context) error {
	return func(context.Context) error {
		return place(g.opts.Dest, func(w io.Writer) error {
			_, err := io.Copy(w, bytes.NewReader(content))
			return err
		})
	}
}
