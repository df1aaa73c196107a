package backup

import (
	"context"
	"fmt"
	"os"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// ranges gives the beginnings of the ranges of a large relation file that are
// looked at, at least one.
func (c *copier) ranges(f *file) []int64 {
	var out []int64
	for off := int64(0); off < f.entry.Size; off += rangeSize {
		if f.portion != storeChanged || c.selector.touched(f, off, min(off+rangeSize, f.entry.Size)) {
			out = append(out, off)
		}
	}
	if len(out) == 0 { // shorter than before, and nothing else
		out = append(out, 0)
	}
	return out
}

const (
	// changedRun is what a frame of contiguous pages that changed holds at
	// most, in bytes before compression.
	changedRun = 64 << 10
	// changedList is what one of scattered pages holds. Who wants one of them
	// decodes them all, and most of an older backup's are superseded. Twice this
	// would store 3 % less, and have a restore of the last of 60 backups of 8 %
	// each decode a fifth more; half of this would store 5 % more and gain no
	// time, for smaller frames are slower to decode.
	changedList = 32 << 10
)

// copyChanged stores the pages that changed, of n bytes of a relation's file
// from off on, and gives the frames they went into.
func (w *worker) copyChanged(ctx context.Context, f *file, h *os.File, off, n int64) ([]repo.Frame, error) {
	cache := watchPages(h, off, n)
	defer cache.drop()
	out := scatter{worker: w, file: f}
	var err error
	if w.selector.blocks == nil {
		cache.look(off, n)
		err = w.scanPages(ctx, &out, h, &cache, off, n)
	} else {
		err = w.readPages(ctx, &out, h, &cache, off, n)
	}
	if err != nil {
		return nil, err
	}
	return out.frames, out.flush(ctx)
}

// unchanged reads a file that keeps a digest of its content. Where it is the
// parent's content, it stays where the parent has it.
func (w *worker) unchanged(ctx context.Context, f *file, h *os.File) (bool, error) {
	cache := watchCache(h, 0, f.entry.Size)
	defer cache.drop()
	sum := repo.NewDigester()
	for off := int64(0); off < f.entry.Size; {
		buf := w.buf[:min(int64(len(w.buf)), f.entry.Size-off)]
		if err := w.read(ctx, f, h, buf, off); err != nil {
			return false, err
		}
		sum.Write(buf)
		off += int64(len(buf))
	}
	if f.entry.Digest = sum.Digest(); !f.inParent() {
		return false, nil
	}
	f.inherit()
	return true, nil
}

// extent is a run of pages of a file: its first byte and its length.
type extent struct{ off, n int64 }

// readPages reads the pages that WAL names, and nothing between them.
func (w *worker) readPages(ctx context.Context, out *scatter, h *os.File, cache *cacheWatch, off, n int64) error {
	f, size := out.file, int64(w.blockSize)
	first := f.class.Rel.FirstBlock(w.selector.segment)
	low, high := first+uint32(off/size), first+uint32((off+n)/size)
	buf := w.buf
	var some []extent // together at most as long as buf
	length := int64(0)
	flush := func() error {
		at := int64(0)
		for _, x := range some {
			page := buf[at : at+x.n]
			if err := w.read(ctx, f, h, page, x.off); err != nil {
				return err
			}
			if err := out.add(ctx, uint32(x.off/size), page); err != nil {
				return err
			}
			at += x.n
		}
		some, length = some[:0], 0
		return nil
	}
	for begin, end := range w.selector.runs(f, f.base, low, high) {
		for at, last := int64(begin-first)*size, int64(end-first)*size; at < last; {
			x := extent{at, min(last-at, int64(len(buf))-length)}
			cache.look(x.off, x.n)
			// Asked for together, so that the disk is not idle between them.
			cache.prefetch(x.off, x.n)
			some = append(some, x)
			at += x.n
			if length += x.n; length == int64(len(buf)) {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// noLSN is the highest LSN that no record has: an empty page has 0, and one that
// the build of a GiST index wrote 1 (GistBuildLSN, access/gist.h).
const noLSN = pg.LSN(1)

// scanPages reads all pages and stores those that may have changed since the
// parent's start: a page's LSN is the end of the last record that changed it. That
// is so while checksums or wal_log_hints are on, and nothing tells whether they
// were off for a while since the parent. So what is kept must hash to what the
// parent stored, too: vacuum marks a page all-visible without a new LSN then, and
// the visibility map, which is stored whole, would say so of the parent's page
// that knows nothing of it.
func (w *worker) scanPages(ctx context.Context, out *scatter, h *os.File, cache *cacheWatch, off, n int64) error {
	f, size := out.file, int64(w.blockSize)
	since := w.selector.parent.Start.LSN
	stored, err := w.parentHashes(ctx, f, off, n)
	if err != nil {
		return err
	}
	for end := off + n; off < end; {
		buf := w.buf[:min(int64(len(w.buf)), end-off)]
		cache.prefetch(off+int64(len(buf)), min(int64(len(w.buf)), end-off-int64(len(buf))))
		if err := w.read(ctx, f, h, buf, off); err != nil {
			return err
		}
		taken := func(i int64) bool {
			page := pg.Page(buf[i : i+size])
			return page.LSN() <= noLSN || page.LSN() >= since || !stored.equal((off+i)/size, page)
		}
		for i := int64(0); i < int64(len(buf)); {
			j := i
			for j < int64(len(buf)) && taken(j) {
				j += size
			}
			if err := out.add(ctx, uint32((off+i)/size), buf[i:j]); err != nil {
				return err
			}
			i = j + size // the page at j is kept, or past the end
		}
		off += int64(len(buf))
	}
	return nil
}

// pageHashes are those of the parent's pages of a part of a file.
type pageHashes struct {
	first  int64 // page
	hashes []uint64
	known  []bool
}

// equal reports whether the parent has the page with this content.
func (p *pageHashes) equal(number int64, page pg.Page) bool {
	i := number - p.first
	return i < int64(len(p.known)) && p.known[i] && p.hashes[i] == repo.PageHash(page)
}

// parentHashes finds the hashes of the parent's pages in n bytes of a file from
// off on; of none where what is stored of them is damaged.
func (w *worker) parentHashes(ctx context.Context, f *file, off, n int64) (pageHashes, error) {
	size := int64(w.blockSize)
	first, pages := off/size, max(0, min(n, f.base.Size-off))/size
	out := pageHashes{first: first, hashes: make([]uint64, pages), known: make([]bool, pages)}
	if pages == 0 {
		return out, nil
	}
	within := func(p uint32) bool { return int64(p) >= first && int64(p) < first+pages }
	wants := func(yield func(repo.Want, error) bool) { yield(repo.Want{Entry: *f.base, Pages: within}, nil) }
	err := func() error {
		for r, err := range w.overlays.parent.Locate(ctx, wants) {
			if err != nil {
				return err
			}
			hashes, err := w.overlays.hashes.Of(ctx, &r)
			if err != nil {
				return err
			}
			for i, hash := range hashes {
				if r.Live>>i&1 == 1 {
					at := int64(r.Page(i)) - first
					out.hashes[at], out.known[at] = hash, true
				}
			}
		}
		return nil
	}()
	if damaged(err) {
		w.pages.log.WarnContext(ctx, "the parent backup is damaged; pages of the file are stored anew", "file", f.entry.Path, "error", err)
		return pageHashes{}, nil
	}
	return out, err
}

// scatter puts pages that come in ascending order into frames: full frames of
// contiguous pages, and what lies scattered together in lists. The pages of two
// frames never interleave, as a frame table demands.
type scatter struct {
	*worker
	file   *file
	pages  []uint32 // collected for the next list
	raw    []byte
	frames []repo.Frame
}

// add takes contiguous pages from page first on.
func (s *scatter) add(ctx context.Context, first uint32, raw []byte) error {
	for len(raw) > 0 {
		if len(raw) >= changedList {
			// A long run is worth more whole than a list that is full.
			if err := s.flush(ctx); err != nil {
				return err
			}
			run := raw[:min(len(raw), changedRun)]
			frame, err := s.packs.WriteRun(ctx, s.file.entry.File, first, run)
			if err != nil {
				return fmt.Errorf("store %s: %w", s.file.entry.Path, err)
			}
			s.frames = append(s.frames, frame)
			raw, first = raw[len(run):], first+uint32(len(run)/s.blockSize)
			continue
		}
		s.pages = append(s.pages, first)
		s.raw = append(s.raw, raw[:s.blockSize]...)
		raw, first = raw[s.blockSize:], first+1
		if len(s.raw)+s.blockSize > changedList {
			if err := s.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush stores what was collected.
func (s *scatter) flush(ctx context.Context) error {
	n := len(s.pages)
	if n == 0 {
		return nil
	}
	var frame repo.Frame
	var err error
	if first := s.pages[0]; int(s.pages[n-1]-first) == n-1 {
		frame, err = s.packs.WriteRun(ctx, s.file.entry.File, first, s.raw)
	} else {
		frame, err = s.packs.WriteList(ctx, s.file.entry.File, s.pages, s.raw)
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", s.file.entry.Path, err)
	}
	s.frames, s.pages, s.raw = append(s.frames, frame), s.pages[:0], s.raw[:0]
	return nil
}
