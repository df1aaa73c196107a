package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// Told says what told the changes since the parent's start. Its JSON keys are
// stable.
type Told struct {
	Segments  int   `json:"segments,omitempty"`    // archived, of which headers and block maps were read
	Indexes   int   `json:"indexes,omitempty"`     // index objects that stood for many of them
	LocalWAL  int64 `json:"local_bytes,omitempty"` // of the source's own pg_wal that were read
	Summaries int   `json:"summaries,omitempty"`   // of the server's own WAL summaries
}

// tracker finds out which blocks WAL changed along one history.
type tracker struct {
	repo    *repo.Repo
	history pg.History
	size    pg.SegmentSize
	dataDir string       // of the source
	conn    *server.Conn // with the source
}

// changes gives the blocks that WAL from from to before to changed. What the
// archive does not know is looked up in the source's own pg_wal, and then in
// the server's WAL summaries. gap says what none of them knows; the map is then
// of no use.
func (k *tracker) changes(ctx context.Context, from, to pg.LSN) (m *wal.BlockMap, told Told, gap, err error) {
	m = new(wal.BlockMap)
	var gaps [3]error
	for at := from; at < to; {
		before := at
		for i, source := range []func(context.Context, *wal.BlockMap, *Told, pg.LSN, pg.LSN) (pg.LSN, error, error){
			k.archived, k.local, k.summarized,
		} {
			if at >= to {
				break
			}
			if at, gaps[i], err = source(ctx, m, &told, at, to); err != nil {
				return nil, told, nil, err
			}
		}
		if at == before {
			return nil, told, fmt.Errorf("WAL from %s on: %w", at, errors.Join(gaps[:]...)), nil
		}
	}
	return m, told, nil, nil
}

// archived adds what the archive knows.
func (k *tracker) archived(ctx context.Context, m *wal.BlockMap, told *Told, at, to pg.LSN) (until pg.LSN, gap, err error) {
	changed, done, err := archive.Changes(ctx, k.repo, k.history, k.size, at, to)
	if err != nil {
		return at, nil, err
	}
	m.Merge(changed)
	told.Segments += done.Segments
	told.Indexes += done.Indexes
	if done.Fault != nil {
		gap = done.Fault
	}
	return done.Until, gap, nil
}

// ownWAL gives the segments of the source's pg_wal. The one in which reading
// begins may be gone from there just because it is archived, while a record that
// begins in it goes on in the next one, which is not: that one is read from the
// archive.
type ownWAL struct {
	dir      wal.Dir
	archived archive.Source
	first    pg.SegmentNumber
}

// Open implements wal.Source.
func (s *ownWAL) Open(ctx context.Context, n pg.SegmentNumber) (wal.File, pg.Timeline, error) {
	f, t, err := s.dir.Open(ctx, n)
	if n != s.first || !errors.Is(err, fs.ErrNotExist) {
		return f, t, err
	}
	return s.archived.Open(ctx, n)
}

// local adds what the source's own pg_wal says. It is read record by record,
// as recovery would, so only a record that starts at to or later proves that
// nothing before it is missing.
func (k *tracker) local(ctx context.Context, m *wal.BlockMap, told *Told, at, to pg.LSN) (until pg.LSN, gap, err error) {
	dir := wal.Dir{Path: filepath.Join(k.dataDir, "pg_wal"), History: k.history, SegmentSize: k.size}
	own := &ownWAL{dir, archive.Source{Repo: k.repo, History: k.history, SegmentSize: k.size}, k.size.SegmentOf(at)}
	r := wal.NewReader(own, at, wal.ReaderOptions{History: k.history, SegmentSize: k.size, SystemID: k.repo.Cluster().SystemID})
	defer r.Close() // opened for reading
	defer func() { told.LocalWAL += int64(until - at) }()
	for until = at; ; until = r.End() {
		rec, err := r.Next(ctx)
		switch {
		case err == io.EOF:
			return until, fmt.Errorf("pg_wal of the source: %w", r.Reason()), nil
		case errors.Is(err, fs.ErrPermission), errors.Is(err, repo.ErrCorrupt):
			return until, err, nil
		case err != nil:
			return until, nil, fmt.Errorf("read pg_wal of the source: %w", err)
		case rec.Start >= to:
			return to, nil, nil
		}
		flags, err := m.Record(rec)
		if err != nil {
			return until, fmt.Errorf("pg_wal of the source: record at %s: %w", rec.Start, err), nil
		}
		if flags.BreaksChain() {
			return until, fmt.Errorf("pg_wal of the source: record at %s: %s", rec.Start, flags), nil
		}
	}
}
