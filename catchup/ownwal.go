package catchup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// walReader reads WAL of one history: from pg_wal, and what is not there from
// the archive.
type walReader struct {
	repo    *repo.Repo
	history pg.History
	size    pg.SegmentSize
	system  pg.SystemID
	dir     string // pg_wal
}

func (l *LocalFacts) reader(r *repo.Repo, dir string) *walReader {
	return &walReader{r, l.History, l.control.SegmentSize, l.control.SystemID, filepath.Join(dir, "pg_wal")}
}

// along gives the same reader for another history.
func (w *walReader) along(h pg.History) *walReader {
	o := *w
	o.history = h
	return &o
}

// Open implements wal.Source.
func (w *walReader) Open(ctx context.Context, n pg.SegmentNumber) (wal.File, pg.Timeline, error) {
	f, t, err := wal.Dir{Path: w.dir, History: w.history, SegmentSize: w.size}.Open(ctx, n)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, t, err
	}
	return (&archive.Source{Repo: w.repo, History: w.history, SegmentSize: w.size}).Open(ctx, n)
}

func (w *walReader) reader(from pg.LSN) *wal.Reader {
	return wal.NewReader(w, from, wal.ReaderOptions{History: w.history, SegmentSize: w.size, SystemID: w.system})
}

// unreadable reports whether an error says that WAL is not what it should be,
// and not that it could not be looked at.
func unreadable(err error) bool {
	return errors.Is(err, wal.ErrCorrupt) || errors.Is(err, wal.ErrForeign) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, repo.ErrCorrupt) || errors.Is(err, wal.ErrCut)
}

// ownWAL is what a directory's own WAL from a position on says.
type ownWAL struct {
	from, end   pg.LSN
	changes     *wal.BlockMap
	checkpoints []checkpoint
	commits     []commit
	// parameters says that a record in it tells of changed settings, of which
	// wal_log_hints may be one.
	parameters bool
	why        string // why changes may be missing, "" if not
}

type checkpoint struct {
	at pg.LSN
	wal.Checkpoint
}

type commit struct {
	at pg.LSN
	// seconds since 1970, for there may be many
	time int64
}

// read reads all records from a position to the end of valid WAL, or, if it is
// bounded, to an end that is known.
func (w *walReader) read(ctx context.Context, from pg.LSN, bounded bool, to pg.LSN) (*ownWAL, error) {
	o := &ownWAL{from: from, end: from, changes: new(wal.BlockMap)}
	in := w.reader(from)
	defer in.Close() // opened for reading
	for {
		rec, err := in.Next(ctx)
		if err == io.EOF {
			break
		}
		if unreadable(err) && ctx.Err() == nil {
			o.why = fmt.Sprintf("its WAL cannot be read: %v", err)
			return o, nil
		}
		if err != nil {
			return nil, err
		}
		if bounded && rec.Start >= to {
			return o, nil
		}
		if err := o.take(rec); err != nil {
			o.why = fmt.Sprintf("its WAL is not understood: %v", err)
			return o, nil
		}
	}
	if bounded && o.end < to {
		o.why = fmt.Sprintf("its WAL ends at %s, before %s: %v", o.end, to, in.Reason())
	}
	return o, nil
}

const (
	rmgrXLOG            = 0
	xlogParameterChange = 0x60 // XLOG_PARAMETER_CHANGE, catalog/pg_control.h
)

// take notes one record.
func (o *ownWAL) take(rec *wal.Record) error {
	flags, err := o.changes.Record(rec)
	if err != nil {
		return err
	}
	if flags.BreaksChain() {
		return fmt.Errorf("the record at %s may change what it does not name (%s)", rec.Start, flags)
	}
	o.end = rec.End
	if c, ok := rec.Checkpoint(); ok {
		o.checkpoints = append(o.checkpoints, checkpoint{rec.Start, c})
	}
	if t, ok := rec.TransactionEnd(); ok && t.Commit {
		o.commits = append(o.commits, commit{rec.Start, t.Time.Unix()})
	}
	if rec.Rmgr == rmgrXLOG && rec.Info&0xf0 == xlogParameterChange {
		o.parameters = true
	}
	return nil
}

// lost counts what lies past the fork.
func (o *ownWAL) lost(l *LocalFacts) *Lost {
	out := &Lost{Timeline: l.Timeline, From: l.Fork, To: o.end}
	if o.from > l.Fork {
		out.Uncounted = fmt.Sprintf("commits before %s were not counted", o.from)
	}
	for _, c := range o.commits {
		if c.at < l.Fork {
			continue
		}
		out.Commits++
		at := time.Unix(c.time, 0).UTC()
		if out.First.IsZero() || at.Before(out.First) {
			out.First = at
		}
		if at.After(out.Last) {
			out.Last = at
		}
	}
	return out
}

// changes gives what WAL of the reader's history changed from one position to
// another. why says that it is not known.
func (w *walReader) changes(ctx context.Context, from, to pg.LSN) (m *wal.BlockMap, why string, err error) {
	m, done, err := archive.Changes(ctx, w.repo, w.history, w.size, from, to)
	if err != nil {
		return nil, "", err
	}
	if done.Complete() {
		return m, "", nil
	}
	// What is not archived, or not with a map, may lie in pg_wal.
	rest, err := w.read(ctx, done.Until, true, to)
	if err != nil {
		return nil, "", err
	}
	if rest.why != "" {
		return nil, fmt.Sprintf("what changed from %s to %s on timeline %s is not known: %v; and in pg_wal: %s", from, to, w.history.Timeline, done.Fault, rest.why), nil
	}
	m.Merge(rest.changes)
	return m, "", nil
}

// checkpointBefore finds the last checkpoint record of a timeline that starts
// before a position, reading backwards a segment at a time.
func (w *walReader) checkpointBefore(ctx context.Context, t pg.Timeline, before pg.LSN) (redo pg.LSN, why string, err error) {
	begin, _ := w.history.Begin(t)
	for n := w.size.SegmentBefore(before); ; n-- {
		found, err := w.lastCheckpoint(ctx, t, w.size.Start(n), min(before, w.size.Start(n+1)))
		switch {
		case err != nil && unreadable(err) && ctx.Err() == nil:
			return 0, fmt.Sprintf("WAL before %s cannot be read: %v", before, err), nil
		case err != nil:
			return 0, "", err
		case found != 0:
			return found, "", nil
		case n == 0 || w.size.Start(n) <= begin:
			return 0, fmt.Sprintf("there is no checkpoint on timeline %s before %s", t, before), nil
		}
	}
}

// lastCheckpoint gives the redo point of the last checkpoint record of t that
// starts within a part of a segment, 0 if there is none.
func (w *walReader) lastCheckpoint(ctx context.Context, t pg.Timeline, from, to pg.LSN) (redo pg.LSN, err error) {
	in := w.reader(from)
	defer in.Close() // opened for reading
	for {
		rec, err := in.Next(ctx)
		if err == io.EOF {
			if in.End() < to && errors.Is(in.Reason(), fs.ErrNotExist) {
				return redo, in.Reason()
			}
			return redo, nil
		}
		if err != nil || rec.Start >= to {
			return redo, err
		}
		if c, ok := rec.Checkpoint(); ok && c.Timeline == t && c.Redo <= to {
			redo = c.Redo
		}
	}
}
