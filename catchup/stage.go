package catchup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// stage brings everything to where it belongs, but for the names at the top of
// the data directory: they are below the stage still.
func (r *runner) stage(ctx context.Context) (err error) {
	if r.tree, err = openTree(r.plan); err != nil {
		return err
	}
	defer r.tree.close()
	if err := r.fetch(ctx); err != nil {
		return err
	}
	if err := r.fetchWAL(ctx); err != nil {
		return err
	}
	r.meter.phase(PhaseFinishing, 0)
	if err := r.finish(); err != nil {
		return err
	}
	return r.tree.syncDirs()
}

// fetch brings the files of the backup.
func (r *runner) fetch(ctx context.Context) error {
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
		return j.add(item{o.entry.File, o.entry.Path, o.entry.Size})
	}
	r.meter.phase(PhaseFiles, r.plan.Backup.Bytes)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx = j.start(ctx)
	err = w.run(ctx, func(ctx context.Context) error {
		return r.manifest.Fetch(ctx, r.manifest.Locate(ctx, r.wants(ctx, j, w)), repo.FetchOptions{Workers: r.opts.Workers}, w.write)
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
	if name := w.left(); name != "" {
		return fmt.Errorf("restore backup %s: %s is not whole, although the backup was read to its end", r.plan.Backup.ID, name)
	}
	return nil
}

// wants goes through the backup's files. Directories and empty files are made
// on the way, each before what lies in it; what an earlier run has finished is
// passed over.
func (r *runner) wants(ctx context.Context, j *journal, w *writer) iter.Seq2[repo.Want, error] {
	return func(yield func(repo.Want, error) bool) {
		for e, err := range r.manifest.Entries(ctx) {
			if err == nil {
				var wanted bool
				if wanted, err = r.want(&e, j, w); err == nil && !wanted {
					continue
				}
			}
			if !yield(repo.Want{Tag: int64(e.File), Entry: e}, err) || err != nil {
				return
			}
		}
	}
}

// want reports whether the content of an entry is to be fetched.
func (r *runner) want(e *repo.Entry, j *journal, w *writer) (bool, error) {
	switch {
	case slices.Contains(strings.Split(e.Path, "/"), workName):
		return false, nil // of a restore of the source, which was a member once
	case e.Dir:
		return false, r.tree.mkdir(e.Path, e.Mode)
	case isSignal(e.Path):
		return false, nil
	case j.done[e.File] && r.tree.size(e.Path) == e.Size:
		r.meter.add(e.Size)
		r.result.Resumed++
		return false, nil
	}
	if e.Size == 0 {
		f, err := r.tree.create(e.Path, e.Mode)
		if err != nil {
			return false, err
		}
		if err := f.Close(); err != nil {
			return false, fmt.Errorf("create %s: %w", e.Path, err)
		}
		return false, j.add(item{e.File, e.Path, 0})
	}
	return true, w.add(*e)
}

// ownHead reports whether the long page header of a segment file is that of
// the segment that the name says: the page's address, at offset 8, is the
// segment's first (XLogLongPageHeaderData, xlog_internal.h).
func ownHead(name string, head []byte) bool {
	size := pg.SegmentSize(binary.LittleEndian.Uint32(head[32:]))
	if !size.Valid() {
		return false
	}
	seg, err := pg.ParseSegment(name, size)
	return err == nil && pg.LSN(binary.LittleEndian.Uint64(head[8:])) == size.Start(seg.Number)
}
