package catchup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
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
	block   uint32 // size of a page of WAL
	dir     string // pg_wal
}

func (l *LocalFacts) reader(r *repo.Repo, dir string) *walReader {
	return &walReader{r, l.History, l.control.SegmentSize, l.control.SystemID, l.control.WALBlockSize, filepath.Join(dir, "pg_wal")}
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
	why, err = w.backwards(ctx, begin, before, func(c checkpoint) bool {
		if c.Timeline == t {
			redo = c.Redo
		}
		return redo != 0
	})
	if redo == 0 && why == "" && err == nil {
		why = fmt.Sprintf("there is no checkpoint on timeline %s before %s", t, before)
	}
	return redo, why, err
}

// decidedBefore finds a redo point such that a page that was not changed since
// names no transaction that was in progress at a later position: those have
// begun after it.
//
// An online checkpoint names the oldest transaction with a number that was in
// progress before its redo point, a prepared one too, and the next number after
// it (CreateCheckPoint, xlog.c).
func (w *walReader) decidedBefore(ctx context.Context, before pg.LSN) (redo pg.LSN, why string, err error) {
	var oldest uint64 // that may have been in progress; 0: not known yet
	from := pg.LSN(0)
	if uint64(before) > searchAtMost {
		from = before - searchAtMost
	}
	why, err = w.backwards(ctx, from, before, func(c checkpoint) bool {
		if oldest == 0 {
			oldest = c.OldestActive
		}
		if oldest != 0 && c.NextXID <= oldest {
			redo = c.Redo
		}
		return redo != 0
	})
	if redo == 0 && why == "" && err == nil {
		why = fmt.Sprintf("no checkpoint from %s on is older than all transactions in progress at %s", from, before)
	}
	return redo, why, err
}

// searchAtMost is how many bytes of WAL are read to find a checkpoint that is
// older than all transactions in progress: beyond that, comparing pages is
// cheaper.
const searchAtMost = 4 << 30

// backwards gives the checkpoint records that start before a position, the last
// one first, until enough says so or the segment with from was read. why says
// that WAL on the way cannot be read.
func (w *walReader) backwards(ctx context.Context, from, before pg.LSN, enough func(checkpoint) bool) (why string, err error) {
	for n := w.size.SegmentBefore(before); ; n-- {
		found, err := w.checkpoints(ctx, w.size.Start(n), min(before, w.size.Start(n+1)))
		switch {
		case err != nil && unreadable(err) && ctx.Err() == nil:
			return fmt.Sprintf("WAL before %s cannot be read: %v", before, err), nil
		case err != nil:
			return "", err
		}
		for _, c := range slices.Backward(found) {
			if enough(c) {
				return "", nil
			}
		}
		if n == 0 || w.size.Start(n) <= from {
			return "", nil
		}
	}
}

// checkpoints gives the checkpoint records that start within a part of a
// segment.
func (w *walReader) checkpoints(ctx context.Context, from, to pg.LSN) (out []checkpoint, err error) {
	in := w.reader(from)
	defer in.Close() // opened for reading
	for {
		rec, err := in.Next(ctx)
		if err == io.EOF {
			if in.End() < to && errors.Is(in.Reason(), fs.ErrNotExist) {
				return out, in.Reason()
			}
			return out, nil
		}
		if err != nil || rec.Start >= to {
			return out, err
		}
		if c, ok := rec.Checkpoint(); ok && c.Redo <= to {
			out = append(out, checkpoint{rec.Start, c})
		}
	}
}
