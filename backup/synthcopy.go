package backup

import (
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"github.com/pgtender/pgtender/backup/repo"
)

const (
	// synthRange is how many bytes of a file are brought together at once, by
	// each worker.
	synthRange = 8 << 20
	// synthMemory is packMemory of a synthetic backup, which needs more beside it.
	synthMemory = 80 << 20
)

// synthWorker is one goroutine's part.
type synthWorker struct {
	*synthesis
	packs *repo.PackWriter
	buf   []byte // room for a range and what is left of the one before

	mu    sync.Mutex
	spare [][]byte // pages to be used again; guarded by mu
}

// copyLarge stores a file that has a page map.
func (w *synthWorker) copyLarge(ctx context.Context, e *repo.Entry) error {
	if w.buf == nil {
		w.buf = make([]byte, synthRange+repo.MaxFrame)
	}
	c := &synthFile{synthWorker: w, entry: e, out: newRuns(w.packs, e, w.block, 0), ahead: make(map[uint32][]byte), sum: repo.NewDigester()}
	c.adopt()
	from := c.out.page
	want := repo.Want{Entry: *e, Pages: func(p uint32) bool { return p >= from }}
	for r, err := range w.m.Locate(ctx, repo.Values([]repo.Want{want})) {
		if err != nil {
			return err
		}
		// Reads come in the order of the file: what lies before this one is
		// complete.
		for c.end() <= int64(r.Page(bits.TrailingZeros64(r.Live)))*int64(w.block) {
			if err := c.store(ctx); err != nil {
				return err
			}
		}
		c.reads = append(c.reads, r)
	}
	for c.off < e.Size {
		if err := c.store(ctx); err != nil {
			return err
		}
	}
	if !e.Digest.IsZero() && c.sum.Digest() != e.Digest {
		return fmt.Errorf("the content of %s has another digest than backup %s says: %w", e.Path, w.m.ID(), repo.ErrCorrupt)
	}
	pages := uint32((e.Size + int64(w.block) - 1) / int64(w.block))
	ref, err := w.w.WriteMap(ctx, e.File, c.out.frames, repo.NewPageMap(w.w.ID(), pages), nil)
	if err != nil {
		return fmt.Errorf("store the page map of %s: %w", e.Path, err)
	}
	e.Map = &ref
	return nil
}

// synthFile is a large file on its way, a range after the other.
type synthFile struct {
	*synthWorker
	entry *repo.Entry
	out   *runs
	sum   repo.Digester
	reads []repo.Read // of the range
	off   int64       // where the range begins
	left  int         // bytes at the start of buf that are not stored yet

	got   int               // bytes of the range; guarded by mu
	ahead map[uint32][]byte // pages of later ranges; guarded by mu
	whole []repo.Sealed     // frames that can stay as they are; guarded by mu
}

// adopt takes over the beginning of the file that a run stored which was killed.
// It was made of the same backup. A file with a digest of the whole has to be
// read from its beginning.
func (c *synthFile) adopt() {
	if !c.entry.Digest.IsZero() {
		return
	}
	i, _ := slices.BinarySearchFunc(c.found, c.entry.File, func(r repo.StoredRun, file uint32) int { return cmp.Compare(r.File, file) })
	for ; i < len(c.found) && c.found[i].File == c.entry.File; i++ {
		r := &c.found[i]
		n := min(int64(r.Frame.Count)*int64(c.block), c.entry.Size-c.off)
		if r.Frame.First != c.out.page || int64(r.Bytes) != n {
			break
		}
		c.out.note(r.Frame, r.Bytes)
		c.off += n
	}
	if c.off > 0 {
		c.progress(c.off)
	}
}

// end is where the range ends.
func (c *synthFile) end() int64 { return min(c.off+synthRange, c.entry.Size) }

// store brings the range together and stores it, but for what makes no frame
// yet.
func (c *synthFile) store(ctx context.Context) error {
	n := int(c.end() - c.off)
	if err := c.rate.wait(ctx, n); err != nil {
		return err
	}
	part := c.buf[c.left : c.left+n]
	if err := c.gather(ctx, part); err != nil {
		return err
	}
	c.sum.Write(part)
	c.off += int64(n)
	rest, err := c.cutAll(ctx, c.buf[:c.left+n])
	if err != nil {
		return err
	}
	c.left = copy(c.buf, rest)
	c.progress(int64(n))
	return nil
}

// gather fills part with the range.
func (c *synthFile) gather(ctx context.Context, part []byte) error {
	c.got, c.whole = 0, c.whole[:0]
	for page, b := range c.ahead {
		if c.put(part, page, b) {
			delete(c.ahead, page)
			c.spare = append(c.spare, b)
		}
	}
	err := c.m.Fetch(ctx, repo.Values(c.reads), repo.FetchOptions{Workers: 2}, func(_ context.Context, r repo.Read, raw []byte) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for first, b := range r.Runs(raw, c.block) {
			for ; len(b) > 0; first++ {
				page := b[:min(len(b), c.block)]
				if !c.put(part, first, page) {
					c.ahead[first] = c.keep(page)
				}
				b = b[len(page):]
			}
		}
		if len(raw) >= minFrame && int64(r.First)*int64(c.block)+int64(len(raw)) <= c.end() {
			if s, ok := r.Sealed(c.block); ok {
				c.whole = append(c.whole, s)
			}
		}
		return nil
	})
	c.reads = c.reads[:0]
	if err == nil && c.got != len(part) {
		err = fmt.Errorf("%d of %d bytes at %d of %s came: %w", c.got, len(part), c.off, c.entry.Path, repo.ErrCorrupt)
	}
	return err
}

// keep copies a page; mu is held.
func (w *synthWorker) keep(page []byte) []byte {
	var room []byte
	if n := len(w.spare); n > 0 {
		room, w.spare = w.spare[n-1], w.spare[:n-1]
	} else {
		room = make([]byte, 0, w.block)
	}
	return append(room[:0], page...)
}

// put copies a page to where it belongs in the range; it reports false for one
// that lies behind it.
func (c *synthFile) put(part []byte, page uint32, b []byte) bool {
	at := int64(page)*int64(c.block) - c.off
	if at >= int64(len(part)) {
		return false
	}
	c.got += copy(part[at:], b)
	return true
}

// cutAll stores data, which begins at the next page to be stored: frames of
// older backups that are live as a whole as they are, the rest anew.
func (c *synthFile) cutAll(ctx context.Context, data []byte) (rest []byte, err error) {
	slices.SortFunc(c.whole, func(a, b repo.Sealed) int { return cmp.Compare(a.First, b.First) })
	for i := range c.whole {
		s := &c.whole[i]
		before := int(s.First-c.out.page) * c.block
		if _, err := c.out.take(ctx, data[:before], true); err != nil {
			return nil, err
		}
		data = data[before:]
		frame, err := c.packs.WriteSealed(ctx, c.entry.File, *s, data[:s.Bytes])
		if err != nil {
			return nil, fmt.Errorf("store %s: %w", c.entry.Path, err)
		}
		c.out.note(frame, s.Bytes)
		data = data[s.Bytes:]
	}
	return c.out.take(ctx, data, c.off == c.entry.Size)
}

// copySmall stores files that lie in bundles, as many to a frame as fit.
func (w *synthWorker) copySmall(ctx context.Context, batch []*repo.Entry) error {
	data := make([][]byte, len(batch))
	total := 0
	for _, e := range batch {
		total += int(e.Size)
	}
	if err := w.rate.wait(ctx, total); err != nil {
		return err
	}
	wants := func(yield func(repo.Want, error) bool) {
		for i, e := range batch {
			if !yield(repo.Want{Tag: int64(i), Entry: *e}, nil) {
				return
			}
		}
	}
	err := w.m.Fetch(ctx, w.m.Locate(ctx, wants), repo.FetchOptions{Workers: 2}, func(_ context.Context, r repo.Read, raw []byte) error {
		data[r.Tag] = append([]byte(nil), raw...) // each read has an element of its own
		return nil
	})
	if err != nil {
		return err
	}
	cut := newCutter(w.block)
	for first := 0; first < len(batch); {
		var members []repo.Member
		size := 0
		for _, e := range batch[first:] {
			d := data[first+len(members)]
			if len(members) == bundleFiles || size > 0 && size+len(d) > cut.size {
				break
			}
			members = append(members, repo.Member{File: e.File, Data: d})
			size += len(d)
		}
		stored, err := w.packs.WriteBundle(ctx, members)
		if err != nil {
			return fmt.Errorf("store %s and %d more: %w", batch[first].Path, len(members)-1, err)
		}
		for i := range members {
			batch[first+i].Bundle = &repo.BundleRef{Place: stored.Place, Member: uint32(i)}
		}
		cut.learn(size, int(stored.Length))
		first += len(members)
	}
	w.progress(int64(total))
	return nil
}
