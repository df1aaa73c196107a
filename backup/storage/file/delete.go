package file

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
)

// Delete removes the file, durably, and the folders above it that are empty
// then.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := storage.CheckCall(ctx, "delete", key); err != nil {
		return err
	}
	r, err := s.root("delete", key)
	if err != nil {
		return err
	}
	defer r.Close()
	info, err := r.Lstat(key)
	if gone(err) || err == nil && info.IsDir() {
		return nil
	}
	if err == nil {
		err = r.Remove(key)
	}
	if err != nil && !gone(err) {
		return failed("delete", key, err)
	}
	if err := s.syncDir(r, path.Dir(key), always); err != nil && !gone(err) {
		return failed("delete", key, err)
	}
	for dir := path.Dir(key); dir != "."; dir = path.Dir(dir) {
		if r.Remove(dir) != nil {
			break // not empty, as a rule
		}
	}
	return nil
}

// Sweep removes temporary files that killed processes left, and empty folders,
// if they have not changed for age. The present is asked of the store itself,
// since a file server has a clock of its own.
func (s *Store) Sweep(ctx context.Context, age time.Duration) (removed int, err error) {
	if err := storage.ContextError(ctx); err != nil {
		return 0, fmt.Errorf("sweep %s: %w", s, err)
	}
	r, err := s.root("sweep", "")
	if err != nil {
		return 0, err
	}
	defer r.Close()
	now, err := s.now(r)
	if err != nil {
		return 0, failed("sweep", "", err)
	}
	w := sweep{ctx: ctx, before: now.Add(-age)}
	err = w.folder(r)
	return w.removed, err
}

// now is the time of the file system.
func (s *Store) now(r *os.Root) (time.Time, error) {
	f, name, err := s.temp(r, ".")
	if err != nil {
		return time.Time{}, err
	}
	defer r.Remove(name)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

type sweep struct {
	ctx     context.Context
	before  time.Time
	removed int
}

func (w *sweep) folder(r *os.Root) error {
	entries, err := readDir(r, nil)
	if gone(err) {
		return nil
	}
	if err != nil {
		return failed("sweep", "", err)
	}
	for _, e := range entries {
		if err := storage.ContextError(w.ctx); err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
		switch {
		case e.IsDir() && storage.ValidKey(e.Name()) == nil:
			err = w.subfolder(r, e.Name())
		case e.Type().IsRegular() && isTemp(e.Name()):
			err = w.temp(r, e.Name())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *sweep) subfolder(r *os.Root, name string) error {
	sub, err := r.OpenRoot(name)
	if gone(err) {
		return nil
	}
	if err != nil {
		return failed("sweep", name, err)
	}
	defer sub.Close()
	if err := w.folder(sub); err != nil {
		return err
	}
	if info, err := r.Lstat(name); err == nil && w.old(info) {
		r.Remove(name) // refused unless it is empty
	}
	return nil
}

func (w *sweep) temp(r *os.Root, name string) error {
	info, err := r.Lstat(name)
	if err == nil && w.old(info) {
		if err = r.Remove(name); err == nil {
			w.removed++
		}
	}
	if err != nil && !gone(err) {
		return failed("sweep", name, err)
	}
	return nil
}

func (w *sweep) old(info fs.FileInfo) bool { return info.ModTime().Before(w.before) }
