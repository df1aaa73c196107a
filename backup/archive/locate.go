package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// ahead is how many segments behind the one asked for a listing looks at. They
// come with the same request.
const ahead = 256

// listing is what one request showed from a segment on.
type listing struct {
	object repo.WALObject   // the one that counts, if found
	found  bool             // the segment asked for is archived
	last   pg.SegmentNumber // up to which all segments were shown, if found
}

// locate finds the object that counts for a segment of one incarnation, by a
// listing of this segment alone.
func locate(ctx context.Context, r *repo.Repo, i repo.Incarnation, size pg.SegmentSize, n pg.SegmentNumber) (listing, error) {
	files, err := r.SegmentFiles(ctx, i, size, n)
	if err != nil {
		return listing{}, err
	}
	files = slices.DeleteFunc(files, func(o repo.WALObject) bool { return o.Key.WAL.Partial || o.Key.WAL.Backup })
	l := listing{last: n}
	l.object, l.found = authoritative(files)
	return l, nil
}

// lookAhead is locate by a listing from the segment on, which also shows how
// far the archive goes without a hole.
func lookAhead(ctx context.Context, r *repo.Repo, i repo.Incarnation, size pg.SegmentSize, n pg.SegmentNumber) (listing, error) {
	var same []repo.WALObject
	l, past := listing{last: n}, false
	for o, err := range r.Segments(ctx, i, size, n) {
		if err != nil && past {
			break // all of the segment itself has been seen
		}
		if err != nil {
			return listing{}, err
		}
		past = past || o.Segment.Number > n
		switch {
		case o.Key.WAL.Partial || o.Key.WAL.Backup:
		case o.Segment.Number == n:
			same = append(same, o)
		case o.Segment.Number == l.last+1:
			l.last++
		}
		if o.Segment.Number > l.last+1 || l.last >= n+ahead {
			break
		}
	}
	l.object, l.found = authoritative(same)
	return l, nil
}

// authoritative chooses among the objects of one segment: one that a proved
// leader stored beside the first, else the first; of several beside it the
// latest by the store's clock, for leaders follow one another.
func authoritative(same []repo.WALObject) (repo.WALObject, bool) {
	if len(same) == 0 {
		return repo.WALObject{}, false
	}
	best := same[0]
	for _, o := range same[1:] {
		switch {
		case o.Conflicting() != best.Conflicting():
			if o.Conflicting() {
				best = o
			}
		case o.Object.Modified.After(best.Object.Modified):
			best = o
		}
	}
	return best, true
}

// Source gives the archived segments of one history to readers of WAL. It
// implements [wal.Source]: a segment that is not archived is an
// [fs.ErrNotExist], a damaged object a [repo.ErrCorrupt]. A segment is verified
// whole before it is handed out, and kept in memory, or in an unlinked
// temporary file where segments are larger than 64 MiB. It holds no state.
type Source struct {
	Repo        *repo.Repo
	History     pg.History
	SegmentSize pg.SegmentSize
	TempDir     string // for temporary files; "" means os.TempDir
	// Streamed gives a segment that is not archived as far as it was streamed.
	Streamed bool
}

// Open gives segment n from the timeline that the history takes it from.
func (s *Source) Open(ctx context.Context, n pg.SegmentNumber) (wal.File, pg.Timeline, error) {
	t := SegmentTimeline(s.History, s.SegmentSize, n)
	own, _ := Ancestor(s.History, t)
	l, err := locate(ctx, s.Repo, repo.IncarnationOf(own), s.SegmentSize, n)
	if err != nil {
		return nil, 0, err
	}
	if !l.found && s.Streamed {
		f, err := s.streamed(ctx, repo.IncarnationOf(own), n)
		if f != nil || err != nil {
			return f, t, err
		}
	}
	if !l.found {
		name := pg.Segment{Timeline: t, Number: n}.Name(s.SegmentSize)
		return nil, 0, fmt.Errorf("read segment %s from the archive: %w", name, fs.ErrNotExist)
	}
	f, err := s.listed(ctx, l.object.Object.Key)
	return f, t, err
}

// listed gives an archived segment that a listing has shown: should it be gone,
// that is no end of WAL.
func (s *Source) listed(ctx context.Context, key string) (wal.File, error) {
	f, err := s.archived(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s was listed, and is gone: %v", key, err)
	}
	return f, err
}

const maxSourceMemory = 64 << 20

// archived gives an archived segment.
func (s *Source) archived(ctx context.Context, key string) (wal.File, error) {
	return s.read(func(w io.Writer) error {
		_, err := s.Repo.ReadWAL(ctx, key, w)
		return err
	})
}

// streamed gives a segment that is not archived as far as it was streamed, nil
// if nothing was.
func (s *Source) streamed(ctx context.Context, i repo.Incarnation, n pg.SegmentNumber) (wal.File, error) {
	part, err := lookStreamed(ctx, s.Repo, i, s.SegmentSize, n)
	if err != nil || part == nil {
		return nil, err
	}
	if part.archived == "" {
		f, err := s.read(func(w io.Writer) error { return part.write(ctx, w) })
		if part.archived == "" {
			return f, err
		}
	}
	return s.listed(ctx, part.archived)
}

// read keeps what write writes.
func (s *Source) read(write func(io.Writer) error) (wal.File, error) {
	if s.SegmentSize <= maxSourceMemory {
		var b bytes.Buffer
		b.Grow(int(s.SegmentSize))
		if err := write(&b); err != nil {
			return nil, err
		}
		return memoryFile{bytes.NewReader(b.Bytes())}, nil
	}
	f, err := os.CreateTemp(s.TempDir, "pgtender-wal-*")
	if err != nil {
		return nil, err
	}
	err = os.Remove(f.Name())
	if err == nil {
		err = write(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// memoryFile is a file in memory.
type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error { return nil }

var _ wal.Source = (*Source)(nil)
