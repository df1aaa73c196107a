package catchup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/repo"
)

// hashes leaves out of the reads of relation files the pages that the directory
// has already. It compares them with the hashes in the indexes of the packs, so
// that it rests on nothing that the directory says of itself.
type hashes struct {
	*runner
	delta  *delta
	writer *writer

	entries map[int64]repo.Entry // by file number: awaited, not seen yet
	packs   map[repo.PackRef]*packHashes
	order   []repo.PackRef // of packs, the oldest first
}

// packHashes are the page hashes of a pack by the offset of the frame.
type packHashes map[uint64][]uint64

// keptPacks is how many packs' hashes are in memory: some 200 KB each.
const keptPacks = 128

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
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(h.opts.Workers)
	for i := range reads {
		want, err := h.hashesOf(ctx, &reads[i])
		if err != nil {
			return nil, errors.Join(err, g.Wait())
		}
		g.Go(func() error { return h.compare(ctx, f, &reads[i], want) })
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("compare %s: %w", e.Path, err)
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
		h.result.Kept++
		return nil, nil
	}
	h.meter.grow(bytes)
	_, err = h.writer.addPart(e, bytes)
	return rest, err
}

// live counts the bytes of the pages that are wanted.
func (h *hashes) live(r *repo.Read) (n int64) {
	for i := range int(r.Count) {
		if r.Live>>i&1 == 1 {
			n += min(h.delta.blockSize, r.Size-int64(pageOf(r, i))*h.delta.blockSize)
		}
	}
	return n
}

// pageOf gives the number of a frame's i-th page.
func pageOf(r *repo.Read, i int) uint32 {
	if r.Pages != nil {
		return r.Pages[i]
	}
	return r.First + uint32(i)
}

// compare takes the pages out of a read that the file has.
func (h *hashes) compare(ctx context.Context, f io.ReaderAt, r *repo.Read, want []uint64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	buf := make([]byte, h.delta.blockSize)
	for i := range int(r.Count) {
		if r.Live>>i&1 == 0 {
			continue
		}
		at := int64(pageOf(r, i)) * h.delta.blockSize
		page := buf[:min(h.delta.blockSize, r.Size-at)]
		switch _, err := f.ReadAt(page, at); {
		case err == nil:
			if repo.PageHash(page) == want[i] {
				r.Live &^= 1 << i
			}
		case !errors.Is(err, io.EOF):
			// A bad sector is what a rewrite mends.
			h.log.WarnContext(ctx, "page cannot be read and is fetched", "page", pageOf(r, i), "error", err)
		}
	}
	return nil
}

// hashesOf gives the hashes of a frame's pages.
func (h *hashes) hashesOf(ctx context.Context, r *repo.Read) ([]uint64, error) {
	ref := repo.PackRef{Backup: r.Backup, Number: r.Pack}
	p := h.packs[ref]
	if p == nil {
		var err error
		if p, err = h.readPack(ctx, ref); err != nil {
			return nil, err
		}
		if len(h.order) == keptPacks {
			delete(h.packs, h.order[0])
			h.order = h.order[1:]
		}
		h.packs[ref], h.order = p, append(h.order, ref)
	}
	found := (*p)[r.Offset]
	if len(found) != int(r.Count) {
		return nil, &repo.CorruptError{Offset: int64(r.Offset), What: fmt.Sprintf("the index of pack %s has %d page hashes for a frame of %d pages", ref, len(found), r.Count)}
	}
	return found, nil
}

func (h *hashes) readPack(ctx context.Context, ref repo.PackRef) (*packHashes, error) {
	for _, pack := range h.manifest.Packs {
		if pack.PackRef != ref {
			continue
		}
		index, err := h.opts.Repo.ReadPackIndex(ctx, pack)
		if err != nil {
			return nil, fmt.Errorf("read page hashes: %w", err)
		}
		out := packHashes{}
		for i := range index.Frames {
			out[index.Frames[i].Offset] = index.Frames[i].Hashes
		}
		return &out, nil
	}
	return nil, &repo.CorruptError{Offset: -1, What: fmt.Sprintf("pack %s is not in the backup's list", ref)}
}
