package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/pgtender/pgtender/backup/repo"
)

// overlays makes the page maps of files of which only some pages were stored:
// the parent's maps, with the new pages over them. Maps are read for many files
// at a time.
type overlays struct {
	parent *repo.Manifest

	mu    sync.Mutex
	batch []overlay // waiting
	pages int64     // in their maps
}

// overlay is a file whose changed pages are stored.
type overlay struct {
	file   *file
	frames []repo.Frame
}

// A batch of maps that are in memory together ends at either: at most some
// 16 MiB.
const (
	overlayFiles = 512
	overlayPages = 8 << 20
)

// add takes a file. Every now and then it writes what has been collected.
func (o *overlays) add(ctx context.Context, w *worker, f *file, frames []repo.Frame) error {
	o.mu.Lock()
	o.batch = append(o.batch, overlay{f, frames})
	o.pages += f.base.Size / int64(w.blockSize)
	full := len(o.batch) >= overlayFiles || o.pages >= overlayPages
	o.mu.Unlock()
	if !full {
		return nil
	}
	return o.flush(ctx, w)
}

// flush writes what has been collected.
func (o *overlays) flush(ctx context.Context, w *worker) error {
	o.mu.Lock()
	batch := o.batch
	o.batch, o.pages = nil, 0
	o.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	bases := make([]repo.Entry, 0, len(batch))
	for _, l := range batch {
		bases = append(bases, *l.file.base)
	}
	maps, err := o.parent.ReadMaps(ctx, bases)
	damaged := errors.Is(err, repo.ErrCorrupt) || errors.Is(err, fs.ErrNotExist)
	if err != nil && !damaged {
		return fmt.Errorf("read the parent's page maps: %w", err)
	}
	for i, l := range batch {
		if damaged {
			err = o.alone(ctx, w, l, bases[i])
		} else {
			err = w.lay(ctx, l, maps[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// alone lays over a map that may be the damaged one of its batch.
func (o *overlays) alone(ctx context.Context, w *worker, l overlay, base repo.Entry) error {
	maps, err := o.parent.ReadMaps(ctx, []repo.Entry{base})
	switch {
	case err == nil:
		return w.lay(ctx, l, maps[0])
	case errors.Is(err, repo.ErrCorrupt) || errors.Is(err, fs.ErrNotExist):
		w.pages.log.WarnContext(ctx, "the parent backup is damaged; the file is stored whole", "file", l.file.entry.Path, "error", err)
		return w.copyAnew(ctx, l.file)
	}
	return fmt.Errorf("read the parent's page map of %s: %w", l.file.entry.Path, err)
}

// lay stores the map of one file.
func (w *worker) lay(ctx context.Context, l overlay, base repo.PageMap) error {
	m, err := base.Overlay(w.writer.ID(), w.pagesOf(l.file), l.frames)
	if errors.Is(err, repo.ErrTooManyGenerations) {
		// It lies scattered over more backups than a map can name.
		return w.copyAnew(ctx, l.file)
	}
	if err != nil {
		return fmt.Errorf("make the page map of %s: %w", l.file.entry.Path, err)
	}
	return w.storeMap(ctx, l.file, l.frames, m)
}

// copyAnew stores a whole file of which some pages are stored already.
func (w *worker) copyAnew(ctx context.Context, f *file) error {
	h, err := f.open(w.root, int64(w.blockSize))
	if err != nil || h == nil {
		return err
	}
	defer h.Close()
	frames, err := w.copyRange(ctx, f, h, 0, f.entry.Size, nil)
	if err != nil {
		return err
	}
	return w.storeMap(ctx, f, frames, repo.NewPageMap(w.writer.ID(), w.pagesOf(f)))
}
