package file

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/pgtender/pgtender/backup/storage"
)

// Put follows the order that the package comment gives.
func (s *Store) Put(ctx context.Context, key string, src io.ReaderAt, size int64, opts storage.PutOptions) error {
	if err := storage.CheckPut(ctx, key, size); err != nil {
		return err
	}
	r, err := s.root("put", key)
	if err != nil {
		return err
	}
	defer r.Close()
	return s.store(ctx, r, key, src, size, opts)
}

// store is Put of any name.
func (s *Store) store(ctx context.Context, r *os.Root, name string, src io.ReaderAt, size int64, opts storage.PutOptions) (err error) {
	if opts.IfAbsent {
		// Spare writing what link would refuse.
		if _, err := r.Lstat(name); err == nil {
			return s.exists(r, name)
		}
	}
	f, temp, err := s.temp(r, path.Dir(name))
	if err != nil {
		return failed("put", name, err)
	}
	if err := s.fill(ctx, f, name, src, size); err != nil {
		r.Remove(temp) // best effort: Sweep finds what stays
		return err
	}
	// The last moment at which nothing is visible yet.
	if err := storage.ContextError(ctx); err != nil {
		r.Remove(temp)
		return fmt.Errorf("put %s: %w", name, err)
	}
	if opts.IfAbsent {
		err = link(r, temp, name)
		r.Remove(temp)
	} else if err = r.Rename(temp, name); err != nil {
		r.Remove(temp)
	}
	switch {
	case opts.IfAbsent && errors.Is(err, fs.ErrExist):
		return s.exists(r, name)
	case err != nil:
		return failed("put", name, err)
	}
	if err := s.syncUp(r, path.Dir(name), always); err != nil {
		return failed("put", name, fmt.Errorf("stored, but perhaps not durably: %w", err))
	}
	return nil
}

// exists is the refusal of an existing name. Callers may take the object for
// stored, so it is made durable first.
func (s *Store) exists(r *os.Root, name string) error {
	if err := s.syncUp(r, path.Dir(name), always); err != nil {
		return failed("put", name, err)
	}
	return fmt.Errorf("put %s: %w", name, storage.ErrExists)
}

// fill writes and syncs the temporary file, and closes it.
func (s *Store) fill(ctx context.Context, f *os.File, name string, src io.ReaderAt, size int64) error {
	err := s.write(ctx, f, name, src, size)
	if err == nil {
		if err = f.Sync(); err != nil {
			err = failed("put", name, err)
		}
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = failed("put", name, cerr)
	}
	return err
}

// tempPrefix begins the names of temporary files. "@" keeps them apart from
// all keys.
const tempPrefix = ".tmp@"

func isTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }

// temp makes a temporary file in dir, and the folders that are missing.
func (s *Store) temp(r *os.Root, dir string) (*os.File, string, error) {
	var random [12]byte
	rand.Read(random[:])
	name := path.Join(dir, tempPrefix+hex.EncodeToString(random[:]))
	for attempt := 1; ; attempt++ {
		f, err := r.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, s.opts.FileMode)
		// A Delete may remove the folder between its making and its first
		// file; from then on it is not empty.
		if errors.Is(err, fs.ErrNotExist) && attempt < 10 {
			if err := s.mkdirs(r, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, "", err
			}
			continue
		}
		if err != nil {
			return nil, "", err
		}
		if err := errors.Join(giveFile(r, f), f.Chmod(s.opts.FileMode)); err != nil {
			f.Close()
			r.Remove(name)
			return nil, "", err
		}
		return f, name, nil
	}
}

// mkdirs makes dir and what is missing above it.
func (s *Store) mkdirs(r *os.Root, dir string) error {
	if dir == "." {
		return nil
	}
	err := r.Mkdir(dir, s.opts.DirMode.Perm())
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.mkdirs(r, path.Dir(dir)); err != nil {
			return err
		}
		err = r.Mkdir(dir, s.opts.DirMode.Perm())
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := r.Lstat(dir)
	if err != nil {
		return err
	}
	return errors.Join(giveFolder(r, dir), r.Chmod(dir, s.opts.DirMode|info.Mode()&fs.ModeSetgid))
}

// link gives temp its final name unless that is taken. Without hard links
// (some FUSE and SMB mounts) it looks first and renames then: not atomic, and
// ConditionalPut says so.
func link(r *os.Root, temp, name string) error {
	err := r.Link(temp, name)
	switch {
	case errors.Is(err, fs.ErrExist):
		// An NFS client repeats a request whose answer was lost, and then is
		// told of its own link: open(2), O_EXCL, describes this test.
		if info, serr := r.Lstat(temp); serr == nil && links(info) == 2 {
			return nil
		}
		return err
	case noHardLinks(err):
		if _, serr := r.Lstat(name); serr == nil {
			return fs.ErrExist
		} else if !errors.Is(serr, fs.ErrNotExist) {
			return serr
		}
		return r.Rename(temp, name)
	}
	return err
}

func noHardLinks(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EOPNOTSUPP) ||
		errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EMLINK)
}

func links(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink)
	}
	return 0
}

// ConditionalPut tries whether a second hard link to a taken name is refused.
func (s *Store) ConditionalPut(ctx context.Context) (atomic bool, err error) {
	if err := storage.ContextError(ctx); err != nil {
		return false, fmt.Errorf("try link in %s: %w", s, err)
	}
	r, err := s.root("try link", "")
	if err != nil {
		return false, err
	}
	defer r.Close()
	var names [2]string
	for i := range names {
		f, name, err := s.temp(r, ".")
		if err != nil {
			return false, failed("try link", "", err)
		}
		defer r.Remove(name)
		f.Close()
		names[i] = name
	}
	target := names[0] + "-link"
	defer r.Remove(target)
	if err := r.Link(names[0], target); noHardLinks(err) {
		return false, nil
	} else if err != nil {
		return false, failed("try link", "", err)
	}
	return errors.Is(r.Link(names[1], target), fs.ErrExist), nil
}
