package archive

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// AheadOptions say how much of a backlog is archived with the segment that
// PostgreSQL asks for. The zero value archives nothing else.
type AheadOptions struct {
	Segments int   // at most this many further ones
	Bytes    int64 // of them together
	Workers  int   // at the same time, the one asked for included; 0 means 1
	// Time is how long further ones are begun; 0 means ten seconds. It bounds
	// how much later than needed the archiver gets its answer.
	Time time.Duration
	// NotesFile remembers what was archived from one process to the next; "":
	// nothing is remembered. Its directory must exist.
	NotesFile string
}

const defaultAheadTime = 10 * time.Second

// PushAhead is [Push] of a file, and at the same time of the segments that
// follow it and wait in archive_status, for PostgreSQL offers one after the
// other. It gives the result of the file it was asked for alone: what fails ahead
// is offered again. When a later call asks for a segment that was archived
// ahead, one small request and a look at the content confirm it.
func PushAhead(ctx context.Context, r *repo.Repo, opts PushOptions, ahead AheadOptions) (PushResult, error) {
	name := filepath.Base(opts.Path)
	noted := slices.Contains(readNotes(ahead.NotesFile), name)
	opts.Expected = opts.Expected || noted
	var behind []string
	if !opts.Expected {
		behind = Waiting(opts.walDir(), name, ahead)
	}
	if len(behind) == 0 {
		result, err := Push(ctx, r, opts)
		if err == nil && !noted {
			remember(ctx, &opts, ahead.NotesFile, result.Name)
		}
		return result, err
	}
	if opts.CheckOwner != nil {
		opts.CheckOwner = once(ctx, opts.CheckOwner)
	}
	return pushBatch(ctx, r, opts, behind, ahead)
}

// pushBatch pushes a file and those behind it.
func pushBatch(ctx context.Context, r *repo.Repo, opts PushOptions, behind []string, ahead AheadOptions) (PushResult, error) {
	limit := ahead.Time
	if limit == 0 {
		limit = defaultAheadTime
	}
	until := time.Now().Add(limit)
	opts.Pacer, opts.Recent = new(Pacer), new(Recent)
	opts.Pacer.Look(opts.walDir(), filepath.Base(opts.Path))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(max(1, ahead.Workers))
	var result PushResult
	var resultErr error
	g.Go(func() error {
		if result, resultErr = Push(ctx, r, opts); resultErr != nil {
			cancel() // what it failed for most likely keeps the others from succeeding too
		}
		return nil
	})
	var mu sync.Mutex
	var archived []string
	for _, name := range behind {
		if ctx.Err() != nil || time.Now().After(until) {
			break
		}
		g.Go(func() error {
			o := opts
			o.Path, o.Assist = filepath.Join(filepath.Dir(opts.Path), name), true
			_, err := Push(ctx, r, o)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				archived = append(archived, name)
			case opts.Log != nil:
				opts.Log.DebugContext(ctx, "not archived ahead; PostgreSQL will offer it", "file", name, "error", err)
			}
			return nil
		})
	}
	g.Wait() // always nil
	if resultErr == nil {
		archived = append(archived, result.Name)
	}
	remember(ctx, &opts, ahead.NotesFile, archived...)
	return result, resultErr
}

func remember(ctx context.Context, opts *PushOptions, path string, names ...string) {
	if err := note(path, names...); err != nil && opts.Log != nil {
		opts.Log.DebugContext(ctx, "what was archived cannot be noted", "file", path, "error", err)
	}
}

// once asks one time, for as long as ctx lasts, and gives everybody the answer.
func once(ctx context.Context, ask func(context.Context) error) func(context.Context) error {
	answer := sync.OnceValue(func() error { return ask(ctx) })
	return func(context.Context) error { return answer() }
}

// Waiting names the segments that follow the one of that name and that the
// archiver will offer next: those of the same timeline without a gap.
func Waiting(walDir, name string, most AheadOptions) []string {
	info, err := os.Stat(filepath.Join(walDir, name))
	if err != nil || !pg.SegmentSize(info.Size()).Valid() {
		return nil
	}
	size := pg.SegmentSize(info.Size())
	seg, err := pg.ParseSegment(name, size)
	if err != nil {
		return nil
	}
	var out []string
	for len(out) < most.Segments && int64(len(out)+1)*int64(size) <= most.Bytes {
		seg.Number++
		next := seg.Name(size)
		if _, err := os.Stat(filepath.Join(walDir, "archive_status", next+".ready")); err != nil {
			break
		}
		out = append(out, next)
	}
	return out
}
