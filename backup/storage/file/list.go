package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/pgtender/pgtender/backup/storage"
)

// List reads one folder at a time; its memory grows with the largest folder.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		w := walk{store: s, ctx: ctx, prefix: prefix, after: after, yield: yield}
		if err := s.list(&w); err != nil {
			yield(storage.Object{}, err)
		}
	}
}

func (s *Store) list(w *walk) error {
	if err := storage.ContextError(w.ctx); err != nil {
		return fmt.Errorf("list %s: %w", w.prefix, err)
	}
	r, err := s.root("list", w.prefix)
	if err != nil {
		return err
	}
	defer r.Close()
	// Begin in the folder of the prefix. One that no key can have is empty.
	dir, _ := path.Split(w.prefix)
	if dir = strings.TrimSuffix(dir, "/"); dir == "" && strings.HasPrefix(w.prefix, "/") {
		return nil
	}
	if dir != "" {
		if storage.ValidKey(dir) != nil {
			return nil
		}
		sub, err := r.OpenRoot(dir)
		if gone(err) {
			return nil
		}
		if err != nil {
			return failed("list", w.prefix, err)
		}
		defer sub.Close()
		if err := s.syncUp(r, path.Dir(dir), young); err != nil && !gone(err) {
			return failed("list", w.prefix, err)
		}
		r, dir = sub, dir+"/"
	}
	err = w.folder(r, dir)
	if errors.Is(err, errLeft) {
		return nil
	}
	return err
}

// gone is a file or folder that was removed since its name was read, or a name
// that is none.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || isNotDir(err) }

// walk is one run of a listing.
type walk struct {
	store         *Store
	ctx           context.Context
	prefix, after string
	yield         func(storage.Object, error) bool
}

// errLeft ends a walk whose caller has seen enough.
var errLeft = errors.New("left")

// folder yields the objects in r, whose keys begin with dir ("" or "…/").
func (w *walk) folder(r *os.Root, dir string) error {
	entries, err := readDir(r, w.store.syncYoung)
	if gone(err) {
		return nil
	}
	if err != nil {
		return failed("list", w.prefix, err)
	}
	for _, e := range entries {
		if err := storage.ContextError(w.ctx); err != nil {
			return fmt.Errorf("list %s: %w", w.prefix, err)
		}
		key := dir + e.Name()
		switch {
		case storage.ValidKey(key) != nil: // temporary files, the marker, foreign things
		case e.IsDir():
			err = w.descend(r, e.Name(), key+"/")
		case e.Type().IsRegular() && strings.HasPrefix(key, w.prefix) && key > w.after:
			err = w.object(r, e.Name(), key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// descend walks a folder below r if it may hold a key that is asked for.
func (w *walk) descend(r *os.Root, name, dir string) error {
	if !strings.HasPrefix(dir, w.prefix) && !strings.HasPrefix(w.prefix, dir) {
		return nil
	}
	if w.after > dir && !strings.HasPrefix(w.after, dir) {
		return nil
	}
	sub, err := r.OpenRoot(name)
	if gone(err) {
		return nil
	}
	if err != nil {
		return failed("list", w.prefix, err)
	}
	defer sub.Close()
	return w.folder(sub, dir)
}

func (w *walk) object(r *os.Root, name, key string) error {
	info, err := r.Lstat(name)
	if gone(err) {
		return nil
	}
	if err != nil {
		return failed("list", w.prefix, err)
	}
	if !w.yield(storage.Object{Key: key, Size: info.Size(), Modified: info.ModTime()}, nil) {
		return errLeft
	}
	return nil
}

// readDir reads a folder's names in the byte order of the keys below it: a
// folder sorts as if its name ended in "/". then, if any, is called with the
// folder after it was read.
func readDir(r *os.Root, then func(*os.File) error) ([]fs.DirEntry, error) {
	f, err := r.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	if then != nil {
		if err := then(f); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(sortKey(a), sortKey(b)) })
	return entries, nil
}

func sortKey(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}
