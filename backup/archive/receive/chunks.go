package receive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

const (
	// mergeAt is how many chunks of about one size become one. So a segment that
	// takes a day to fill has a few hundred chunks, not tens of thousands.
	mergeAt = 16
	// adoptTime is how long chunks of an earlier receiver are waited for to be
	// confirmed by the stream, which comes from the segment's start at full
	// speed.
	adoptTime = 10 * time.Second
)

// chunker stores what has come of one segment.
type chunker struct {
	p   *pipe
	seg *segment

	stored int64         // up to where chunks hold the segment, as compared with what came
	digest repo.Digester // of the segment up to stored
	chunks []tier
	retry  time.Time // not before

	listed  bool
	adopt   []repo.Chunk // of an earlier receiver, by their ends, to be confirmed
	until   time.Time    // they are waited for
	blocked bool         // somebody else's chunk is in the way
}

// tier is a chunk, with how often its bytes were merged.
type tier struct {
	repo.Chunk
	level int
}

func newChunker(p *pipe, seg *segment) *chunker {
	return &chunker{p: p, seg: seg, digest: repo.NewDigester(), until: time.Now().Add(adoptTime)}
}

// due gives how long to wait before the next chunk, at most 0 if it is time.
func (c *chunker) due(length int64, since time.Time) time.Duration {
	const forever = time.Hour
	o := c.p.s.o
	if c.blocked || length <= c.stored {
		return forever
	}
	wait := forever
	if !since.IsZero() {
		wait = time.Until(since.Add(o.Every))
	}
	if length-c.stored >= int64(o.Size) {
		wait = 0
	}
	if !c.retry.IsZero() {
		wait = time.Until(c.retry)
	}
	return wait
}

// flush stores what has come up to length. final says that nothing more comes.
func (c *chunker) flush(ctx context.Context, length int64, final bool) error {
	if c.blocked || length <= c.stored {
		return nil
	}
	c.retry = time.Time{}
	if err := c.confirm(ctx, length); err != nil {
		return err
	}
	if len(c.adopt) > 0 && !final && time.Now().Before(c.until) {
		c.retry = time.Now().Add(100 * time.Millisecond)
		return nil
	}
	c.adopt = nil
	for c.stored < length && !c.blocked {
		if err := c.put(ctx, min(length-c.stored, repo.MaxChunk)); err != nil {
			return err
		}
	}
	return nil
}

// confirm compares chunks that were there before with what came. The first one
// that differs ends it: what was stored by whoever had other WAL does not count.
func (c *chunker) confirm(ctx context.Context, length int64) error {
	if !c.listed {
		// A copy of the cluster that went on on its timeline has the same keys, and a
		// restore would end in the copy's WAL.
		if err := c.p.s.o.Push.Owned(ctx); err != nil {
			return err
		}
		if err := c.list(ctx); err != nil {
			return err
		}
	}
	for len(c.adopt) > 0 {
		next := c.adopt[0]
		end := int64(next.Offset) + int64(next.Length)
		if end > length {
			return nil
		}
		digest := c.digest.Clone()
		if _, err := c.read(c.stored, end, digest); err != nil {
			return err
		}
		if digest.Digest() != next.Prefix {
			c.p.s.log.WarnContext(ctx, "a chunk in the repository differs from what the leader streams, and is not used", "chunk", c.p.s.o.Repo.ChunkKey(&next))
			c.adopt = nil
			return nil
		}
		c.adopt = c.adopt[1:]
		c.advance(end, digest, next, 0)
		c.tell()
	}
	return nil
}

// list finds the chunks that cover the segment from its start on.
func (c *chunker) list(ctx context.Context) error {
	r := c.p.s.o.Repo
	there, err := r.Chunks(ctx, c.p.incarnation, c.p.s.size, c.seg.number)
	if err != nil {
		return err
	}
	c.listed = true
	for at := int64(0); ; {
		var best *repo.ChunkObject
		for i := range there {
			if o := &there[i]; o.Offset() <= at && o.End() > at && (best == nil || o.End() > best.End()) {
				best = o
			}
		}
		if best == nil {
			return nil
		}
		chunk, err := r.ReadChunkHeader(ctx, best.Object.Key)
		if errors.Is(err, repo.ErrCorrupt) {
			c.p.s.log.WarnContext(ctx, "a chunk in the repository is damaged, and is not used", "chunk", best.Object.Key, "error", err)
			return nil
		}
		if err != nil {
			return err
		}
		c.adopt = append(c.adopt, chunk)
		at = best.End()
	}
}

// read reads a part of the segment, which it gives, or, with a digest, only
// writes to that.
func (c *chunker) read(from, to int64, digest repo.Digester) ([]byte, error) {
	raw := make([]byte, to-from)
	if _, err := c.seg.file.ReadAt(raw, from); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	digest.Write(raw)
	return raw, nil
}

// put stores the next n bytes.
func (c *chunker) put(ctx context.Context, n int64) error {
	digest := c.digest.Clone()
	raw, err := c.read(c.stored, c.stored+n, digest)
	if err != nil {
		return err
	}
	chunk, err := c.p.s.o.Repo.PutChunk(ctx, c.chunk(c.stored, digest.Digest()), raw)
	if errors.Is(err, repo.ErrConflict) || errors.Is(err, repo.ErrCorrupt) {
		// The slot holds the WAL until the whole segment is archived, whose push
		// has rules for this.
		c.p.s.log.ErrorContext(ctx, "another chunk lies where this one belongs; nothing of the segment is stored before it is whole", "error", err)
		c.blocked = true
		return nil
	}
	if err != nil {
		return err
	}
	c.advance(c.stored+n, digest, chunk, 0)
	c.tell()
	return c.merge(ctx)
}

func (c *chunker) chunk(offset int64, prefix repo.Digest) repo.Chunk {
	return repo.Chunk{
		Incarnation: c.p.incarnation, Segment: c.seg.number, SegmentSize: c.p.s.size, Offset: uint32(offset), Prefix: prefix,
	}
}

// advance takes note that a chunk holds the segment up to end.
func (c *chunker) advance(end int64, digest repo.Digester, chunk repo.Chunk, level int) {
	c.stored, c.digest = end, digest
	c.chunks = append(c.chunks, tier{chunk, level})
}

func (c *chunker) tell() {
	at := c.p.s.size.Start(c.seg.number) + pg.LSN(c.stored)
	c.p.s.stored(pg.Pos{Timeline: c.p.incarnation.Timeline, LSN: at})
}

// merge puts one chunk in the place of the last small ones, as long as there
// are enough of one level. Large ones are left: the segment is soon whole.
func (c *chunker) merge(ctx context.Context) error {
	limit := min(int64(c.p.s.size)/mergeAt, repo.MaxChunk)
	for len(c.chunks) >= mergeAt {
		last := c.chunks[len(c.chunks)-mergeAt:]
		level := last[mergeAt-1].level
		if slices.ContainsFunc(last, func(t tier) bool { return t.level != level }) {
			return nil
		}
		from := int64(last[0].Offset)
		if c.stored-from > limit {
			return nil
		}
		raw, err := c.read(from, c.stored, repo.NewDigester())
		if err != nil {
			return err
		}
		merged, err := c.p.s.o.Repo.PutChunk(ctx, c.chunk(from, c.digest.Digest()), raw)
		if errors.Is(err, repo.ErrConflict) || errors.Is(err, repo.ErrCorrupt) {
			return nil // the small ones do
		}
		if err != nil {
			return err
		}
		var failed error
		for _, t := range last {
			failed = cmp.Or(failed, c.p.s.o.Repo.Remove(ctx, t.Key()))
		}
		if failed != nil {
			c.p.s.log.WarnContext(ctx, "chunks that were merged could not be removed; they go with the segment", "error", failed)
		}
		c.chunks = append(c.chunks[:len(c.chunks)-mergeAt], tier{merged, level + 1})
	}
	return nil
}
