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
	"github.com/pgtender/pgtender/internal/pg/wal"
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
	d.Rung = s.Rung
	for _, p := range s.Old {
		// What is to be written again stays while it is emptied.
		if _, err := os.Lstat(p.Path); errors.Is(err, fs.ErrNotExist) {
			d.Missing = append(d.Missing, p)
		}
	}
	if s.Phase == phaseConverging {
		return d.converging(ctx, s)
	}
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
		d.Backup, d.Purpose, d.Target, d.Rung = 0, "", Target{}, ""
		return nil
	}
	d.State = DirFinished
	return nil
}

// converging fills in what an interrupted run left of old data.
func (d *DirFacts) converging(ctx context.Context, s state) error {
	control, err := os.ReadFile(controlPath(d.Path))
	switch {
	case err == nil && repo.DigestOf(control) != s.OldControl:
		// The run ended before it had touched anything, and a server has run since.
		d.Backup, d.Purpose, d.Target, d.Rung = 0, "", Target{}, ""
		return d.data(ctx)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("inspect data directory: %w", err)
	}
	d.Used = size(d.Path)
	for _, p := range d.Old {
		d.Used += size(p.Path)
	}
	return nil
}

// data fills in what a data directory is. Where pg_control cannot be read its WAL
// tells whose it is; where that does not either, it is nobody's to replace.
func (d *DirFacts) data(ctx context.Context) error {
	d.State = DirData
	raw, control, err := pg.ReadControl(ctx, d.Path)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	version := ""
	if err == nil {
		d.SystemID, d.control, version = control.SystemID, repo.DigestOf(raw), control.TablespaceVersionDir()
	} else if d.SystemID = systemIDOfWAL(dataPath(d.Path, "pg_wal")); d.SystemID == 0 {
		return nil
	}
	if d.Old, d.Missing, err = oldPlaces(d.Path, version); err != nil {
		return fmt.Errorf("inspect data directory: %w", err)
	}
	d.Used = size(d.Path)
	for _, p := range d.Old {
		d.Used += size(p.Path)
	}
	return nil
}

// oldPlaces gives the directories outside of a data directory that belong to
// it, and those that are missing: a link to them leads nowhere, or to where a
// server was never at work, such as a mount point with nothing mounted.
func oldPlaces(dir, version string) (old, missing []Place, err error) {
	links, err := os.ReadDir(filepath.Join(dir, "pg_tblspc"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for _, l := range links {
		oid, err := strconv.ParseUint(l.Name(), 10, 32)
		if err != nil || l.Type() != fs.ModeSymlink {
			continue
		}
		location, leads, err := follow(filepath.Join(dir, "pg_tblspc", l.Name()))
		if err != nil {
			return nil, nil, err
		}
		p := Place{OID: uint32(oid), Location: location, Path: filepath.Join(location, version)}
		if version == "" && leads {
			if p.Path, err = onlyVersion(location); err != nil {
				return nil, nil, err
			}
		}
		if _, err := os.Lstat(p.Path); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, p)
		} else {
			old = append(old, p)
		}
	}
	name := filepath.Join(dir, "pg_wal")
	if info, err := os.Lstat(name); err != nil || info.Mode().Type() != fs.ModeSymlink {
		return old, missing, nil // whoever reads it says what is wrong
	}
	location, _, err := follow(name)
	if err != nil {
		return nil, nil, err
	}
	p := Place{Location: location, Path: location}
	names, err := used(location)
	switch {
	case err != nil:
		return nil, nil, err
	case len(names) == 0:
		missing = append(missing, p)
	default:
		old = append(old, p)
	}
	return old, missing, nil
}

// follow gives where a link leads to, by its real name if there is something.
func follow(link string) (to string, leads bool, err error) {
	if to, err = filepath.EvalSymlinks(link); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return to, err == nil, err
	}
	if to, err = os.Readlink(link); err == nil && !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(link), to)
	}
	return filepath.Clean(to), false, err
}

// onlyVersion gives the directory in a tablespace that a server made, where
// pg_control does not tell its name.
func onlyVersion(location string) (string, error) {
	found, err := filepath.Glob(filepath.Join(location, "PG_[0-9]*_[0-9]*"))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("which directory in %s is the cluster's is not known: there are %d", location, len(found))
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

// systemIDOfWAL gives the system identifier that all segments in a pg_wal have
// in their first page, 0 if they do not agree or there is none.
func systemIDOfWAL(dir string) (id pg.SystemID) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if !pg.IsSegmentName(e.Name()) {
			continue
		}
		head, err := readHead(filepath.Join(dir, e.Name()))
		if err != nil || !ownHead(e.Name(), head) {
			continue // recycled for later, perhaps never written
		}
		if id != 0 && head.SystemID != id {
			return 0
		}
		id = head.SystemID
	}
	return id
}

// readHead reads the first page header of a segment file.
func readHead(path string) (_ wal.SegmentHeader, err error) {
	f, err := os.Open(path)
	if err != nil {
		return wal.SegmentHeader{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return wal.ReadSegmentHeader(f)
}

// ownHead reports whether the header of a segment file is that of the segment
// that the name says.
func ownHead(name string, head wal.SegmentHeader) bool {
	size := head.SegmentSize
	if !size.Valid() {
		return false
	}
	seg, err := pg.ParseSegment(name, size)
	return err == nil && head.Address == size.Start(seg.Number)
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
			return int64(fs.Bavail) * int64(fs.Bsize), uint64(st.Dev)
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
