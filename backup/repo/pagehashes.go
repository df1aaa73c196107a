package repo

import (
	"context"
	"fmt"
	"sync"
)

// PageHashes looks up what pages of a backup hash to, in the indexes of the packs
// that hold them: what is stored, without reading it. Safe for concurrent use.
type PageHashes struct {
	manifest *Manifest

	mu    sync.Mutex
	packs map[PackRef]*packHashes
	order []PackRef // of packs, the oldest first
}

// packHashes are the page hashes of a pack by the offset of the frame.
type packHashes struct {
	mu     sync.Mutex // held while they are read
	frames map[uint64][]uint64
}

// keptPacks is how many packs' hashes are in memory: some 200 KB each.
const keptPacks = 128

// PageHashes gives the hashes of the pages that the manifest leads to.
func (m *Manifest) PageHashes() *PageHashes {
	return &PageHashes{manifest: m, packs: map[PackRef]*packHashes{}}
}

// Of gives the hashes of the pages of a frame that [Manifest.Locate] named, wanted
// or not. [ErrCorrupt] means that the pack's index is not what belongs to the
// backup.
func (h *PageHashes) Of(ctx context.Context, r *Read) ([]uint64, error) {
	ref := PackRef{Backup: r.Backup, Number: r.Pack}
	p := h.pack(ref)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frames == nil {
		frames, err := h.read(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("read page hashes: %w", err)
		}
		p.frames = frames
	}
	found := p.frames[r.Offset]
	if len(found) != int(r.Count) {
		return nil, &CorruptError{Offset: int64(r.Offset), What: fmt.Sprintf("the index of pack %s has %d page hashes for a frame of %d pages", ref, len(found), r.Count)}
	}
	return found, nil
}

// pack gives the place of a pack's hashes, which may not have been read yet.
func (h *PageHashes) pack(ref PackRef) *packHashes {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.packs[ref]
	if p != nil {
		return p
	}
	if len(h.order) == keptPacks {
		delete(h.packs, h.order[0])
		h.order = h.order[1:]
	}
	p = new(packHashes)
	h.packs[ref], h.order = p, append(h.order, ref)
	return p
}

func (h *PageHashes) read(ctx context.Context, ref PackRef) (map[uint64][]uint64, error) {
	for _, pack := range h.manifest.Packs {
		if pack.PackRef != ref {
			continue
		}
		index, err := h.manifest.repo.ReadPackIndex(ctx, pack)
		if err != nil {
			return nil, err
		}
		out := make(map[uint64][]uint64, len(index.Frames))
		for i := range index.Frames {
			out[index.Frames[i].Offset] = index.Frames[i].Hashes
		}
		return out, nil
	}
	return nil, &CorruptError{Offset: -1, What: fmt.Sprintf("pack %s is not in the backup's list", ref)}
}
