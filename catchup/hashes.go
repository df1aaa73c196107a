package catchup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/repo"
)

// hashes leaves out of the reads of relation files the pages that the directory
// has already. It compares them with the hashes in the indexes of the packs, so
// that it rests on nothing that the directory says of itself.
type hashes struct {
	*runner
	delta   *delta
	writer  *writer
	journal *journal

	entries map[int64]repo.Entry // by file number: awaited, not seen yet
	stored  *repo.PageHashes
}

// await notes a file whose pages are to be compared.
func (h *hashes) await(e *repo.Entry) { h.entries[int64(e.File)] = *e }

// filter passes on the reads with what is wanted of them. Those of one file come
// one after the other.
func (h *hashes) filter(ctx context.Context, reads iter.Seq2[repo.Read, error]) iter.Seq2[repo.Read, error] {
	return func(yield func(repo.Read, error) bool) {
		var file []repo.Read
		pass := func() bool {
			if len(file) == 0 {
				return true
			}
			rest, err := h.differing(ctx, file)
			file = file[:0]
			if err != nil {
				yield(repo.Read{}, err)
				return false
			}
			for _, r := range rest {
				if !yield(r, nil) {
					return false
				}
			}
			return true
		}
		for r, err := range reads {
			if err != nil {
				yield(repo.Read{}, err)
				return
			}
			if len(file) > 0 && file[0].Tag != r.Tag && !pass() {
				return
			}
			if _, ok := h.entries[r.Tag]; ok {
				file = append(file, r)
			} else if !yield(r, nil) {
				return
			}
		}
		pass()
	}
}

// differing gives what is to be read of one file.
func (h *hashes) differing(ctx context.Context, reads []repo.Read) ([]repo.Read, error) {
	e := h.entries[reads[0].Tag]
	delete(h.entries, reads[0].Tag)
	f, err := h.tree.open(e.Path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading
	pages, err := h.pages(ctx, reads)
	if err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(h.opts.Workers)
	for run := range runs(pages) {
		g.Go(func() error { return h.compare(ctx, f, &e, run) })
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("compare %s: %w", e.Path, err)
	}
	for _, p := range pages {
		if p.equal {
			reads[p.read].Live &^= 1 << p.bit
		}
	}
	var rest []repo.Read
	bytes := int64(0)
	for _, r := range reads {
		if r.Live != 0 {
			rest = append(rest, r)
			bytes += h.live(&r)
		}
	}
	if bytes == 0 && h.tree.size(e.Path) == e.Size {
		return nil, h.keep(&e)
	}
	h.meter.grow(bytes)
	_, err = h.writer.addPart(e, bytes)
	return rest, err
}

// keep notes a file that was found to be equal. What is in it may be in memory
// only: a killed server wrote it, or a killed run.
func (h *hashes) keep(e *repo.Entry) error {
	h.result.Kept++
	return h.journal.add(item{number: e.File, path: e.Path, size: e.Size, kept: true})
}

// live counts the bytes of the pages that are wanted.
func (h *hashes) live(r *repo.Read) (n int64) {
	for i := range int(r.Count) {
		if r.Live>>i&1 == 1 {
			n += min(h.delta.blockSize, r.Size-int64(r.Page(i))*h.delta.blockSize)
		}
	}
	return n
}

// hashedPage is one page that is wanted unless the file has it.
type hashedPage struct {
	number uint32
	bit    uint8 // of the read's Live
	equal  bool
	read   int // which of the file's reads brings it
	hash   uint64
}

// pages lists the pages that the reads of a file would bring, ascending.
func (h *hashes) pages(ctx context.Context, reads []repo.Read) ([]hashedPage, error) {
	var out []hashedPage
	for i := range reads {
		r := &reads[i]
		want, err := h.stored.Of(ctx, r)
		if err != nil {
			return nil, err
		}
		for bit := range int(r.Count) {
			if r.Live>>bit&1 == 1 {
				out = append(out, hashedPage{number: r.Page(bit), bit: uint8(bit), read: i, hash: want[bit]})
			}
		}
	}
	slices.SortFunc(out, func(a, b hashedPage) int { return cmp.Compare(a.number, b.number) })
	return out, nil
}

// runPages is how many pages are read at once, and gapPages how many are read
// although nobody asks for them: the repository has most files page by page, in
// whatever generation.
const (
	runPages = 128
	gapPages = 15
)

// runs cuts a file's pages into what is read at once.
func runs(pages []hashedPage) iter.Seq[[]hashedPage] {
	return func(yield func([]hashedPage) bool) {
		for first := 0; first < len(pages); {
			n := first + 1
			for n < len(pages) && pages[n].number-pages[first].number < runPages && pages[n].number-pages[n-1].number <= gapPages+1 {
				n++
			}
			if !yield(pages[first:n:n]) {
				return
			}
			first = n
		}
	}
}

// compare marks the pages of a run that the file has.
func (h *hashes) compare(ctx context.Context, f io.ReaderAt, e *repo.Entry, run []hashedPage) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	size := h.delta.blockSize
	start, end := int64(run[0].number)*size, min(int64(run[len(run)-1].number+1)*size, e.Size)
	buf := runBuffers.Get().(*[]byte)
	defer runBuffers.Put(buf)
	if int64(len(*buf)) < end-start {
		*buf = make([]byte, max(end-start, runPages*size))
	}
	n, err := f.ReadAt((*buf)[:end-start], start)
	have := (*buf)[:n]
	if err != nil && !errors.Is(err, io.EOF) && len(run) > 1 {
		// A bad sector spoils its page, not the others.
		for i := range run {
			if err := h.compare(ctx, f, e, run[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		// That is what a rewrite mends.
		h.log.WarnContext(ctx, "page cannot be read and is fetched", "page", run[0].number, "error", err)
		return nil
	}
	for i := range run {
		from := int64(run[i].number)*size - start
		to := min(from+size, end-start)
		run[i].equal = to <= int64(len(have)) && repo.PageHash(have[from:to]) == run[i].hash
	}
	return nil
}

var runBuffers = sync.Pool{New: func() any { return new([]byte) }}
