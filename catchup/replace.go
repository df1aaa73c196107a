package catchup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgtender/pgtender/internal/durable"
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
		s = state{
			Version: stateVersion, ID: "-", Phase: phaseReplacing, Purpose: r.plan.Purpose, Target: r.plan.Target,
			Scope: r.opts.Repo.Cluster().Scope, SystemID: r.plan.Backup.SystemID, Backup: r.plan.Backup.ID,
			Old: append(slices.Clone(d.Old), r.state.Places...),
		}
		// From here on the directory is an unfinished one, and after the next
		// step no server starts there.
		if err := s.write(r.dir()); err != nil {
			return fmt.Errorf("write state: %w", err)
		}
		r.state = s
	}
	err := r.files.Rename(controlPath(r.dir()), workPath(r.dir(), oldName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("park pg_control: %w", err)
	}
	if err := r.saveWAL(ctx); err != nil {
		return err
	}
	return r.remove(ctx)
}

func (r *runner) clearWork() error {
	for _, name := range []string{stateName, journalName, controlName, oldName} {
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
	for _, name := range []string{journalName, controlName, oldName} {
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

// saveWAL keeps the WAL of old data that may be in no archive: what waits for
// the archiver, and what was being written. It is pushed, or else kept in the
// work directory, where it stays.
func (r *runner) saveWAL(ctx context.Context) error {
	dir := filepath.Join(r.dir(), "pg_wal")
	names, err := unarchived(dir)
	if err != nil {
		return fmt.Errorf("look for unarchived WAL: %w", err)
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := r.save(ctx, filepath.Join(dir, name.file), name.complete); err != nil {
			return err
		}
		if name.complete {
			if err := r.files.Remove(filepath.Join(dir, "archive_status", name.file+".ready")); err != nil {
				return fmt.Errorf("save unarchived WAL: %w", err)
			}
		}
	}
	return nil
}

func (r *runner) save(ctx context.Context, path string, complete bool) error {
	if complete && r.opts.Archive != nil {
		err := r.opts.Archive(ctx, path)
		if err == nil {
			r.log.InfoContext(ctx, "unarchived WAL of the old data was archived", "segment", filepath.Base(path))
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.log.WarnContext(ctx, "unarchived WAL of the old data could not be archived", "segment", filepath.Base(path), "error", err)
	}
	kept := workPath(r.dir(), savedName, filepath.Base(path))
	if err := r.files.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		return fmt.Errorf("save unarchived WAL: %w", err)
	}
	// It may lie on another file system than pg_wal.
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // .ready of a file that is gone; the archiver passes it over too
	}
	if err != nil {
		return fmt.Errorf("save unarchived WAL: %w", err)
	}
	err = durable.FS{}.WriteFrom(kept, f, 0o600)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("save unarchived WAL: %w", err)
	}
	r.result.Saved = append(r.result.Saved, kept)
	r.log.WarnContext(ctx, "unarchived WAL of the old data is kept; remove it if nobody needs it", "file", kept)
	return nil
}

// walFile is a file of pg_wal that may be nowhere else.
type walFile struct {
	file     string
	complete bool // PostgreSQL offered it to the archiver
}

// unarchived lists the files of a pg_wal that are marked .ready, and the
// segments with no mark at all that hold WAL of their own name: the one that
// was being written. Segments recycled for later hold other addresses.
func unarchived(dir string) ([]walFile, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	status := map[string]string{}
	marks, err := os.ReadDir(filepath.Join(dir, "archive_status"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []walFile
	for _, m := range marks {
		name, mark, ok := cutLast(m.Name())
		if !ok {
			continue
		}
		status[name] = mark
		if mark == "ready" {
			out = append(out, walFile{name, true})
		}
	}
	for _, e := range entries {
		if status[e.Name()] != "" || !e.Type().IsRegular() {
			continue
		}
		written, err := holdsOwnWAL(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if written {
			out = append(out, walFile{e.Name(), false})
		}
	}
	return out, nil
}

func cutLast(name string) (before, after string, ok bool) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}

// holdsOwnWAL reports whether the first page of a segment file is that of the
// segment it is named after.
func holdsOwnWAL(path string) (_ bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	head := make([]byte, 40)
	if _, err := io.ReadFull(f, head); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return false, nil
		}
		return false, err
	}
	return ownHead(filepath.Base(path), head), nil
}
