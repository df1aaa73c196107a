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
	hashes *repo.PageHashes // of the parent's pages

	mu    sync.Mutex
	batch []overlay // waiting
	pages int64     // in their maps
}

func overlaysOn(parent *repo.Manifest) *overlays {
	return &overlays{parent: parent, hashes: parent.PageHashes()}
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
	err := o.lay(ctx, w, batch, bases)
	if !damaged(err) {
		return err
	}
	// One by one, to find which.
	for i, l := range batch {
		err := o.lay(ctx, w, batch[i:i+1], bases[i:i+1])
		if damaged(err) {
			w.pages.log.WarnContext(ctx, "the parent backup is damaged; the file is stored whole", "file", l.file.entry.Path, "error", err)
			err = w.copyAnew(ctx, l.file)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// damaged reports whether what is stored of the parent is at fault.
func damaged(err error) bool {
	return errors.Is(err, repo.ErrCorrupt) || errors.Is(err, fs.ErrNotExist)
}

// lay makes the maps of files, and stores them once all are made.
func (o *overlays) lay(ctx context.Context, w *worker, batch []overlay, bases []repo.Entry) error {
	before, err := o.parent.ReadMaps(ctx, bases)
	if err != nil {
		return fmt.Errorf("read the parent's page maps: %w", err)
	}
	after := make([]repo.PageMap, len(batch))
	for i, l := range batch {
		after[i], err = before[i].Overlay(w.writer.ID(), w.pagesOf(l.file), l.frames)
		if err != nil && !errors.Is(err, repo.ErrTooManyGenerations) {
			return fmt.Errorf("make the page map of %s: %w", l.file.entry.Path, err)
		}
	}
	older, err := o.parent.Kept(ctx, bases, before, after)
	if err != nil {
		return fmt.Errorf("read the parent's frame tables: %w", err)
	}
	for i, l := range batch {
		if after[i].Pages == 0 {
			// It lies scattered over more backups than a map can name.
			err = w.copyAnew(ctx, l.file)
		} else {
			err = w.storeMap(ctx, l.file, l.frames, after[i], older[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
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
	return w.storeMap(ctx, f, frames, repo.NewPageMap(w.writer.ID(), w.pagesOf(f)), nil)
}
