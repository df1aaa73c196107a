package catchup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// A run that converges old data does it in this order:
//
//	changes   .pgtender/changes: the pages that count as changed, the files that grow
//	state     .pgtender/state.json names the run, its backup and the lower bound
//	park      pg_control goes to .pgtender: from here on no server starts
//	prune     what the backup does not have is removed
//	fetch     pages and files, synced and noted in .pgtender/journal; meanwhile WAL
//	          that only this data has is saved, and then pg_wal and its kin emptied
//	WAL, finish, commit    as in a restore
//
// A kill before the state leaves a data directory as it was. One between state
// and park too, if no server runs; if one does, its pg_control differs from the
// one that the state knows, and the plan is made anew. From then on the next run
// goes on with the same backup and the same changes: nothing in the directory
// could tell them any more.

// at gives the path of something that will be in the data directory.
func (r *runner) at(name string) string {
	if r.plan.Choice == ByReplay || r.plan.Choice.inPlace() {
		return dataPath(r.dir(), name)
	}
	return stagePath(r.dir(), name)
}

// ErrDoubt means that the directory is not what block maps, or the notes of an
// interrupted run, make of it. Page hashes do not rest on either.
var ErrDoubt = errors.New("block maps cannot be gone by")

func doubt(err error) error {
	return finding.WithHint(fmt.Errorf("%w: %w", ErrDoubt, err), "converge by page hashes instead, or restore in full")
}

// converge makes the directory ready to be written to, and gives what it lacks.
func (r *runner) converge(ctx context.Context) (*delta, error) {
	s, err := readState(r.dir())
	switch {
	case err == nil && s.Phase == phaseConverging && s.Rung == r.plan.Choice && s.Backup == r.plan.Backup.ID && samePlaces(s.Places, r.plan.Places):
		r.log.InfoContext(ctx, "an interrupted run goes on", "way", string(s.Rung), "backup", s.Backup)
		r.state = s
		r.state.Purpose, r.state.Target = r.plan.Purpose, r.plan.Target
		err = r.state.write(r.dir())
	case err == nil && s.Rung.inPlace() && r.plan.Choice == ByHashes, errors.Is(err, fs.ErrNotExist):
		r.state = s // if another way was begun
		if err = r.checkBound(ctx); err == nil {
			err = r.audit(ctx)
		}
		if err == nil {
			err = r.beginConverging(ctx)
		}
	case err == nil:
		err = fmt.Errorf("%s has changed since the plan was made: another run was interrupted there", r.dir())
	}
	if err != nil {
		return nil, err
	}
	if err := r.park(); err != nil {
		return nil, err
	}
	r.step("parked")
	if err := r.prune(ctx); err != nil {
		return nil, err
	}
	r.step("pruned")
	if err := r.makePlaces(); err != nil {
		return nil, err
	}
	r.step("marked")
	if r.tree, err = openInPlace(r.dir(), workPath(r.dir(), stageName), r.plan.Places, &r.plan.Backup); err != nil {
		return nil, err
	}
	c, m, err := readChanges(r.dir(), r.state.Changes)
	if err != nil {
		return nil, doubt(err)
	}
	if c.Grown == nil {
		c.Grown = map[string]int64{}
	}
	return newDelta(r.tree, &r.plan.Backup, c.SegmentBlocks, m, c.Grown)
}

// checkBound refuses a lower bound that the directory itself contradicts. A bound
// that is too high leaves stale pages, which neither a server nor an audit
// notices: of what was never flushed, the page has the older version.
func (r *runner) checkBound(ctx context.Context) error {
	if r.plan.Choice != ByMaps {
		return nil
	}
	l := r.plan.Local
	if l == nil || r.plan.converge == nil {
		return errors.New("run: the plan does not say what changed")
	}
	_, c, err := pg.ReadControl(ctx, r.dir())
	if err != nil {
		return fmt.Errorf("check the lower bound: %w", err)
	}
	most, why := c.CheckpointCopy.Redo, "the directory's own redo point"
	if l.Diverged && l.HintRedo < most {
		most, why = l.HintRedo, "the redo point in force at the fork"
	}
	if l.Diverged && r.plan.Backup.Start.LSN <= l.Fork && r.plan.Backup.Start.LSN < most {
		most, why = r.plan.Backup.Start.LSN, "the backup's start"
	}
	if r.plan.Lower == 0 || r.plan.Lower > most {
		return doubt(fmt.Errorf("changes would be counted from %s on, past %s at %s", r.plan.Lower, why, most))
	}
	return nil
}

// beginConverging writes down all that the run rests on.
func (r *runner) beginConverging(ctx context.Context) error {
	c := changes{}
	if r.plan.Choice == ByMaps {
		if r.plan.converge == nil || r.plan.Local == nil {
			return errors.New("run: the plan does not say what changed")
		}
		c.Map, c.SegmentBlocks = r.plan.converge.changes.Encode(), r.plan.Local.control.RelSegBlocks
		var err error
		if c.Grown, err = r.growing(ctx); err != nil {
			return err
		}
	}
	digest, err := c.write(r.dir())
	if err != nil {
		return err
	}
	onlyHere, err := r.onlyHere(ctx)
	if err != nil {
		return err
	}
	r.step("changes")
	r.state = state{
		Version: stateVersion, ID: rand.Text(), Phase: phaseConverging, Rung: r.plan.Choice,
		Purpose: r.plan.Purpose, Target: r.plan.Target, Scope: r.opts.Repo.Cluster().Scope,
		SystemID: r.plan.Backup.SystemID, Backup: r.plan.Backup.ID, Places: r.plan.Places,
		Old: slices.Clone(r.plan.Dir.Old), Lower: r.plan.Lower, Changes: digest, OldControl: r.plan.Dir.control,
		Followed: r.state.Followed || r.plan.Local.followed(), OnlyHere: onlyHere,
	}
	if l := r.plan.Local; l != nil {
		r.state.Redo, r.state.Fork = l.Redo, l.Fork
	}
	if err := r.state.write(r.dir()); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	r.step("state")
	return nil
}

// growing lists the files of main forks that are shorter than in the backup: a
// page that a killed run has appended must not count as one that was there.
func (r *runner) growing(ctx context.Context) (map[string]int64, error) {
	t, err := openInPlace(r.dir(), "", r.plan.Places, &r.plan.Backup)
	if err != nil {
		return nil, err
	}
	defer t.close()
	d, err := newDelta(t, &r.plan.Backup, r.plan.Local.control.RelSegBlocks, nil, nil)
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for e, err := range r.manifest.Entries(ctx) {
		if err != nil {
			return nil, fmt.Errorf("list backup %s: %w", r.plan.Backup.ID, err)
		}
		if _, main := d.mainFork(&e); e.Dir || !main {
			continue
		}
		if size := d.tree.size(e.Path); size < e.Size {
			out[e.Path] = max(size, 0)
		}
	}
	return out, nil
}

// park takes pg_control away.
func (r *runner) park() error {
	err := r.files.Rename(controlPath(r.dir()), workPath(r.dir(), oldName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("park pg_control: %w", err)
	}
	return nil
}

// wantInPlace reports what of an entry is to be fetched into the directory.
func (r *runner) wantInPlace(e *repo.Entry, j *journal, w *writer, h *hashes) (want *repo.Want, err error) {
	switch {
	case notRestored(e.Path), slices.Contains(signalsGone, e.Path):
		return nil, nil
	case e.Dir:
		return nil, r.tree.mkdir(e.Path, e.Mode)
	case j.done[e.File] && (r.tree.size(e.Path) == e.Size || operators(e.Path)):
		r.result.Resumed++
		return nil, nil
	}
	s := h.delta.of(e)
	if s.kind == stepCompare {
		equal, err := r.tree.equal(e)
		if err != nil {
			return nil, err
		}
		if equal {
			return nil, h.keep(e)
		}
		s.kind = stepFile
	}
	want = &repo.Want{Tag: int64(e.File), Entry: *e}
	switch {
	case s.kind == stepKeep || s.kind == stepPages && s.want == 0 && s.size == e.Size:
		r.result.Kept++
		return nil, nil
	case s.kind == stepHashes:
		h.await(e) // it says which pages
		return want, nil
	case s.kind == stepPages:
		want.Pages = s.wanting()
		wanted, err := w.addPart(*e, s.want)
		if err != nil || !wanted {
			return nil, err
		}
		r.meter.grow(s.want)
		return want, nil
	case e.Size == 0:
		return nil, r.empty(e, j)
	}
	r.meter.grow(e.Size)
	return want, w.add(*e)
}

// signalsGone are the names at the top of a data directory that say how a server
// starts, or what one was doing; they are not the operator's.
var signalsGone = []string{
	"standby.signal", "recovery.signal", "promote", "backup_label.old", "tablespace_map.old", "backup_manifest", "recovery.done",
	"postmaster.pid", "postmaster.opts",
}
