package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// part is a run of archived segments of one timeline, each proved to continue
// the one before, with what is known of their content: one segment, or a group.
type part struct {
	headers []repo.WALHeader
	infos   []wal.Info
	carry   wal.RunCarry
	changes *wal.BlockMap // nil where they are not known
	indexed bool          // from an index object
}

// segmentWorkers is how many segments' headers and maps are read at once: a
// small request each, so that it is the store's latency that counts.
const segmentWorkers = 16

// segmentPart is a part of one segment, or why there is none.
type segmentPart struct {
	part
	object repo.WALObject
	err    error // fs.ErrNotExist, repo.ErrCorrupt, or the header tells nothing
}

// readSegments reads headers, maps and carries of listed segments, in order, unless
// they are remembered. The error is one that says nothing about the segments.
func readSegments(ctx context.Context, r *repo.Repo, objects []repo.WALObject, known *Recent) ([]segmentPart, error) {
	out := make([]segmentPart, len(objects))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(segmentWorkers)
	for i, o := range objects {
		g.Go(func() error {
			out[i].object = o
			meta, ok := known.meta(o)
			var err error
			if !ok {
				meta, err = r.ReadWALMeta(gctx, o.Object.Key, o.Object.Size)
			}
			if err == nil {
				out[i].part, err = newPart(meta)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, repo.ErrCorrupt) && !errors.Is(err, errUnread) {
				return err
			}
			out[i].err = err
			return nil
		})
	}
	return out, g.Wait()
}

// errUnread means that a segment was archived without a look at its content, or
// by a release that knew more.
var errUnread = errors.New("its content was not read when it was archived")

// newPart makes a part of one segment.
func newPart(meta repo.WALMeta) (part, error) {
	h := meta.Header
	if !wasRead(&h) {
		return part{headers: []repo.WALHeader{h}}, fmt.Errorf("segment %s: %w", h.Name(), errUnread)
	}
	info, err := infoOf(&h)
	if err != nil {
		return part{}, fmt.Errorf("%w: %w", errUnread, err)
	}
	p := part{headers: []repo.WALHeader{h}, infos: []wal.Info{info}}
	carry, err := wal.DecodeCarry(meta.Carry)
	if err == nil && h.Flags&repo.WALBlockMap != 0 && h.Flags&repo.WALChainBreak == 0 {
		p.changes, err = wal.DecodeBlockMap(meta.BlockMap)
	}
	var alone wal.Chain
	if err == nil {
		_, err = alone.Add(info, carry)
	}
	if err != nil {
		return part{}, fmt.Errorf("read what is stored about segment %s: %w: %w", h.Name(), repo.ErrCorrupt, err)
	}
	p.carry = alone.Carry()
	return p, nil
}

// indexPart makes a part of an index object.
func indexPart(x repo.WALIndex) (p part, err error) {
	p.headers, p.indexed = x.Headers, true
	for i := range x.Headers {
		info, err := infoOf(&x.Headers[i])
		if err != nil {
			return part{}, err
		}
		p.infos = append(p.infos, info)
	}
	if p.changes, err = wal.DecodeBlockMap(x.BlockMap); err == nil {
		p.carry, err = wal.DecodeRunCarry(x.Carry)
	}
	if err != nil {
		return part{}, fmt.Errorf("read index of the segments from %s on: %w: %w", x.Headers[0].Name(), repo.ErrCorrupt, err)
	}
	return p, nil
}

// batch is how many segments' maps are in memory at once.
const batch = 32

// joinGroup makes one part of the segments of a group. unfit says why they
// cannot be described by an index: a segment is damaged or was not read, they
// are not one log, or changes are not known.
func joinGroup(ctx context.Context, r *repo.Repo, objects []repo.WALObject, known *Recent) (out part, unfit, err error) {
	var chain wal.Chain
	out.changes = new(wal.BlockMap)
	for some := range slices.Chunk(objects, batch) {
		segments, err := readSegments(ctx, r, some, known)
		if err != nil {
			return part{}, nil, err
		}
		for i := range segments {
			if err := out.join(&chain, &segments[i]); err != nil {
				return part{}, err, nil
			}
		}
	}
	out.carry = chain.Carry()
	return out, nil, nil
}

// join adds the next segment.
func (p *part) join(chain *wal.Chain, s *segmentPart) error {
	if s.err != nil {
		return s.err
	}
	if s.changes == nil {
		return fmt.Errorf("segment %s: %w", s.headers[0].Name(), errUntracked)
	}
	joint, err := chain.AddRun(s.infos, s.carry)
	if err != nil {
		return err
	}
	if done := joint.Completed; done != nil {
		if done.Flags.BreaksChain() {
			return fmt.Errorf("record at %s: %w", done.Record.Start, errUntracked)
		}
		p.changes.Merge(done.Map)
	}
	p.changes.Merge(s.changes)
	p.headers = append(p.headers, s.headers[0])
	p.infos = append(p.infos, s.infos[0])
	return nil
}

// errUntracked means that WAL makes changes which no block map can name.
var errUntracked = errors.New("what it changes cannot be told")

// index gives the object that describes a part.
func (p *part) index() repo.WALIndex {
	return repo.WALIndex{Headers: p.headers, BlockMap: p.changes.Encode(), Carry: p.carry.Encode()}
}

// first and last give the numbers of the part's outermost segments.
func (p *part) first() pg.SegmentNumber { return p.headers[0].Segment }
func (p *part) last() pg.SegmentNumber  { return p.headers[len(p.headers)-1].Segment }
