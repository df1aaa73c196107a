package catchup

import (
	"context"
	"iter"

	"github.com/pgtender/pgtender/backup/repo"
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
	return r.rest(ctx)
}

// rest brings what is not a file of the backup.
func (r *runner) rest(ctx context.Context) error {
	if err := r.fetchWAL(ctx); err != nil {
		return err
	}
	r.step("WAL")
	r.meter.phase(PhaseFinishing, 0)
	if err := r.finish(); err != nil {
		return err
	}
	r.step("finished")
	return r.tree.syncDirs()
}

// fetch brings the files of the backup.
func (r *runner) fetch(ctx context.Context) error {
	return r.bring(ctx, r.plan.Backup.Bytes, func(ctx context.Context, j *journal, w *writer) iter.Seq2[repo.Read, error] {
		return r.manifest.Locate(ctx, r.wants(ctx, j, w))
	})
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
	case notRestored(e.Path):
		return false, nil
	case e.Dir:
		return false, r.tree.mkdir(e.Path, e.Mode)
	case j.done[e.File] && r.tree.size(e.Path) == e.Size:
		r.meter.add(e.Size)
		r.result.Resumed++
		return false, nil
	}
	if e.Size == 0 {
		return false, r.empty(e, j)
	}
	return true, w.add(*e)
}
