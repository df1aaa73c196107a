package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// Streamed is the WAL that receive stored of a segment before it is complete.
type Streamed struct {
	Incarnation repo.Incarnation
	Segment     pg.Segment
	End         pg.LSN    // exclusive; the segment's start if nothing is streamed of it
	Modified    time.Time // of the newest chunk, by the store's clock
	Chunks      int
}

// StreamedOf says, by one listing, how far segment n of a history is streamed.
// It judges names alone.
func StreamedOf(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize, n pg.SegmentNumber) (Streamed, error) {
	t := SegmentTimeline(h, size, n)
	own, _ := Ancestor(h, t)
	i := repo.IncarnationOf(own)
	chunks, err := r.Chunks(ctx, i, size, n)
	s := Streamed{Incarnation: i, Segment: pg.Segment{Timeline: t, Number: n}, End: size.Start(n), Chunks: len(chunks)}
	if err != nil {
		return s, err
	}
	s.End += pg.LSN(contiguous(chunks))
	for _, c := range chunks {
		if c.Object.Modified.After(s.Modified) {
			s.Modified = c.Object.Modified
		}
	}
	return s, nil
}

// CheckStreamed reads what is streamed of a segment, and gives its end. WAL that
// does not hold together is a [repo.ErrCorrupt].
func CheckStreamed(ctx context.Context, r *repo.Repo, s Streamed, size pg.SegmentSize) (pg.LSN, error) {
	chunks, err := r.Chunks(ctx, s.Incarnation, size, s.Segment.Number)
	if err != nil {
		return 0, err
	}
	n, err := readStreamed(ctx, r, chunks, io.Discard)
	if errors.Is(err, fs.ErrNotExist) { // merged or archived since it was listed
		n, err = contiguous(chunks), nil
	}
	return size.Start(s.Segment.Number) + pg.LSN(n), err
}

// contiguous gives how many bytes from the segment's start chunks cover without
// a gap.
func contiguous(chunks []repo.ChunkObject) (end int64) {
	for _, c := range chunks { // ascending by offset
		if c.Offset() > end {
			break
		}
		end = max(end, c.End())
	}
	return end
}

// reaching gives the chunks that hold the byte at off, the one that reaches
// furthest first.
func reaching(chunks []repo.ChunkObject, off int64) []repo.ChunkObject {
	out := slices.DeleteFunc(slices.Clone(chunks), func(c repo.ChunkObject) bool { return c.Offset() > off || c.End() <= off })
	slices.SortStableFunc(out, func(a, b repo.ChunkObject) int { return cmp.Compare(b.End(), a.End()) })
	return out
}

// readStreamed writes the WAL that the chunks of one segment hold together, and
// gives its length. Each is verified, also that it continues what lies before
// it. Where WAL lies behind one that is missing or does not, that is an error:
// it is no end of the stream.
func readStreamed(ctx context.Context, r *repo.Repo, chunks []repo.ChunkObject, w io.Writer) (int64, error) {
	digest := repo.NewDigester()
	at := int64(0)
	for {
		raw, next, err := continued(ctx, r, reaching(chunks, at), at, digest)
		switch {
		case err != nil:
			return at, err
		case raw == nil && slices.ContainsFunc(chunks, func(c repo.ChunkObject) bool { return c.Offset() > at }):
			return at, brokenStream(fmt.Errorf("%w: WAL was streamed past byte %d of segment %s, but no chunk holds that byte",
				repo.ErrCorrupt, at, chunks[0].Key.WAL))
		case raw == nil:
			return at, nil
		}
		if _, err := w.Write(raw); err != nil {
			return at, err
		}
		at, digest = at+int64(len(raw)), next
	}
}

// continued gives what follows byte at by the first of the candidates that is
// intact and continues what digest has seen, nil if there is none to try.
func continued(ctx context.Context, r *repo.Repo, candidates []repo.ChunkObject, at int64, digest repo.Digester) ([]byte, repo.Digester, error) {
	var bad error
	for _, o := range candidates {
		c, raw, err := r.ReadChunk(ctx, o.Object.Key)
		if errors.Is(err, repo.ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
			bad = cmp.Or(bad, err)
			continue
		}
		if err != nil {
			return nil, digest, err
		}
		raw = raw[at-o.Offset():]
		next := digest.Clone()
		next.Write(raw)
		if next.Digest() == c.Prefix {
			return raw, next, nil
		}
		bad = cmp.Or[error](bad, &repo.CorruptError{Key: o.Object.Key, Offset: 72, What: "it does not continue the WAL before it"})
	}
	return nil, digest, brokenStream(bad)
}

// brokenStream adds what to do where streamed WAL does not hold together.
func brokenStream(err error) error {
	if !errors.Is(err, repo.ErrCorrupt) {
		return err
	}
	return finding.WithHint(err, "recovery ends before this chunk once it is removed from the repository; the segment itself may still be in a member's pg_wal")
}

// streamedPart is a segment that was not archived a moment ago, as far as it was
// streamed.
type streamedPart struct {
	repo   *repo.Repo
	i      repo.Incarnation
	size   pg.SegmentSize
	number pg.SegmentNumber
	chunks []repo.ChunkObject
	// archived is the key of the segment if it has been archived since, which
	// counts then in place of the chunks.
	archived string
}

// errArchivedNow means that a segment was archived while its chunks were read;
// the part's archived tells where.
var errArchivedNow = errors.New("the segment was archived meanwhile")

// lookStreamed looks for the chunks of a segment that a listing did not show as
// archived; nil: there is nothing of it. Chunks are removed after their segment
// is archived, so that the last word has another look for that.
func lookStreamed(ctx context.Context, r *repo.Repo, i repo.Incarnation, size pg.SegmentSize, n pg.SegmentNumber) (*streamedPart, error) {
	s := &streamedPart{repo: r, i: i, size: size, number: n}
	var err error
	if s.chunks, err = r.Chunks(ctx, i, size, n); err != nil || len(s.chunks) > 0 {
		return s, err
	}
	if found, err := s.look(ctx); err != nil || !found {
		return nil, err
	}
	return s, nil
}

// look looks whether the segment is archived now.
func (s *streamedPart) look(ctx context.Context) (found bool, err error) {
	l, err := locate(ctx, s.repo, s.i, s.size, s.number)
	if err == nil && l.found {
		s.archived = l.object.Object.Key
	}
	return s.archived != "", err
}

// write writes a whole segment: what was streamed, and zeros behind it. It is an
// errArchivedNow if the segment was archived meanwhile.
func (s *streamedPart) write(ctx context.Context, w io.Writer) error {
	length, readErr := readStreamed(ctx, s.repo, s.chunks, w)
	found, err := s.look(ctx)
	switch {
	case err != nil:
		return errors.Join(readErr, err)
	case found:
		return errArchivedNow
	case errors.Is(readErr, fs.ErrNotExist):
		return fmt.Errorf("a chunk of the segment was listed, and is gone: %v", readErr) // which proves nothing
	case readErr != nil:
		return readErr
	}
	return zeros(w, int64(s.size)-length)
}

// streamedPut gives what puts a segment that is not archived at the destination
// as far as it was streamed; nil if nothing was.
func (g *getter) streamedPut(ctx context.Context, i repo.Incarnation, size pg.SegmentSize, n pg.SegmentNumber) (func(context.Context) error, error) {
	part, err := lookStreamed(ctx, g.repo, i, size, n)
	switch {
	case err != nil || part == nil:
		return nil, err
	case part.archived != "":
		return g.segmentPut(part.archived), nil
	}
	return func(ctx context.Context) error {
		err := place(g.opts.Dest, func(w io.Writer) error { return part.write(ctx, w) })
		if errors.Is(err, errArchivedNow) {
			return g.segmentPut(part.archived)(ctx)
		}
		if err == nil {
			g.log.InfoContext(ctx, "the segment is not archived; as much of it as was streamed is given", "file", g.opts.Name, "chunks", len(part.chunks))
		}
		return err
	}, nil
}

func zeros(w io.Writer, n int64) error {
	_, err := io.CopyN(w, zeroReader{}, n)
	return err
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// RemoveStreamed removes the chunks of a segment that is archived, of one
// incarnation, and gives how many there were. The caller has proved the latter.
func RemoveStreamed(ctx context.Context, r *repo.Repo, i repo.Incarnation, size pg.SegmentSize, n pg.SegmentNumber) (int, error) {
	chunks, err := r.Chunks(ctx, i, size, n)
	if err != nil {
		return 0, err
	}
	for _, c := range chunks {
		if err := r.Remove(ctx, c.Key); err != nil {
			return 0, err
		}
	}
	return len(chunks), nil
}

// orphanChunks is how long chunks are kept of WAL that the history in force
// left behind: a commit that a failover lost may be looked for in them.
const orphanChunks = 7 * 24 * time.Hour

// SweepStreamed removes the chunks that nobody needs any more: of segments that
// are archived themselves, and, after a week, of WAL that h left behind. It gives
// how many there were.
func SweepStreamed(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize) (removed int, err error) {
	incarnations, err := r.StreamIncarnations(ctx)
	if err != nil {
		return 0, err
	}
	for _, i := range incarnations {
		chunks, err := r.AllChunks(ctx, i, size)
		if err != nil {
			return removed, err
		}
		for len(chunks) > 0 {
			n := chunks[0].Segment.Number
			end := slices.IndexFunc(chunks, func(c repo.ChunkObject) bool { return c.Segment.Number != n })
			if end < 0 {
				end = len(chunks)
			}
			needless, err := needless(ctx, r, h, size, i, chunks[:end])
			if err != nil {
				return removed, err
			}
			for _, c := range chunks[:end] {
				if !needless {
					break
				}
				if err := r.Remove(ctx, c.Key); err != nil {
					return removed, err
				}
				removed++
			}
			chunks = chunks[end:]
		}
	}
	return removed, nil
}

// needless reports whether the chunks of one segment are of no more use: the
// archive proves to hold the segment, or, of an old orphan, the one that counts
// in its place.
func needless(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize, i repo.Incarnation, chunks []repo.ChunkObject) (bool, error) {
	n := chunks[0].Segment.Number
	own, ok := Ancestor(h, SegmentTimeline(h, size, n))
	if counts := repo.IncarnationOf(own); ok && counts != i {
		for _, c := range chunks {
			if time.Since(c.Object.Modified) < orphanChunks {
				return false, nil
			}
		}
		i = counts
	}
	l, err := locate(ctx, r, i, size, n)
	if err != nil || !l.found {
		return false, err
	}
	_, err = r.ReadWALHeader(ctx, l.object.Object.Key)
	return err == nil, err
}
