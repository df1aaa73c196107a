package catchup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// clear removes whatever lies where the backup shall go: nothing, what an
// interrupted run left, or the old data that the plan replaces.
func (r *runner) clear(ctx context.Context) error {
	d := r.plan.Dir
	if d.State == DirEmpty {
		// What lies in the work directory without a state is of no use.
		return r.clearWork()
	}
	r.meter.phase(PhaseRemoving, 0)
	s := r.state
	if s.Phase != phaseReplacing {
		onlyHere, err := r.onlyHere(ctx)
		if err != nil {
			return err
		}
		s = state{
			Version: stateVersion, ID: "-", Phase: phaseReplacing, Purpose: r.plan.Purpose, Target: r.plan.Target,
			Scope: r.opts.Repo.Cluster().Scope, SystemID: r.plan.Backup.SystemID, Backup: r.plan.Backup.ID,
			Old: append(slices.Clone(d.Old), r.state.Places...), Followed: r.state.Followed || r.plan.Local.followed(),
			OnlyHere: onlyHere,
		}
		// From here on the directory is an unfinished one, and after the next
		// step no server starts there.
		if err := s.write(r.dir()); err != nil {
			return fmt.Errorf("write state: %w", err)
		}
		r.state = s
		r.step("state")
	}
	if err := r.park(); err != nil {
		return err
	}
	r.step("parked")
	if err := r.saveWAL(ctx); err != nil {
		return err
	}
	r.step("saved")
	if err := r.remove(ctx); err != nil {
		return err
	}
	r.step("removed")
	return nil
}

func (r *runner) clearWork() error {
	for _, name := range []string{stateName, journalName, controlName, oldName, changesName} {
		if err := r.files.Remove(workPath(r.dir(), name)); err != nil {
			return fmt.Errorf("remove work files: %w", err)
		}
	}
	if err := os.RemoveAll(workPath(r.dir(), stageName)); err != nil {
		return fmt.Errorf("remove work files: %w", err)
	}
	// Places can hold what a run left whose data directory was removed.
	return r.clearPlaces(nil)
}

// clearPlaces empties the places that are about to be written, and those that
// old data had. What they hold was found to be ours when the plan was made.
func (r *runner) clearPlaces(old []Place) error {
	for _, p := range append(slices.Clone(old), r.plan.Places...) {
		if err := removeBelow(p.Path, markerName); err != nil {
			return fmt.Errorf("empty %s: %w", p.Path, err)
		}
	}
	return nil
}

// remove removes old data. pg_control is parked, and the WAL that only this
// data has is safe.
func (r *runner) remove(ctx context.Context) error {
	if err := r.checkPlaces(); err != nil {
		return err
	}
	if err := r.clearPlaces(r.state.Old); err != nil {
		return err
	}
	for _, p := range r.state.Old {
		if p.OID != 0 && !slices.ContainsFunc(r.plan.Places, func(n Place) bool { return n.Path == p.Path }) {
			// A tablespace that is not coming back leaves nothing behind.
			if err := r.files.Remove(filepath.Join(p.Path, markerName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove marker: %w", err)
			}
			if err := r.files.Remove(p.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove tablespace directory: %w", err)
			}
		}
	}
	entries, err := os.ReadDir(r.dir())
	if err != nil {
		return fmt.Errorf("remove old data: %w", err)
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if ignored(e.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(r.dir(), e.Name())); err != nil {
			return fmt.Errorf("remove old data: %w", err)
		}
	}
	for _, name := range []string{journalName, controlName, oldName, changesName, replayedName} {
		if err := r.files.Remove(workPath(r.dir(), name)); err != nil {
			return fmt.Errorf("remove work files: %w", err)
		}
	}
	if err := os.RemoveAll(workPath(r.dir(), stageName)); err != nil {
		return fmt.Errorf("remove work files: %w", err)
	}
	return r.files.SyncDir(r.dir())
}

// checkPlaces makes sure that nothing is removed from a place that is not
// known to be ours.
func (r *runner) checkPlaces() error {
	d := r.plan.Dir
	d.Old = append(slices.Clone(d.Old), r.state.Old...)
	for _, p := range append(slices.Clone(r.state.Old), r.plan.Places...) {
		found, err := inspectPlace(p.Path, d)
		if err != nil {
			return err
		}
		if found.State == DirForeign {
			return errWritten(p.Path, found.Example)
		}
	}
	return nil
}
