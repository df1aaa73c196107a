package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// IndexGroup makes the index of a group of an incarnation if all its segments
// are archived, and reports whether it did. That they are not, or not fit for
// an index (see repo.WALIndex), is said by reason and no error. What known remembers is
// not read; nil: everything is.
func IndexGroup(ctx context.Context, r *repo.Repo, i repo.Incarnation, size pg.SegmentSize, group uint64, known *Recent) (made bool, reason string, err error) {
	first, last := pg.SegmentNumber(group*repo.GroupSegments), pg.SegmentNumber(group*repo.GroupSegments+repo.GroupSegments-1)
	archived := make(map[pg.SegmentNumber]repo.WALObject)
	lowest := last + 1
	for o, err := range r.Segments(ctx, i, size, first) {
		if err != nil {
			return false, "", fmt.Errorf("list group %014X of timeline %s: %w", group, i, err)
		}
		if o.Segment.Number > last {
			break
		}
		keepAuthoritative(archived, o)
		if _, ok := archived[o.Segment.Number]; ok {
			lowest = min(lowest, o.Segment.Number)
		}
	}
	var objects []repo.WALObject
	for n := lowest; n <= last; n++ {
		o, ok := archived[n]
		if !ok {
			return false, fmt.Sprintf("segment %d is not archived", n), nil
		}
		objects = append(objects, o)
	}
	if lowest > last {
		return false, "nothing is archived", nil
	}
	begins, err := beginsAt(ctx, r, i, size)
	if err != nil {
		return false, "", err
	}
	if lowest != firstOfGroup(begins, first) {
		return false, fmt.Sprintf("segment %d is the first that is archived", lowest), nil
	}
	p, unfit, err := joinGroup(ctx, r, objects, known)
	if err != nil || unfit != nil {
		if err == nil {
			reason = unfit.Error()
		}
		return false, reason, err
	}
	return true, "", r.PutWALIndex(ctx, p.index())
}

// beginsAt gives the first segment of an incarnation.
func beginsAt(ctx context.Context, r *repo.Repo, i repo.Incarnation, size pg.SegmentSize) (pg.SegmentNumber, error) {
	if i.Timeline == 1 {
		return 1, nil
	}
	h, _, err := r.History(ctx, i)
	if errors.Is(err, fs.ErrNotExist) {
		return noSegment, nil // not known yet
	}
	begin, _ := h.Begin(i.Timeline)
	return size.SegmentOf(begin), err
}

// indexWait bounds the time that a push spends on an index. It is an
// accelerator: whoever needs it makes it.
const indexWait = 30 * time.Second

// index makes the index of a group that a push may have completed. Looking is a
// listing, so a push looks only if its segment is among the last of a group,
// which nearly always come last; and once in the middle of the next one, for the
// sake of segments that came late.
func (p *pusher) index(ctx context.Context, h *repo.WALHeader) {
	const lastOnes, middle = repo.GroupSegments - 8, repo.GroupSegments / 2
	g, place := group{h.Incarnation, repo.GroupOf(h.Segment)}, uint64(h.Segment)%repo.GroupSegments
	switch {
	case h.Flags&repo.WALPartial != 0:
		return
	case place >= lastOnes:
	case place == middle && g.number > 0:
		g.number--
		if has, err := p.repo.HasWALIndex(ctx, g.incarnation, g.number); has || err != nil {
			return
		}
	default:
		return
	}
	ctx, cancel := context.WithTimeout(ctx, indexWait)
	defer cancel()
	p.opts.Recent.oneByOne(g, func() bool {
		made, reason, err := IndexGroup(ctx, p.repo, g.incarnation, h.SegmentSize, g.number, p.opts.Recent)
		switch {
		case err != nil:
			p.log.WarnContext(ctx, "index of archived WAL could not be made; it is made when it is needed", "segment", h.Name().String(), "error", err)
		case made:
			p.log.InfoContext(ctx, "index of archived WAL made", "timeline", g.incarnation.String(), "group", fmt.Sprintf("%014X", g.number))
		default:
			p.log.DebugContext(ctx, "no index of archived WAL yet", "timeline", g.incarnation.String(), "reason", reason)
		}
		return made
	})
}
