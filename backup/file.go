package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// file is one file or directory of the backup, from the scan to the manifest.
type file struct {
	entry repo.Entry
	class pg.Class

	// base is what the parent has under this path, nil where it has nothing or
	// there is no parent, and portion how much of the file is stored anew.
	base    *repo.Entry
	portion portion

	mu      sync.Mutex
	pending int          // tasks of a split file that are not done
	frames  []repo.Frame // of the tasks that are done
	gone    bool         // vanished before it was read
}

// relation reports whether the file consists of pages a server verifies.
func (f *file) relation() bool { return f.class.Kind == pg.KindRelation }

// mainFork reports whether the file's pages may be read in any order: the
// manifest has no digest of the whole.
func (f *file) mainFork() bool { return f.relation() && f.class.Rel.Fork == pg.MainFork }

// open opens the file and settles its size. A relation keeps the size of the
// scan, whole pages: what came later is in the WAL, and what was cut off since
// reads as zeros, as BASE_BACKUP has it. Any other file is taken as it is now,
// for nothing would repair a configuration file of the wrong length.
func (f *file) open(root string, blockSize int64) (*os.File, error) {
	h, err := os.Open(filepath.Join(root, filepath.FromSlash(f.entry.Path)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.mu.Lock()
		f.gone = true
		f.mu.Unlock()
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", f.entry.Path, err)
	case f.relation():
		return h, nil
	}
	info, err := h.Stat()
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("stat %s: %w", f.entry.Path, err)
	}
	f.entry.Size = info.Size()
	return h, nil
}

// inParent reports whether the content read is what the parent has.
func (f *file) inParent() bool {
	return f.portion == storeIfNew && f.entry.Size == f.base.Size && f.entry.Digest == f.base.Digest
}

// inherit makes the parent's content that of the file. The parent's generations
// follow the new backup in its manifest.
func (f *file) inherit() {
	f.entry.Size, f.entry.Digest = f.base.Size, f.base.Digest
	if b := f.base.Bundle; b != nil {
		ref := *b
		ref.Generation++
		f.entry.Bundle = &ref
	}
	if m := f.base.Map; m != nil {
		ref := *m
		ref.Generation++
		f.entry.Map = &ref
	}
}

// done notes the frames of one task of the file, and gives all of them once no
// task is pending.
func (f *file) done(frames []repo.Frame) ([]repo.Frame, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frames = append(f.frames, frames...)
	f.pending--
	if f.pending > 0 {
		return nil, false
	}
	all := f.frames
	f.frames = nil
	return all, true
}
