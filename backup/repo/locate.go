package repo

import (
	"context"
	"fmt"
	"iter"
	"slices"
)

// Want is a file of which pages are wanted.
type Want struct {
	Tag   int64 // handed through to the Reads
	Entry Entry
	// Pages reports whether a page is wanted; nil: all are. It is called
	// several times for a page. A file in a bundle always comes whole.
	Pages func(page uint32) bool
}

// A batch of files whose maps are in memory together ends at either.
const (
	locateFiles = 1024
	locatePages = 1 << 20 // of 8 KiB: 8 GiB; a map has a byte for each
)

// locateTables is how many stored bytes of frame tables are in memory together, if
// one file has no more. In memory they are some eight times as many: a frame of four
// scattered pages is 9 bytes here and 72 there.
var locateTables = 1 << 20 // a variable for tests

// Locate gives the reads that yield the wanted pages of files, each from its
// final place: file by file, and within a file in the order of its pages, from
// whatever generation. No frame occurs twice, none without a wanted page at all.
// Maps and tables are read for many files at a time.
func (m *Manifest) Locate(ctx context.Context, wants iter.Seq2[Want, error]) iter.Seq2[Read, error] {
	return func(yield func(Read, error) bool) {
		var batch []Want
		pages := uint32(0)
		for w, err := range wants {
			if err != nil {
				yield(Read{}, err)
				return
			}
			batch = append(batch, w)
			pages += m.pages(&w.Entry)
			if len(batch) < locateFiles && pages < locatePages {
				continue
			}
			if !m.locate(ctx, batch, yield) {
				return
			}
			batch, pages = batch[:0], 0
		}
		m.locate(ctx, batch, yield)
	}
}

func (m *Manifest) pages(e *Entry) uint32 {
	return uint32((e.Size + int64(m.Backup.BlockSize) - 1) / int64(m.Backup.BlockSize))
}

// locate handles one batch; it reports whether more is wanted.
func (m *Manifest) locate(ctx context.Context, batch []Want, yield func(Read, error) bool) bool {
	entries := make([]Entry, 0, len(batch))
	for i := range batch {
		entries = append(entries, batch[i].Entry)
	}
	maps, err := m.ReadMaps(ctx, entries)
	if err != nil {
		yield(Read{}, err)
		return false
	}
	for len(batch) > 0 {
		n := tablesTogether(maps)
		if !m.locateFiles(ctx, batch[:n], maps[:n], yield) {
			return false
		}
		batch, maps = batch[n:], maps[n:]
	}
	return true
}

// tablesTogether is how many of the files, at least one, have their frame tables in
// memory together.
func tablesTogether(maps []PageMap) int {
	stored := 0
	for i := range maps {
		for _, g := range maps[i].Generations {
			stored += int(g.Table.Length)
		}
		if stored > locateTables && i > 0 {
			return i
		}
	}
	return len(maps)
}

// locateFiles yields the reads of files whose maps are known.
func (m *Manifest) locateFiles(ctx context.Context, batch []Want, maps []PageMap, yield func(Read, error) bool) bool {
	tables, err := m.readTables(ctx, batch, maps)
	if err != nil {
		yield(Read{}, err)
		return false
	}
	for i := range batch {
		w := &batch[i]
		switch {
		case w.Entry.Bundle != nil:
			if !yield(m.bundleRead(w), nil) {
				return false
			}
		case w.Entry.Map != nil:
			if !m.locateFile(w, &maps[i], tables[i], yield) {
				return false
			}
		}
	}
	return true
}

func (m *Manifest) bundleRead(w *Want) Read {
	b := w.Entry.Bundle
	r := Read{Tag: w.Tag, Backup: m.Generations[b.Generation], Kind: FrameBundle, Frame: Frame{Place: b.Place}, Size: w.Entry.Size, Member: b.Member, Digest: w.Entry.Digest}
	if b.Generation == 0 {
		r.File = w.Entry.File
	}
	return r
}

// locateFile yields the reads of one file, each frame where its first wanted
// page comes in the file, and checks that they bring all.
func (m *Manifest) locateFile(w *Want, pm *PageMap, tables []FrameTable, yield func(Read, error) bool) bool {
	wanted := w.Pages
	if wanted == nil {
		wanted = func(uint32) bool { return true }
	}
	missing := 0
	next := make([]int, len(tables)) // frame of each generation's table
	for p := range pm.Pages {
		if !wanted(p) {
			continue
		}
		missing++
		g := pm.Generation(p)
		table, i := tables[g], next[g]
		if i > 0 && p <= table[i-1].last() {
			continue // it came with that frame
		}
		for i < len(table) && table[i].last() < p {
			i++
		}
		next[g] = i
		if i == len(table) {
			continue
		}
		next[g]++
		f := &table[i]
		live := uint64(0)
		for j := range int(f.Count) {
			if p := f.Page(j); p < pm.Pages && pm.Generation(p) == g && wanted(p) {
				live |= 1 << j
				missing--
			}
		}
		if live != 0 && !m.yieldFrame(w, &pm.Generations[g], f, live, yield) {
			return false
		}
	}
	if missing != 0 {
		yield(Read{}, &CorruptError{Key: m.key, Offset: -1, What: fmt.Sprintf("%d pages of %q are in no frame table", missing, w.Entry.Path)})
		return false
	}
	return true
}

// yieldFrame yields the read of one frame's live pages.
func (m *Manifest) yieldFrame(w *Want, gen *Generation, f *Frame, live uint64, yield func(Read, error) bool) bool {
	if ref := (PackRef{gen.Backup, f.Pack}); !slices.Contains(w.Entry.Map.Packs, ref) {
		yield(Read{}, &CorruptError{Key: m.key, Offset: -1, What: fmt.Sprintf("live pages of %q are in pack %s, which its entry does not name", w.Entry.Path, ref)})
		return false
	}
	r := Read{Tag: w.Tag, Backup: gen.Backup, Kind: FrameRun, File: gen.File, Frame: *f, Live: live, Size: w.Entry.Size}
	if f.Pages != nil {
		r.Kind = FrameList
	}
	return yield(r, nil)
}

// ReadMaps reads the page maps of files, in the order of entries; those
// without a map have a zero value there.
func (m *Manifest) ReadMaps(ctx context.Context, entries []Entry) ([]PageMap, error) {
	out := make([]PageMap, len(entries))
	reads := func(yield func(Read, error) bool) {
		for i := range entries {
			f := entries[i].Map
			if f == nil {
				continue
			}
			if f.Generation < 0 || f.Generation >= len(m.Generations) {
				yield(Read{}, fmt.Errorf("entry %q: generation index %d of %d", entries[i].Path, f.Generation, len(m.Generations)))
				return
			}
			if !yield(Read{Tag: int64(i), Backup: m.Generations[f.Generation], Kind: FramePageMap, File: f.File, Frame: Frame{Place: f.Place}}, nil) {
				return
			}
		}
	}
	err := m.Fetch(ctx, reads, FetchOptions{}, func(_ context.Context, r Read, raw []byte) error {
		pm, err := parseMap(raw)
		if err == nil {
			err = m.checkMap(&pm, &entries[r.Tag])
		}
		if err != nil {
			return at(inside(err, 0, "page map of %q", entries[r.Tag].Path), m.repo.packKey(PackRef{r.Backup, r.Pack}), int64(r.Offset))
		}
		out[r.Tag] = pm
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// checkMap compares a map with the manifest that leads to it.
func (m *Manifest) checkMap(pm *PageMap, e *Entry) error {
	if want := m.pages(e); pm.Pages != want {
		return damage(0, "it is for %d pages, the file has %d", pm.Pages, want)
	}
	for _, g := range pm.Generations {
		if err := m.index.within(g.Backup, g.Table); err != nil {
			return damage(0, "%v", err)
		}
		if ref := (PackRef{g.Backup, g.Table.Pack}); !slices.Contains(e.Map.Packs, ref) {
			return damage(0, "the frame table of generation %s is in pack %s, which the entry does not name", g.Backup, ref)
		}
	}
	return nil
}

// ReadTable reads the frame table of one generation of a page map.
func (m *Manifest) ReadTable(ctx context.Context, g Generation) (FrameTable, error) {
	pm := []PageMap{{Pages: 1, Generations: []Generation{g}}}
	tables, err := m.readTables(ctx, []Want{{}}, pm)
	if err != nil {
		return nil, err
	}
	return tables[0][0], nil
}

// readTables reads the tables of those generations that hold a wanted page:
// per file and generation, nil where none does.
func (m *Manifest) readTables(ctx context.Context, batch []Want, maps []PageMap) ([][]FrameTable, error) {
	out := make([][]FrameTable, len(maps))
	reads := func(yield func(Read, error) bool) {
		for i := range maps {
			out[i] = make([]FrameTable, len(maps[i].Generations))
			used := maps[i].used(batch[i].Pages)
			for g, gen := range maps[i].Generations {
				r := Read{Tag: int64(i)<<8 | int64(g), Backup: gen.Backup, Kind: FrameTables, File: gen.File, Frame: Frame{Place: gen.Table}}
				if used[g] && !yield(r, nil) {
					return
				}
			}
		}
	}
	err := m.Fetch(ctx, reads, FetchOptions{}, func(_ context.Context, r Read, raw []byte) error {
		table, err := parseTable(raw)
		if err != nil {
			i := r.Tag >> 8
			return at(inside(err, 0, "frame table of %q", batch[i].Entry.Path), m.repo.packKey(PackRef{r.Backup, r.Pack}), int64(r.Offset))
		}
		out[r.Tag>>8][r.Tag&0xff] = table
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// used says which generations hold a page that is wanted.
func (m *PageMap) used(wanted func(uint32) bool) (used [maxGenerations]bool) {
	if wanted == nil {
		for i := range m.Generations {
			used[i] = true
		}
		return used
	}
	for p := range m.Pages {
		if !used[m.Generation(p)] && wanted(p) {
			used[m.Generation(p)] = true
		}
	}
	return used
}
