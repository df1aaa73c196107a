package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/repo"
)

const (
	// smallFile is the size, in bytes, below which files share a frame.
	smallFile = minFrame
	// rangeSize is how many bytes of a large file one task covers. A relation
	// segment of 1 GiB is 32 tasks, so the last one to finish keeps nobody
	// waiting for long.
	rangeSize = 32 << 20
	// batchSize is how many bytes of small files one task covers.
	batchSize = 4 << 20
	// readSize is the size of one read in bytes. A worker's buffer holds that
	// and what is left of the read before, which is less than a frame.
	readSize = 1 << 20
	// bundleFiles is how many files share a frame at most (format.md §4).
	bundleFiles = 4096
	// packMemory bounds the buffers of all packs that are being written or
	// put, in bytes: the better part of what a backup needs. Add 1.25 MiB for
	// each worker, the indexes of the packs (3 KiB for each MiB) and the list
	// of files, 300 bytes each. The process then stays below 256 MiB up to
	// some hundred thousand files, whatever their size.
	packMemory = 128 << 20
	uploads    = 2
)

// packSize gives the size at which packs are put so that their buffers stay
// within memory: one a worker, one an upload, one for maps.
func packSize(memory, workers int) int {
	return min(32<<20, memory/(workers+uploads+1)) &^ (1<<20 - 1)
}

// task is a piece of work for one worker: a range of pages of one file, or a
// batch of small files.
type task struct {
	large *file
	off   int64
	n     int64
	small []*file
}

// copier copies files into the packs of one backup.
type copier struct {
	root      string
	blockSize int
	writer    *repo.Writer
	pages     *pages
	rate      *rate

	// Of an incremental backup; nil: a full one.
	selector *selector
	overlays *overlays

	bytes atomic.Int64 // read so far
}

// run copies all files with the given number of workers.
func (c *copier) run(ctx context.Context, files []*file, workers int) error {
	whole := ctx
	g, ctx := errgroup.WithContext(ctx)
	tasks := make(chan task)
	g.Go(func() error {
		defer close(tasks)
		for t := range c.split(files) {
			select {
			case tasks <- t:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			w := c.worker()
			for t := range tasks {
				if err := w.do(ctx, t); err != nil {
					return err // the pack begun is of no use: nothing will be committed
				}
			}
			return w.packs.Close(ctx)
		})
	}
	if err := g.Wait(); err != nil || c.overlays == nil {
		return err
	}
	w := c.worker()
	if err := c.overlays.flush(whole, w); err != nil {
		return err
	}
	return w.packs.Close(whole)
}

func (c *copier) worker() *worker {
	return &worker{copier: c, packs: c.writer.Pack(), chunk: c.rate.chunk(), buf: make([]byte, c.rate.chunk()+repo.MaxFrame)}
}

// split yields the tasks, in the order of the files, so that what lies
// together in the data directory lies together in the packs.
func (c *copier) split(files []*file) func(func(task) bool) {
	return func(yield func(task) bool) {
		var batch task
		for _, f := range files {
			switch size := f.entry.Size; {
			case f.portion == keepAll:
			case f.entry.Dir, size == 0 && f.relation():
				// What a relation has by now is in the WAL. Any other file is
				// looked at again: it may have been written anew at the scan.
			case size < smallFile:
				batch.small = append(batch.small, f)
				if batch.n += size; batch.n >= batchSize {
					if !yield(batch) {
						return
					}
					batch = task{}
				}
			case !f.mainFork():
				// In one piece: the manifest has a digest of the whole.
				f.pending = 1
				if !yield(task{large: f, n: size}) {
					return
				}
			default:
				ranges := c.ranges(f)
				f.pending = len(ranges)
				for _, off := range ranges {
					if !yield(task{large: f, off: off, n: min(rangeSize, size-off)}) {
						return
					}
				}
			}
		}
		if len(batch.small) > 0 {
			yield(batch)
		}
	}
}

// worker is one goroutine's part of a copier.
type worker struct {
	*copier
	packs *repo.PackWriter
	chunk int    // bytes to read at a time
	buf   []byte // of chunk and a frame
}

func (w *worker) do(ctx context.Context, t task) error {
	if t.large == nil {
		return w.copySmall(ctx, t.small)
	}
	h, err := t.large.open(w.root, int64(w.blockSize))
	if err != nil || h == nil {
		return err
	}
	defer h.Close()
	var frames []repo.Frame
	switch {
	case !t.large.mainFork():
		return w.copyWhole(ctx, t.large, h)
	case t.large.portion == storeChanged:
		frames, err = w.copyChanged(ctx, t.large, h, t.off, t.n)
	default:
		frames, err = w.copyRange(ctx, t.large, h, t.off, t.n, nil)
	}
	if err != nil {
		return err
	}
	return w.finish(ctx, t.large, frames)
}

// copyWhole copies a file that keeps a digest of its content.
func (w *worker) copyWhole(ctx context.Context, f *file, h *os.File) error {
	if f.entry.Size == 0 { // emptied since the scan
		return nil
	}
	if f.portion == storeIfNew && f.entry.Size == f.base.Size {
		same, err := w.unchanged(ctx, f, h)
		if err != nil || same {
			return err
		}
	}
	sum := repo.NewDigester()
	frames, err := w.copyRange(ctx, f, h, 0, f.entry.Size, sum)
	if err != nil {
		return err
	}
	f.entry.Digest = sum.Digest()
	return w.finish(ctx, f, frames)
}

// copyRange copies n bytes of f from off on, and gives the frames they went
// into.
func (w *worker) copyRange(ctx context.Context, f *file, h *os.File, off, n int64, sum io.Writer) ([]repo.Frame, error) {
	cache := watchCache(h, off, n)
	defer cache.drop()
	out := newRuns(w.packs, &f.entry, w.blockSize, uint32(off/int64(w.blockSize)))
	left := 0 // bytes at the start of w.buf that are read and not stored yet
	for next, end := off, off+n; next < end; {
		buf := w.buf[left : left+int(min(int64(w.chunk), end-next))]
		after := next + int64(len(buf))
		cache.prefetch(after, min(int64(w.chunk), end-after))
		if err := w.read(ctx, f, h, buf, next); err != nil {
			return nil, err
		}
		if sum != nil {
			sum.Write(buf)
		}
		next = after
		rest, err := out.take(ctx, w.buf[:left+len(buf)], next == end)
		if err != nil {
			return nil, err
		}
		left = copy(w.buf, rest)
	}
	return out.frames, nil
}

// copySmall copies a batch of small files, as many to a frame as fit.
func (w *worker) copySmall(ctx context.Context, files []*file) error {
	frame := w.buf[:0]
	cut := newCutter(w.blockSize)
	var members []repo.Member
	var owners []*file
	flush := func() error {
		if len(members) == 0 {
			return nil
		}
		stored, err := w.packs.WriteBundle(ctx, members)
		if err != nil {
			return fmt.Errorf("store %s and %d more: %w", owners[0].entry.Path, len(owners)-1, err)
		}
		for i, f := range owners {
			f.entry.Bundle = &repo.BundleRef{Place: stored.Place, Member: uint32(i)}
		}
		cut.learn(len(frame), int(stored.Length))
		frame, members, owners = w.buf[:0], members[:0], owners[:0]
		return nil
	}
	for _, f := range files {
		h, err := f.open(w.root, int64(w.blockSize))
		if err != nil {
			return err
		}
		if h == nil {
			continue
		}
		size := int(f.entry.Size)
		switch {
		case size == 0:
		case size >= smallFile: // grew since the scan
			if err = flush(); err == nil {
				f.pending = 1
				err = w.copyWhole(ctx, f, h)
			}
		default:
			if len(frame)+size > cut.size || len(members) == bundleFiles {
				if err = flush(); err != nil {
					break
				}
			}
			data := w.buf[len(frame) : len(frame)+size]
			cache := watchCache(h, 0, int64(size))
			err = w.read(ctx, f, h, data, 0)
			if cache.drop(); err != nil {
				break
			}
			if f.entry.Digest = repo.DigestOf(data); f.inParent() {
				f.inherit()
				break
			}
			frame = w.buf[:len(frame)+size]
			members = append(members, repo.Member{File: f.entry.File, Data: data})
			owners = append(owners, f)
		}
		h.Close()
		if err != nil {
			return err
		}
	}
	return flush()
}

// read fills buf from h at off and verifies it if it is pages.
func (w *worker) read(ctx context.Context, f *file, h *os.File, buf []byte, off int64) error {
	if err := w.rate.wait(ctx, len(buf)); err != nil {
		return err
	}
	if err := readFull(h, buf, off); err != nil {
		return fmt.Errorf("read %s at byte %d: %w", f.entry.Path, off, err)
	}
	w.bytes.Add(int64(len(buf)))
	if f.relation() {
		return w.pages.check(ctx, f, h, buf, off)
	}
	return nil
}

// finish stores the page map once every task of the file is done.
func (w *worker) finish(ctx context.Context, f *file, frames []repo.Frame) error {
	all, complete := f.done(frames)
	if !complete {
		return nil
	}
	if f.portion == storeChanged {
		return w.overlays.add(ctx, w, f, all)
	}
	return w.storeMap(ctx, f, all, repo.NewPageMap(w.writer.ID(), w.pagesOf(f)), nil)
}

// storeMap stores the page map of a file, some of whose pages are in frames, the
// others in older packs.
func (w *worker) storeMap(ctx context.Context, f *file, frames []repo.Frame, m repo.PageMap, older []repo.PackRef) error {
	ref, err := w.writer.WriteMap(ctx, f.entry.File, frames, m, older)
	if err != nil {
		return fmt.Errorf("store the page map of %s: %w", f.entry.Path, err)
	}
	f.entry.Map = &ref
	return nil
}

func (w *worker) pagesOf(f *file) uint32 {
	return uint32((f.entry.Size + int64(w.blockSize) - 1) / int64(w.blockSize))
}

// readFull fills buf from h at off. What lies past the file's end is zeros:
// the file was cut since the scan, and WAL replay cuts it again.
func readFull(h io.ReaderAt, buf []byte, off int64) error {
	n, err := h.ReadAt(buf, off)
	if errors.Is(err, io.EOF) {
		clear(buf[n:])
		return nil
	}
	return err
}
