// Package file keeps objects as files below one directory, on a local disk or
// on NFS.
//
// # The directory
//
// A store is a directory with a marker file, [Marker]. The first user's [Open]
// with Options.Create makes it, in an empty directory only; from then on every
// single call looks for it and fails with [storage.ErrNoStore] where it is
// missing. So an unmounted file system is never taken for an empty repository:
// neither is "not there" concluded from it, nor anything written below the
// mount point. Create refuses, too, where /etc/fstab says that something
// should be mounted at or above the directory and nothing is. A directory that
// is missing altogether is never made.
//
// Each call opens the directory once and reaches everything through that one
// descriptor, so that a mount or unmount in the middle cannot split it, and
// releases it at its end, so that nothing but a call under way keeps a file
// system busy. Symbolic links below the directory are not followed out of it,
// and are not listed.
//
// # Writing
//
// Put writes a temporary file beside its target, in this order: data, fsync,
// link(2) to the target's name (IfAbsent: the kernel, or the NFS server,
// refuses a second one) or rename(2) over it (replace), fsync of the folder
// and of each one above it. Whatever is visible under its name is whole. As
// the fsync of the folder comes after the name is visible, a process that is
// killed between the two would leave an object that others see and a power cut
// takes away; therefore Get and List sync young folders before they tell what
// is in them. A file system that an error has made read-only goes on showing what
// never came to the disk, so [Store.Persist] syncs a folder of any age.
//
// A killed Put leaves its temporary file, whose name (".tmp@…") no key can
// have; listings leave it out. [Store.Sweep] removes old ones. Delete removes
// folders that become empty.
//
// Large files are written with O_DIRECT, where the file system takes it, so
// that a backup does not drive the database's pages out of the page cache.
// Modes are set explicitly: Patroni runs its children under umask 077. What root
// makes belongs to the owner of the directory.
//
// A hard-mounted NFS server that does not answer blocks a call in the kernel,
// where no context reaches it.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pgtender/pgtender/backup/storage"
)

// Options say where the store is and how its files look.
type Options struct {
	// Dir is the directory, an absolute path. It must be there.
	Dir string
	// Create lets Open turn an empty directory into a store. Commands that
	// begin a repository set it; without it an empty directory is
	// storage.ErrNoStore.
	Create bool
	// DirMode and FileMode are the permissions of what is made, whatever the
	// umask; 0: 0750 and 0640. Where several users share the directory by a
	// group, 0770 and 0660; a set-group-ID bit on the directory is inherited.
	DirMode, FileMode fs.FileMode
	// Buffered writes through the page cache, never with O_DIRECT.
	Buffered bool
}

// Store is a storage.Store in a directory.
type Store struct {
	dir    string
	opts   Options
	synced named
	fsync  func(*os.File) error // of folders
}

var (
	_ storage.Store       = (*Store)(nil)
	_ storage.Conditional = (*Store)(nil)
	_ storage.Near        = (*Store)(nil)
	_ storage.Sweeper     = (*Store)(nil)
	_ storage.Persister   = (*Store)(nil)
)

// Open finds the store in opts.Dir, or makes it there: see [Options].
func Open(ctx context.Context, opts Options) (*Store, error) {
	if !filepath.IsAbs(opts.Dir) {
		return nil, &storage.Error{
			Op: "open", Err: fmt.Errorf("repository directory %q is not an absolute path", opts.Dir),
			Advice: "give the whole path, as in file:///srv/pgtender", Permanent: true,
		}
	}
	if opts.DirMode == 0 {
		opts.DirMode = 0o750
	}
	if opts.FileMode == 0 {
		opts.FileMode = 0o640
	}
	s := &Store{dir: filepath.Clean(opts.Dir), opts: opts, fsync: (*os.File).Sync}
	if err := storage.ContextError(ctx); err != nil {
		return nil, fmt.Errorf("open %s: %w", s, err)
	}
	if err := s.checkMarker(); err != nil {
		if !errors.Is(err, errNoMarker) || !opts.Create {
			return nil, err
		}
		if err := s.create(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// String is the store's URL.
func (s *Store) String() string { return "file://" + s.dir }

// root opens the directory for one call and proves that the store is there.
func (s *Store) root(op, key string) (*os.Root, error) {
	r, err := s.openDir(op, key)
	if err != nil {
		return nil, err
	}
	if _, err := r.Lstat(Marker); err != nil {
		r.Close()
		return nil, s.markerError(op, key, err)
	}
	return r, nil
}

// openDir opens the directory, marked or not.
func (s *Store) openDir(op, key string) (*os.Root, error) {
	r, err := os.OpenRoot(s.dir)
	if err == nil {
		return r, nil
	}
	if info, serr := os.Stat(s.dir); errors.Is(serr, fs.ErrNotExist) || serr == nil && !info.IsDir() {
		return nil, &storage.Error{
			Op: op, Key: key, Err: fmt.Errorf("%w: there is no directory %s", storage.ErrNoStore, s.dir),
			Advice: "mount its file system or, for a new repository, create the directory: owned by the user PostgreSQL runs as",
		}
	}
	return nil, failed(op, key, err)
}

// failed wraps an error that says nothing about the object's existence.
func failed(op, key string, err error) error {
	e := &storage.Error{Op: op, Key: key, Err: storage.NotAbsence(err)}
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		e.Advice = "the disk of the repository is full: make room there, and what failed can be repeated"
	case errors.Is(err, syscall.EROFS):
		e.Advice = "if the repository's file system was not mounted read-only on purpose, an error has made it so, and what was written last is lost: see the kernel's log (dmesg), and check the file system"
	case errors.Is(err, fs.ErrPermission):
		e.Advice = "run pgtender as the user PostgreSQL runs as, and look whether all of the repository belongs to that user"
	}
	return e
}
