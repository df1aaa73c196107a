package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// walk reads what the archive holds of a history's segments, in order: whole
// groups from their index, which is made where it is missing, and the rest one
// by one.
type walk struct {
	repo    *repo.Repo
	history pg.History
	size    pg.SegmentSize
}

// step is one stretch of a walk: a part, or a segment of which there is none.
type step struct {
	part
	segment pg.Segment // of the failure
	err     error      // fs.ErrNotExist, repo.ErrCorrupt or errUnread
	// staleIndex says why the group's index was not used, though there is one:
	// it is damaged, or made from other objects.
	staleIndex error
}

// listed gives the objects that count for the history's segments first to
// last, by number.
func (w *walk) listed(ctx context.Context, first, last pg.SegmentNumber) (map[pg.SegmentNumber]repo.WALObject, error) {
	out := make(map[pg.SegmentNumber]repo.WALObject)
	for _, run := range runs(w.history, w.size) {
		from := max(run.first, first)
		if from >= run.end || from > last {
			continue
		}
		for o, err := range w.repo.Segments(ctx, run.incarnation, w.size, from) {
			if err != nil {
				return nil, fmt.Errorf("list archived WAL of timeline %s: %w", run.incarnation, err)
			}
			n := o.Segment.Number
			if n >= run.end || n > last {
				break
			}
			keepAuthoritative(out, o)
		}
	}
	return out, nil
}

// keepAuthoritative adds an object to those that count.
func keepAuthoritative(to map[pg.SegmentNumber]repo.WALObject, o repo.WALObject) {
	if o.Key.WAL.Partial || o.Key.WAL.Backup {
		return
	}
	if had, ok := to[o.Segment.Number]; ok {
		o, _ = authoritative([]repo.WALObject{had, o})
	}
	to[o.Segment.Number] = o
}

// stretch is what a walk reads at once: segments first to last of one timeline,
// all archived, or one segment that is not.
type stretch struct {
	run         run
	first, last pg.SegmentNumber
	group       bool // a whole group, or all of it that the timeline has
	missing     bool
}

// stretches divides segments first to last among reads: the decision of a walk
// over what was listed.
func stretches(h pg.History, size pg.SegmentSize, first, last pg.SegmentNumber, archived func(pg.SegmentNumber) bool) []stretch {
	var out []stretch
	for _, r := range runs(h, size) {
		end := min(r.end, last+1) // exclusive
		for n := max(r.first, first); n < end; {
			groupLast := n | (repo.GroupSegments - 1)
			s := stretch{run: r, first: n}
			s.group = n == firstOfGroup(r.first, n) && groupLast < end
			limit := min(groupLast+1, end)
			for s.last = n; s.last < limit && archived(s.last); s.last++ {
			}
			switch {
			case s.last == n:
				s.missing, s.group, s.last = true, false, n+1
			case s.last <= groupLast:
				s.group = false
			}
			if !s.group {
				s.last = min(s.last, n+batch)
			}
			n = s.last
			s.last--
			out = append(out, s)
		}
	}
	return out
}

// firstOfGroup gives the first segment that the group of segment n can have, if
// its timeline begins with segment begin. WAL begins with segment 1.
func firstOfGroup(begin, n pg.SegmentNumber) pg.SegmentNumber {
	return max(n&^(repo.GroupSegments-1), begin, 1)
}

// steps walks from segment first to last. The error says nothing about the
// archive, and ends the walk.
func (w *walk) steps(ctx context.Context, first, last pg.SegmentNumber) iter.Seq2[step, error] {
	objects, err := w.listed(ctx, first, last)
	if err != nil {
		return func(yield func(step, error) bool) { yield(step{}, err) }
	}
	return w.stepsOf(ctx, first, last, objects)
}

// stepsOf is steps over what was listed.
func (w *walk) stepsOf(ctx context.Context, first, last pg.SegmentNumber, objects map[pg.SegmentNumber]repo.WALObject) iter.Seq2[step, error] {
	return func(yield func(step, error) bool) {
		archived := func(n pg.SegmentNumber) bool { _, ok := objects[n]; return ok }
		for _, s := range stretches(w.history, w.size, first, last, archived) {
			list := make([]repo.WALObject, 0, s.last-s.first+1)
			for n := s.first; n <= s.last && !s.missing; n++ {
				list = append(list, objects[n])
			}
			more := true
			err := w.read(ctx, s, list, func(st step) bool {
				more = more && yield(st, nil)
				return more
			})
			if !more {
				return
			}
			if err != nil {
				yield(step{}, err)
				return
			}
		}
	}
}

// read reads one stretch.
func (w *walk) read(ctx context.Context, s stretch, objects []repo.WALObject, yield func(step) bool) error {
	if s.missing {
		g := pg.Segment{Timeline: s.run.incarnation.Timeline, Number: s.first}
		yield(step{segment: g, err: notArchived(g, w.size)})
		return nil
	}
	var stale error
	if s.group {
		p, unfit, err := w.readIndex(ctx, s, objects)
		if err == nil && unfit == nil {
			yield(step{part: p})
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		stale = unfit
		if p, unfit, err = joinGroup(ctx, w.repo, objects, nil); err != nil {
			return err
		}
		if unfit == nil {
			if stale == nil {
				// The next reader makes it, if this one may not write. Whose part of
				// the repository it is needs no look: an index says nothing that the
				// archived segments do not, is put only if absent, and is compared
				// with them by whoever reads it. One that a proved leader's segment
				// made stale stays, since no object is written twice; the segments
				// are read in its place.
				_ = w.repo.PutWALIndex(ctx, p.index())
			}
			yield(step{part: p, staleIndex: stale})
			return nil
		}
	}
	for some := range slices.Chunk(objects, batch) {
		segments, err := readSegments(ctx, w.repo, some, nil)
		if err != nil {
			return err
		}
		for _, st := range singles(segments, stale) {
			if !yield(st) {
				return nil
			}
		}
		stale = nil // said once
	}
	return nil
}

func notArchived(g pg.Segment, size pg.SegmentSize) error {
	return fmt.Errorf("segment %s is not archived: %w", g.Name(size), fs.ErrNotExist)
}

// readIndex reads a group's index. It is an fs.ErrNotExist if there is none;
// stale says why one is not to be used.
func (w *walk) readIndex(ctx context.Context, s stretch, objects []repo.WALObject) (p part, stale, err error) {
	x, err := w.repo.ReadWALIndex(ctx, s.run.incarnation, repo.GroupOf(s.first))
	switch {
	case errors.Is(err, repo.ErrCorrupt):
		return part{}, err, nil
	case err != nil:
		return part{}, nil, err
	}
	key := w.repo.WALIndexKey(s.run.incarnation, repo.GroupOf(s.first))
	if x.First() != s.first || slices.ContainsFunc(objects, func(o repo.WALObject) bool { return !x.Describes(o) }) {
		return part{}, fmt.Errorf("%s is made from other objects than those that count now", key), nil
	}
	if p, err = indexPart(x); err != nil {
		return part{}, fmt.Errorf("%s: %w", key, err), nil
	}
	return p, nil, nil
}

// singles gives a step for each segment.
func singles(segments []segmentPart, stale error) []step {
	out := make([]step, 0, len(segments))
	for _, s := range segments {
		st := step{part: s.part, segment: s.object.Segment, err: s.err, staleIndex: stale}
		if errors.Is(s.err, fs.ErrNotExist) {
			st.err = fmt.Errorf("%s was listed, and is gone: %w", s.object.Object.Key, fs.ErrNotExist)
		}
		stale = nil // said once
		out = append(out, st)
	}
	return out
}
