package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

// ErrAbsent means that a file is proved not to be in the archive, as far as the
// reader's history reaches: the store answered. No other error does.
var ErrAbsent = errors.New("not in the archive")

// AbsentError is an ErrAbsent with what was looked for.
type AbsentError struct {
	Name   string
	Reason string
}

func (e *AbsentError) Error() string {
	return fmt.Sprintf("%s is not in the archive: %s", e.Name, e.Reason)
}

// Is reports true for ErrAbsent.
func (e *AbsentError) Is(target error) bool { return target == ErrAbsent }

// GetOptions say what to fetch. Name, Dest and Lineage are required.
type GetOptions struct {
	Name string // as restore_command's %f has it
	Dest string // as %p has it: relative to the working directory, or absolute
	// Lineage gives the history that the reader follows, see [ResolveLineage].
	Lineage func(context.Context) (pg.History, error)
	// SegmentSize is the cluster's; 0: the archive tells.
	SegmentSize pg.SegmentSize
	// Standby says that standby.signal is in force, see [GetPolicy].
	Standby bool
	// SeenFile keeps what the last good listing showed, between processes; ""
	// forgets it. Its directory must exist.
	SeenFile string

	Log *slog.Logger // nil discards
}

// Get puts one archived file at Dest, replacing what is there. The content is
// verified whole before it gets its name, so Dest holds an intact file or what
// it held before.
//
// A file that the archive has, but not on the reader's history, is absent: a
// segment of an old timeline that holds or lies past the point where the
// history left it, and the history of a timeline that is neither an ancestor
// nor a descendant. Of a segment that was archived twice with different content
// the proved leader's is given.
//
// nil is success, [ErrAbsent] is absence proved, and every other error is
// neither: the store did not answer in the time that GetPolicy allows, or the
// object is damaged ([repo.ErrCorrupt], which names object and offset).
func Get(ctx context.Context, r *repo.Repo, opts GetOptions) error {
	g := &getter{repo: r, opts: opts, log: opts.Log}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	name, err := repo.ParseWALName(opts.Name)
	if err != nil {
		return &AbsentError{opts.Name, "no file of this name is ever archived"}
	}
	if g.seen, err = readSeen(opts.SeenFile); err != nil {
		g.log.DebugContext(ctx, "last listing cannot be read", "file", opts.SeenFile, "error", err)
	}
	if err := g.patiently(ctx, name); err != nil {
		return fmt.Errorf("fetch %s: %w", opts.Name, err)
	}
	return nil
}

type getter struct {
	repo  *repo.Repo
	opts  GetOptions
	log   *slog.Logger
	seen  seen
	shown bool // a listing showed the file
}

// patiently tries until there is an answer or patience ends.
func (g *getter) patiently(ctx context.Context, name repo.WALName) error {
	start, damaged := time.Now(), false
	for attempt := 0; ; attempt++ {
		err := g.attempt(ctx, name, start)
		switch {
		case err == nil || errors.Is(err, ErrAbsent) || ctx.Err() != nil:
			return err
		case errors.Is(err, repo.ErrCorrupt):
			// Once more, for it may have been the way here.
			if damaged {
				return err
			}
			damaged = true
		case permanent(err):
			return err
		}
		policy, pause := GetPolicy(g.opts.Standby, g.shown), backoff(attempt)
		if time.Since(start)+pause >= policy.Retry {
			return err
		}
		g.log.WarnContext(ctx, "no answer from the archive, trying again", "file", g.opts.Name, "error", err, "until", policy.Retry, "because", policy.Reason)
		select {
		case <-ctx.Done():
			return storage.ContextError(ctx)
		case <-time.After(pause):
		}
	}
}

// permanent reports whether trying again is of no use.
func permanent(err error) bool {
	var ambiguous *AmbiguousError
	var local *localError
	return errors.As(err, &ambiguous) || errors.As(err, &local) || errors.Is(err, ErrNoHistory) || !storage.Retryable(err)
}

// localError is a failure on this machine: the store is not to blame.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// attempt finds the file and, if it is there, fetches it. Each part ends with
// the policy's time, so that a call that hangs does not use up more than a
// failing one may.
func (g *getter) attempt(ctx context.Context, name repo.WALName, start time.Time) error {
	var put func(context.Context) error
	err := g.within(ctx, start, func(ctx context.Context) (err error) {
		put, err = g.find(ctx, name)
		return err
	})
	if err != nil {
		return err
	}
	err = g.within(ctx, start, put)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("it was listed, and is gone: %v", err) // which proves nothing
	}
	return err
}

func (g *getter) within(ctx context.Context, start time.Time, f func(context.Context) error) error {
	retry := GetPolicy(g.opts.Standby, g.shown).Retry
	limited, cancel := context.WithDeadlineCause(ctx, start.Add(retry), fmt.Errorf("no answer within %s", retry))
	defer cancel()
	return f(limited)
}

// find looks for the file and gives what puts it at its destination.
func (g *getter) find(ctx context.Context, name repo.WALName) (func(context.Context) error, error) {
	h, err := g.opts.Lineage(ctx)
	if err != nil {
		return nil, fmt.Errorf("find the history to follow: %w", err)
	}
	if name.History != 0 {
		return g.findHistory(ctx, h, name.History)
	}
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
	l, err := locate(ctx, g.repo, i, size, seg.Number)
	if err != nil {
		return nil, err
	}
	if !l.found {
		g.shown = false
		return nil, &AbsentError{g.opts.Name, fmt.Sprintf("it is not archived for timeline %s", i)}
	}
	g.shown = true
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

// findHistory finds the history file of timeline t: the one of h's own line, or
// of a timeline that descends from h.
func (g *getter) findHistory(ctx context.Context, h pg.History, t pg.Timeline) (func(context.Context) error, error) {
	if own, ok := Ancestor(h, t); ok {
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
		if ServesHistory(h, o) {
			return g.contentPut(content), nil
		}
	}
	return nil, &AbsentError{g.opts.Name, fmt.Sprintf("no archived timeline %s is of one line with timeline %s", t, h.Timeline)}
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

// place writes a file beside dest and gives it its name once write has
// returned nil. It is not synced: PostgreSQL syncs what it keeps of a restored
// segment (KeepFileRestoredFromArchive, xlogarchive.c), and fetches the rest
// again after a crash.
func place(dest string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(dest), "."+filepath.Base(dest)+".*.pgtender-tmp")
	if err != nil {
		return &localError{storage.NotAbsence(err)}
	}
	w := &localWriter{f: f}
	err = write(w)
	if err == nil {
		err = w.check(f.Chmod(0o600)) // as PostgreSQL's own, whatever the umask
	}
	if closeErr := f.Close(); err == nil {
		err = w.check(closeErr)
	}
	if err == nil {
		err = w.check(os.Rename(f.Name(), dest))
	}
	if err != nil {
		return errors.Join(err, w.check(os.Remove(f.Name())))
	}
	return nil
}

// localWriter marks its own failures, a full disk above all, so that nobody
// waits for the store to mend them.
type localWriter struct{ f *os.File }

func (w *localWriter) Write(b []byte) (int, error) {
	n, err := w.f.Write(b)
	return n, w.check(err)
}

func (w *localWriter) check(err error) error {
	if err == nil {
		return nil
	}
	return &localError{storage.NotAbsence(err)}
}
