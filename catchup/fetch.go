package catchup

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"

	"github.com/pgtender/pgtender/backup/repo"
)

// stageInPlace brings everything but pg_control to where it belongs.
func (r *runner) stageInPlace(ctx context.Context) error {
	s, err := readState(r.dir())
	if err == nil && s.Phase == phaseCommitting && s.Backup == r.plan.Backup.ID && s.Rung == r.plan.Choice {
		r.state = s
		return nil
	}
	d, err := r.converge(ctx)
	if r.tree != nil {
		defer r.tree.close()
	}
	if err != nil {
		return err
	}
	err = r.besideWAL(ctx, func(ctx context.Context) error { return r.fetchInPlace(ctx, d) })
	if err != nil {
		return err
	}
	return r.rest(ctx)
}

// fetchInPlace brings the pages and files that the directory lacks.
func (r *runner) fetchInPlace(ctx context.Context, d *delta) error {
	h := &hashes{runner: r, delta: d, entries: map[int64]repo.Entry{}, stored: r.manifest.PageHashes()}
	return r.bring(ctx, 0, func(ctx context.Context, j *journal, w *writer) iter.Seq2[repo.Read, error] {
		w.buffered.Store(true) // scattered pages are for the kernel to sort
		h.writer, h.journal = w, j
		reads := r.manifest.Locate(ctx, r.wantsInPlace(ctx, j, w, h))
		if r.plan.Choice != ByHashes {
			return reads
		}
		return h.filter(ctx, reads)
	})
}

// wantsInPlace goes through the backup's files, each directory before what lies
// in it.
func (r *runner) wantsInPlace(ctx context.Context, j *journal, w *writer, h *hashes) iter.Seq2[repo.Want, error] {
	return func(yield func(repo.Want, error) bool) {
		for e, err := range r.manifest.Entries(ctx) {
			var want *repo.Want
			if err == nil {
				want, err = r.wantInPlace(&e, j, w, h)
			}
			if err != nil {
				yield(repo.Want{}, err)
				return
			}
			if want != nil && !yield(*want, nil) {
				return
			}
		}
	}
}

// bring fetches what reads names, and writes, syncs and notes it.
func (r *runner) bring(ctx context.Context, total int64, reads func(context.Context, *journal, *writer) iter.Seq2[repo.Read, error]) error {
	j, err := openJournal(r.dir(), r.state.ID, r.tree)
	if err != nil {
		return err
	}
	w := newWriter(r.tree, r.plan.Backup.BlockSize, r.opts.Workers)
	if r.opts.Buffered {
		w.buffered.Store(true)
	}
	var wrote atomic.Int64
	w.wrote = func(n int) {
		wrote.Add(int64(n))
		r.meter.add(int64(n))
	}
	w.done = func(o *output) error {
		r.step("file")
		return j.add(item{number: o.entry.File, path: o.entry.Path, size: o.entry.Size})
	}
	r.meter.phase(PhaseFiles, total)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx = j.start(ctx)
	err = w.run(ctx, func(ctx context.Context) error {
		return r.manifest.Fetch(ctx, reads(ctx, j, w), repo.FetchOptions{Workers: r.opts.Workers}, w.write)
	})
	if err != nil {
		cancel()
	}
	if syncErr := j.finish(); syncErr != nil && !errors.Is(syncErr, context.Canceled) {
		err = syncErr // it ended the fetch, or came after it
	}
	err = errors.Join(err, j.close())
	r.result.Files += j.noted
	r.result.Bytes += wrote.Load()
	if err != nil {
		return fmt.Errorf("restore backup %s: %w", r.plan.Backup.ID, err)
	}
	r.step("fetched")
	if name := w.left(); name != "" {
		return fmt.Errorf("restore backup %s: %s is not whole, although the backup was read to its end", r.plan.Backup.ID, name)
	}
	return nil
}

// empty makes an empty file.
func (r *runner) empty(e *repo.Entry, j *journal) error {
	f, err := r.tree.create(e.Path, e.Mode)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("create %s: %w", e.Path, err)
	}
	return j.add(item{number: e.File, path: e.Path})
}
