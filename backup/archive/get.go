package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/finding"
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
	Lineage func(context.Context) (Lineage, error)
	// SegmentSize is the cluster's; 0: the archive tells.
	SegmentSize pg.SegmentSize
	// Standby says that standby.signal is in force, see [GetPolicy].
	Standby bool
	// Streamed gives a segment that is not archived as far as receive has
	// streamed it, with zeros behind. That is for a recovery which ends where
	// WAL ends; a standby never gets one, whatever is said here.
	Streamed bool
	// SeenFile keeps what the last good listing showed, between processes; ""
	// forgets it. Its directory must exist.
	SeenFile string
	// More is called, once, when the segment is found and more are archived
	// behind it, before it is fetched; nil: nobody wants to know.
	More func()

	Log *slog.Logger // nil discards
}

// Get puts one archived file at Dest, replacing what is there. The content is
// verified whole before it gets its name, so Dest holds an intact file or what
// it held before.
//
// A file that the archive has, but not on the reader's history, is absent: a
// segment of an old timeline that holds or lies past the point where the
// history left it, and the history of a timeline of another branch, see
// [ServesHistory]. Of a segment that was archived twice with different content
// the proved leader's is given.
//
// nil is success, [ErrAbsent] is absence proved, and every other error is
// neither: the store did not answer in the time that GetPolicy allows, the
// object is damaged ([repo.ErrCorrupt], which names object and offset), or Name
// is none that a file can be archived under ([ErrNotArchivable]).
func Get(ctx context.Context, r *repo.Repo, opts GetOptions) error {
	g := &getter{repo: r, opts: opts, log: opts.Log}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	name, err := repo.ParseWALName(opts.Name)
	if err != nil {
		// %p for %f is a mistake that absence would hide: recovery would end here.
		return finding.WithHint(fmt.Errorf("fetch %s: %w", opts.Name, ErrNotArchivable), "restore_command must pass %%f and %%p in this order, as in: pgtender archive-get %%f %%p")
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
		if errors.Is(err, repo.ErrCorrupt) {
			g.log.WarnContext(ctx, "what came is damaged, fetching it once more", "file", g.opts.Name, "error", err)
		} else {
			g.log.WarnContext(ctx, "no answer from the archive, trying again", "file", g.opts.Name, "error", err, "until", policy.Retry, "because", policy.Reason)
		}
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
