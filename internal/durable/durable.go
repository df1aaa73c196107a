// Package durable changes the file system so that the change survives a power
// cut once the call has returned without an error. Files appear whole under
// their name or not at all: temporary file beside the target, fsync, rename,
// fsync of the directory.
//
// An error leaves either the old state or the new one, never a half written
// file under the target's name; whether the new one would survive is unknown
// then. After a failed fsync the data may be lost although a second fsync
// succeeds, so nothing here tries twice.
package durable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// FS is the file system. The zero value is ready for use, by several goroutines
// at once.
type FS struct {
	// Fault, if set, is asked before each step; what it returns is taken for the
	// step's error. Steps are create, write, chmod, sync, close, rename, mkdir,
	// remove (with the path concerned) and syncdir. For tests.
	Fault func(step, path string) error
}

func (d FS) fault(step, path string) error {
	if d.Fault == nil {
		return nil
	}
	if err := d.Fault(step, path); err != nil {
		return &fs.PathError{Op: step, Path: path, Err: err}
	}
	return nil
}

// tempSuffix ends the names of temporary files.
const tempSuffix = ".pgtender-tmp"

// IsTemp reports whether a file of this base name is a temporary file of this
// package, which a killed process can leave behind; nothing else is named so.
func IsTemp(base string) bool {
	return base != "" && base[0] == '.' && strings.HasSuffix(base, tempSuffix)
}

// WriteFile makes data the content of the file name, with exactly this mode (no
// umask), replacing what was there.
func (d FS) WriteFile(name string, data []byte, mode fs.FileMode) error {
	return d.WriteFrom(name, bytes.NewReader(data), mode)
}

// WriteFrom is WriteFile for content of any length. An error from r leaves the
// target untouched.
func (d FS) WriteFrom(name string, r io.Reader, mode fs.FileMode) error {
	if err := d.writeFrom(name, r, mode); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func (d FS) writeFrom(name string, r io.Reader, mode fs.FileMode) error {
	dir, base := filepath.Split(name)
	if dir == "" {
		dir = "."
	}
	if err := d.fault("create", name); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+base+".*"+tempSuffix)
	if err != nil {
		return err
	}
	if err := d.fill(f, r, mode); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := d.rename(f.Name(), name); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return d.SyncDir(dir)
}

// fill writes, syncs and closes f, whatever happens; no error is lost.
func (d FS) fill(f *os.File, r io.Reader, mode fs.FileMode) (err error) {
	name := f.Name()
	defer func() {
		err = errors.Join(err, d.fault("close", name), f.Close())
	}()
	if err := d.fault("write", name); err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := d.fault("chmod", name); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := d.fault("sync", name); err != nil {
		return err
	}
	return f.Sync()
}

func (d FS) rename(from, to string) error {
	if err := d.fault("rename", to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// Rename renames a file whose content is synced already, replacing to, and
// syncs the directories concerned.
func (d FS) Rename(from, to string) error {
	if err := d.rename(from, to); err != nil {
		return err
	}
	// The new name first: a crash between the two leaves both, not none.
	if err := d.SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) == filepath.Dir(to) {
		return nil
	}
	return d.SyncDir(filepath.Dir(from))
}

// Remove removes a file or an empty directory and syncs its directory. One that
// is not there is no error.
func (d FS) Remove(name string) error {
	if err := d.fault("remove", name); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return d.SyncDir(filepath.Dir(name))
}

// MkdirAll makes the directory and those above it that are missing, each with
// exactly this mode (no umask), and syncs every directory that got an entry.
// Directories that are there keep their mode.
func (d FS) MkdirAll(dir string, mode fs.FileMode) error {
	info, err := os.Stat(dir)
	if err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: errors.New("not a directory")}
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if parent == dir {
		return err
	}
	if err := d.MkdirAll(parent, mode); err != nil {
		return err
	}
	if err := d.fault("mkdir", dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, mode); err != nil {
		// Somebody else was quicker; the entry must be synced all the same.
		if made, statErr := os.Stat(dir); statErr != nil || !made.IsDir() {
			return err
		}
		return d.SyncDir(parent)
	}
	if err := os.Chmod(dir, mode); err != nil {
		return err
	}
	return d.SyncDir(parent)
}

// RemoveContents removes everything in dir, except entries named in keep, and
// syncs dir, which stays with its owner, mode and mount. Links are removed, not
// followed.
func (d FS) RemoveContents(dir string, keep ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if slices.Contains(keep, e.Name()) {
			continue
		}
		name := filepath.Join(dir, e.Name())
		if err := d.fault("remove", name); err != nil {
			return err
		}
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	return d.SyncDir(dir)
}

// SyncDir makes the entries of a directory durable.
func (d FS) SyncDir(dir string) error {
	if err := d.fault("syncdir", dir); err != nil {
		return err
	}
	return syncPath(dir)
}

// SyncFile makes the content of a file that is already written durable.
func (d FS) SyncFile(name string) error {
	if err := d.fault("sync", name); err != nil {
		return err
	}
	return syncPath(name)
}

func syncPath(name string) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Sync()
}

// SyncTree syncs every file and directory from root on downwards, workers at a
// time (at least one). Links below root are not followed: what they lead to is
// a tree of its own. It is for trees that nobody else changes.
func (d FS) SyncTree(ctx context.Context, root string, workers int) error {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return fmt.Errorf("sync tree: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(workers, 1))
	walkErr := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		switch e.Type() {
		case 0:
			group.Go(func() error { return d.SyncFile(name) })
		case fs.ModeDir:
			group.Go(func() error { return d.SyncDir(name) })
		}
		return nil
	})
	// A worker's error has ended the walk through ctx, and says more.
	if err := group.Wait(); err != nil {
		return fmt.Errorf("sync tree %s: %w", root, err)
	}
	if walkErr != nil {
		return fmt.Errorf("sync tree %s: %w", root, walkErr)
	}
	return nil
}
