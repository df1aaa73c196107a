package catchup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/repo"
)

const (
	// chunkSize is how much of a file is written at once.
	chunkSize = 1 << 20
	// alignment of memory, offsets and lengths for direct writes. No disk has
	// larger sectors; a file system that wants more answers EINVAL.
	alignment = 4096
	// openChunks is how many chunks may be gathered beside those of each worker:
	// pages that many backups have stored come together within a window of the
	// fetch, and the one after it begins before it ends.
	openChunks = 2 * repo.FetchWindow / chunkSize
	// writeBackFrom is how much of a file is written to the page cache before the
	// disk begins with it.
	writeBackFrom = 1 << 20
	// heldFiles is how many files are held open at most until they are whole.
	heldFiles = 64
	// reserveFrom is the size from which a file's blocks are asked for at once.
	reserveFrom = 1 << 20
)

// writer puts what a fetch hands over, frames of files in no order, into the
// files. Neighbouring frames are gathered in chunks, so that the disk gets few
// large writes, and goroutines of its own wait for the disk, so that those that
// decode need not. Safe for concurrent use.
//
// Memory: at most limit chunks being gathered, one more per goroutine of the
// fetch, and two per flusher.
type writer struct {
	tree      *tree
	blockSize int
	limit     int
	flushers  int                 // chunks written at the same time
	full      chan *chunk         // detached, to be written
	done      func(*output) error // called once for each file that is whole
	wrote     func(int)           // counts bytes, for progress
	buffered  atomic.Bool         // the file system does not take direct writes

	mu      sync.Mutex
	outputs map[int64]*output
	chunks  []*chunk // oldest first
	held    int      // outputs whose file is held open
}

// output is one file on its way.
type output struct {
	entry repo.Entry
	want  int64 // bytes that are to arrive
	// Guarded by writer.mu.
	arrived int64 // bytes
	pending int   // chunks being written, or held by somebody who copies into them
	dirty   int   // bytes in the page cache that write-back was not begun for
	chunks  map[int64]*chunk
	file    *os.File // held open, as flag says; nil: each write opens it
	flag    int
}

// chunk is an aligned part of a file that is being gathered.
type chunk struct {
	out  *output
	base int64
	buf  []byte
	// Guarded by writer.mu.
	filled int   // bytes
	have   []run // ascending, not touching
	pins   int   // goroutines copying into buf
}

// run is a part of a chunk that has arrived.
type run struct{ from, to int }

var chunkBuffers = sync.Pool{New: func() any {
	raw := make([]byte, chunkSize+alignment)
	skip := -int(uintptr(unsafe.Pointer(&raw[0]))) & (alignment - 1)
	buf := raw[skip : skip+chunkSize : skip+chunkSize]
	return &buf
}}

func newWriter(t *tree, blockSize, workers int) *writer {
	w := &writer{tree: t, blockSize: blockSize, limit: openChunks + 8*workers, flushers: 2 * workers, outputs: map[int64]*output{}}
	w.full = make(chan *chunk, w.flushers)
	w.buffered.Store(directFlag == 0 || blockSize%alignment != 0)
	return w
}

// run calls fetch, which is to hand everything over by write, and returns when
// all of that is written. The first error ends both. Call it once.
func (w *writer) run(ctx context.Context, fetch func(context.Context) error) (err error) {
	defer func() { err = errors.Join(err, w.closeHeld()) }()
	g, ctx := errgroup.WithContext(ctx)
	for range w.flushers {
		g.Go(func() error {
			for c := range w.full {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := w.flush(c); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(w.full)
		return fetch(ctx)
	})
	return g.Wait()
}

// hand passes a detached chunk on to be written.
func (w *writer) hand(ctx context.Context, c *chunk) error {
	select {
	case w.full <- c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// add makes the file of an entry, which has content, and awaits it.
func (w *writer) add(e repo.Entry) error {
	if e.Map != nil {
		f, err := w.tree.create(e.Path, e.Mode)
		if err != nil {
			return err
		}
		if e.Size >= reserveFrom {
			err = reserve(f, e.Size)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("create %s: %w", e.Path, err)
		}
	}
	w.await(e, e.Size)
	return nil
}

func (w *writer) await(e repo.Entry, want int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outputs[int64(e.File)] = &output{entry: e, want: want, chunks: map[int64]*chunk{}}
}

// addPart awaits so many bytes of a file that is there already, and gives it its
// size. Where that was all, it reports false: the file is whole.
func (w *writer) addPart(e repo.Entry, want int64) (bool, error) {
	if err := w.tree.grow(e.Path, e.Mode, e.Size); err != nil {
		return false, err
	}
	if want == 0 {
		return false, w.done(&output{entry: e})
	}
	w.await(e, want)
	return true, nil
}

// write is what a fetch calls.
func (w *writer) write(ctx context.Context, r repo.Read, raw []byte) error {
	w.mu.Lock()
	o := w.outputs[r.Tag]
	w.mu.Unlock()
	if o == nil {
		return fmt.Errorf("content of file %d came after the file was whole", r.Tag)
	}
	if r.Kind == repo.FrameBundle {
		return w.small(o, raw)
	}
	for first, b := range r.Runs(raw, w.blockSize) {
		if err := w.pages(ctx, o, int64(first)*int64(w.blockSize), b); err != nil {
			return err
		}
	}
	return nil
}

// small writes a file that comes whole.
func (w *writer) small(o *output, content []byte) error {
	f, err := w.tree.create(o.entry.Path, o.entry.Mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", o.entry.Path, err)
	}
	w.wrote(len(content))
	return w.whole(o)
}

// pages takes contiguous bytes of a file.
func (w *writer) pages(ctx context.Context, o *output, off int64, b []byte) error {
	for len(b) > 0 {
		base := off - off%chunkSize
		n := int(min(int64(len(b)), base+chunkSize-off))
		c, evicted := w.take(o, base)
		if evicted != nil {
			if err := w.hand(ctx, evicted); err != nil {
				return err
			}
		}
		copy(c.buf[off-base:], b[:n]) // nobody else has these pages
		for _, full := range w.give(c, int(off-base), n) {
			if err := w.hand(ctx, full); err != nil {
				return err
			}
		}
		off, b = off+int64(n), b[n:]
	}
	return nil
}

// take gives the chunk at base for copying into it. Where there are too many,
// the oldest that nobody copies into comes back too, to be flushed.
func (w *writer) take(o *output, base int64) (c, evicted *chunk) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := o.chunks[base]; c != nil {
		c.pins++
		return c, nil
	}
	if len(w.chunks) >= w.limit {
		for _, old := range w.chunks {
			if old.pins == 0 {
				evicted = old
				w.detach(old)
				break
			}
		}
	}
	c = &chunk{out: o, base: base, buf: *chunkBuffers.Get().(*[]byte), pins: 1}
	o.chunks[base] = c
	w.chunks = append(w.chunks, c)
	o.pending++
	return c, evicted
}

// detach takes a chunk out of the books; who does so writes it.
func (w *writer) detach(c *chunk) {
	delete(c.out.chunks, c.base)
	for i, other := range w.chunks {
		if other == c {
			w.chunks = append(w.chunks[:i], w.chunks[i+1:]...)
			return
		}
	}
}

// give notes what was copied into a chunk and gives the chunks that are to be
// written now: this one if it is full, all of the file if that was its last
// part.
func (w *writer) give(c *chunk, from, n int) []*chunk {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := c.out
	c.pins--
	c.filled += n
	c.note(from, from+n)
	o.arrived += int64(n)
	var out []*chunk
	if o.arrived == o.want {
		for _, c := range o.chunks {
			out = append(out, c)
		}
	} else if c.filled == chunkSize {
		out = append(out, c)
	}
	for _, c := range out {
		w.detach(c)
	}
	return out
}

// note adds a run to those that have arrived.
func (c *chunk) note(from, to int) {
	i := 0
	for i < len(c.have) && c.have[i].to < from {
		i++
	}
	j := i
	for j < len(c.have) && c.have[j].from <= to {
		from, to = min(from, c.have[j].from), max(to, c.have[j].to)
		j++
	}
	c.have = slices.Replace(c.have, i, j, run{from, to})
}

// flush writes a detached chunk, and finishes its file if it was the last one.
func (w *writer) flush(c *chunk) error {
	err := w.put(c)
	chunkBuffers.Put(&c.buf)
	o := c.out
	if err != nil {
		return fmt.Errorf("write %s: %w", o.entry.Path, err)
	}
	w.mu.Lock()
	o.pending--
	last := o.pending == 0 && o.arrived == o.want
	w.mu.Unlock()
	if !last {
		return nil
	}
	if err := w.release(o); err != nil {
		return err
	}
	if err := w.settle(o); err != nil {
		return err
	}
	return w.whole(o)
}

func (w *writer) put(c *chunk) error {
	if !w.buffered.Load() {
		err := w.putRuns(c, directFlag)
		if !errors.Is(err, syscall.EINVAL) {
			return err
		}
		w.buffered.Store(true) // this file system cannot do it after all
	}
	return w.putRuns(c, 0)
}

func (w *writer) putRuns(c *chunk, flag int) (err error) {
	f, held, err := w.hold(c.out, flag)
	if err != nil {
		return err
	}
	if !held {
		defer func() { err = errors.Join(err, f.Close()) }()
	}
	for _, r := range c.have {
		to := r.to
		if flag != 0 && to%alignment != 0 {
			// The end of the file; what is too much is cut off when it is whole.
			to = (to + alignment - 1) &^ (alignment - 1)
			clear(c.buf[r.to:to])
		}
		if _, err := f.WriteAt(c.buf[r.from:to], c.base+int64(r.from)); err != nil {
			return err
		}
		w.wrote(r.to - r.from)
	}
	if flag == 0 && w.dirtied(c) {
		startWriteBack(f)
	}
	return nil
}

// hold opens the file of an output for writing, and reports whether it is held open
// for the chunks to come; else the caller closes it.
func (w *writer) hold(o *output, flag int) (f *os.File, held bool, err error) {
	w.mu.Lock()
	f = o.file
	held = f != nil && o.flag == flag
	w.mu.Unlock()
	if held {
		return f, true, nil
	}
	if f, err = w.tree.open(o.entry.Path, os.O_WRONLY|flag); err != nil {
		return nil, false, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if o.file == nil && w.held < heldFiles {
		o.file, o.flag, held = f, flag, true
		w.held++
	}
	return f, held, nil
}

// release closes the file of an output that nobody writes to any more.
func (w *writer) release(o *output) error {
	w.mu.Lock()
	f := o.file
	if f != nil {
		o.file = nil
		w.held--
	}
	w.mu.Unlock()
	if f == nil {
		return nil
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", o.entry.Path, err)
	}
	return nil
}

// closeHeld closes the files that an error has left open.
func (w *writer) closeHeld() (err error) {
	for _, o := range w.outputs {
		err = errors.Join(err, w.release(o))
	}
	return err
}

// dirtied counts what a chunk has left in the page cache, and reports whether the
// kernel should begin to write the file out: what is left to the sync at the end is
// waited for with nothing else to do.
func (w *writer) dirtied(c *chunk) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := c.out
	o.dirty += c.filled
	if o.dirty < writeBackFrom {
		return false
	}
	o.dirty = 0
	return true
}

// settle gives a written file its size and compares its digest, if the backup
// has one of the whole: the frames were checked one by one, this proves that
// each is in its place.
func (w *writer) settle(o *output) error {
	e := &o.entry
	f, err := w.tree.open(e.Path, os.O_RDWR)
	if err != nil {
		return err
	}
	err = func() error {
		info, err := f.Stat()
		if err == nil && info.Size() != e.Size {
			err = f.Truncate(e.Size)
		}
		if err != nil || e.Digest.IsZero() {
			return err
		}
		d := repo.NewDigester()
		if _, err := io.Copy(d, f); err != nil {
			return err
		}
		if got := d.Digest(); got != e.Digest {
			return &repo.CorruptError{Offset: -1, What: fmt.Sprintf("content of %q as restored has digest %s, not %s", e.Path, got, e.Digest)}
		}
		return nil
	}()
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("finish %s: %w", e.Path, err)
	}
	return nil
}

// whole hands on a file that has all its content.
func (w *writer) whole(o *output) error {
	w.mu.Lock()
	delete(w.outputs, int64(o.entry.File))
	w.mu.Unlock()
	return w.done(o)
}

// left gives a file that is not whole, "" if there is none.
func (w *writer) left() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.outputs {
		return o.entry.Path
	}
	return ""
}
