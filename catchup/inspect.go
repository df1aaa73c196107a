package catchup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// inspect looks at the target directory. It changes nothing.
func inspect(ctx context.Context, path string) (DirFacts, error) {
	d := DirFacts{Path: path, State: DirEmpty}
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		return d, refuse(true, "name an empty directory", "%s is not a directory", path)
	}
	if d.Running, d.PID, err = pg.Running(path); err != nil {
		return d, fmt.Errorf("inspect data directory: %w", err)
	}
	d.Free, d.Device = room(path)
	names, err := used(path)
	if err != nil {
		return d, fmt.Errorf("inspect data directory: %w", err)
	}
	if len(names) > 0 {
		d.State, d.Example = DirForeign, names[0]
	}
	s, err := readState(path)
	switch {
	case err == nil:
		return d, d.unfinished(ctx, s)
	case errors.Is(err, errState):
		return d, finding.WithHint(err, "another release may know it; else remove the directory if nobody needs it")
	case !errors.Is(err, fs.ErrNotExist):
		return d, err
	}
	if len(names) == 0 || !slices.Contains(names, "PG_VERSION") {
		return d, nil
	}
	return d, d.data(ctx)
}

// used lists what makes a directory a used one, nothing if it is missing.
func used(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !ignored(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// unfinished fills in what an interrupted run left.
func (d *DirFacts) unfinished(ctx context.Context, s state) error {
	d.State, d.SystemID, d.Backup, d.Purpose, d.Target, d.Old = DirUnfinished, s.SystemID, s.Backup, s.Purpose, s.Target, s.Old
	if s.Phase != phaseCommitting {
		return nil
	}
	// The run ended after its last step if pg_control has left the work
	// directory.
	_, err := os.Lstat(workPath(d.Path, controlName))
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("inspect data directory: %w", err)
	}
	control, err := os.ReadFile(filepath.Join(d.Path, pg.ControlPath))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // somebody removed it; staging begins anew
	case err != nil:
		return fmt.Errorf("inspect data directory: %w", err)
	}
	if err := d.data(ctx); err != nil {
		return err
	}
	if repo.DigestOf(control) != s.Control {
		// A server has run since: this is a data directory like any other.
		d.Backup, d.Purpose, d.Target = 0, "", Target{}
		return nil
	}
	d.State = DirFinished
	return nil
}

// data fills in what a data directory is. One whose pg_control cannot be read
// has no system identifier, and so is nobody's to replace.
func (d *DirFacts) data(ctx context.Context) error {
	d.State = DirData
	_, control, err := pg.ReadControl(ctx, d.Path)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return nil
	}
	d.SystemID = control.SystemID
	if d.Old, err = oldPlaces(d.Path, control.TablespaceVersionDir()); err != nil {
		return fmt.Errorf("inspect data directory: %w", err)
	}
	d.Used = size(d.Path)
	for _, p := range d.Old {
		d.Used += size(p.Path)
	}
	return nil
}

// oldPlaces gives the directories outside of a data directory that belong to
// it. A link that leads nowhere is left out.
func oldPlaces(dir, version string) ([]Place, error) {
	var out []Place
	links, err := os.ReadDir(filepath.Join(dir, "pg_tblspc"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, l := range links {
		oid, err := strconv.ParseUint(l.Name(), 10, 32)
		if err != nil || l.Type() != fs.ModeSymlink {
			continue
		}
		if location, err := filepath.EvalSymlinks(filepath.Join(dir, "pg_tblspc", l.Name())); err == nil {
			out = append(out, Place{OID: uint32(oid), Location: location, Path: filepath.Join(location, version)})
		}
	}
	name := filepath.Join(dir, "pg_wal")
	if info, err := os.Lstat(name); err == nil && info.Mode().Type() == fs.ModeSymlink {
		if location, err := filepath.EvalSymlinks(name); err == nil {
			out = append(out, Place{Location: location, Path: location})
		}
	}
	return out, nil
}

// inspectPlace looks at a directory outside of the target directory d.
func inspectPlace(path string, d DirFacts) (DirFacts, error) {
	p := DirFacts{Path: path, State: DirEmpty}
	p.Free, p.Device = room(path)
	names, err := used(path)
	if err != nil {
		return p, fmt.Errorf("inspect %s: %w", path, err)
	}
	if len(names) == 0 {
		return p, nil
	}
	p.Example = names[0]
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return p, fmt.Errorf("inspect %s: %w", path, err)
	}
	m, err := readMarker(path)
	if err != nil {
		return p, fmt.Errorf("inspect %s: %w", path, err)
	}
	switch {
	case m.Dir == d.Path:
		p.State, p.SystemID = DirUnfinished, m.SystemID
	case slices.ContainsFunc(d.Old, func(o Place) bool { return o.Path == real }):
		p.State, p.SystemID = DirData, d.SystemID // its size counts in d
	default:
		p.State = DirForeign
	}
	return p, nil
}

// room gives the bytes free on the file system that path is or would be on,
// and the number of that file system. -1 is not known.
func room(path string) (free int64, device uint64) {
	for {
		var fs unix.Statfs_t
		var st unix.Stat_t
		if unix.Statfs(path, &fs) == nil && unix.Stat(path, &st) == nil {
			return int64(fs.Bavail) * fs.Bsize, st.Dev
		}
		parent := filepath.Dir(path)
		if parent == path {
			return -1, 0
		}
		path = parent
	}
}

// size gives the bytes that a tree takes on disk, as far as it can be looked
// at.
func size(root string) int64 {
	var sum int64
	filepath.WalkDir(root, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := e.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += st.Blocks * 512 // stat(2): st_blocks counts these units
			}
		}
		return nil
	})
	return sum
}
