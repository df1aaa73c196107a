package repo

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// leaning is what a backup that is being committed needs of older ones: of all
// that it may lean on, the packs that an entry does lean on. So a pack of which
// nothing is live any more is free once the last backup that needs it is gone.
type leaning struct {
	index *packIndex
	// generations gives the index in the manifest for that in the references
	// of the caller.
	generations []int
	held        []uint32 // scratch
}

// leaning finds the packs that the entries need.
func (w *Writer) leaning(own []Pack, c *Contents) (*leaning, error) {
	all, err := newPackIndex(append([]BackupID{w.id}, c.Generations...), append(slices.Clone(own), c.Packs...))
	if err != nil {
		return nil, err
	}
	needed := make([]bool, len(all.packs))
	need := func(ref PackRef) error {
		i, ok := all.place(ref)
		if !ok {
			return fmt.Errorf("pack %s is not in the manifest", ref)
		}
		needed[i] = true
		return nil
	}
	for e, err := range c.Entries {
		if err != nil {
			return nil, err
		}
		if err := eachPack(&e, all.generations, need); err != nil {
			return nil, fmt.Errorf("entry %q: %w", e.Path, err)
		}
	}
	l := &leaning{generations: make([]int, len(all.generations))}
	ids, packs := []BackupID{w.id}, own
	for i, p := range all.packs {
		g := all.of[p.Backup]
		if g == 0 || !needed[i] {
			continue
		}
		if l.generations[g] == 0 {
			l.generations[g] = len(ids)
			ids = append(ids, p.Backup)
		}
		packs = append(packs, p)
	}
	l.index, err = newPackIndex(ids, packs)
	return l, err
}

// eachPack calls f for the packs that a file needs.
func eachPack(e *Entry, generations []BackupID, f func(PackRef) error) error {
	at := func(g int, number uint32) error {
		if g < 0 || g >= len(generations) {
			return fmt.Errorf("generation index %d of %d", g, len(generations))
		}
		return f(PackRef{generations[g], number})
	}
	if r := e.Bundle; r != nil {
		return at(r.Generation, r.Pack)
	}
	r := e.Map
	if r == nil {
		return nil
	}
	if len(r.Packs) == 0 {
		return fmt.Errorf("its page map leads to no pack")
	}
	for _, p := range r.Packs {
		if err := f(p); err != nil {
			return err
		}
	}
	return at(r.Generation, r.Pack)
}

// settle makes the references of an entry those of the manifest. What the entry
// points to is not changed.
func (l *leaning) settle(e *Entry) error {
	if r := e.Bundle; r != nil {
		ref := *r
		ref.Generation = l.generations[r.Generation]
		e.Bundle = &ref
	}
	if r := e.Map; r != nil {
		ref := *r
		ref.Generation = l.generations[r.Generation]
		l.held = l.held[:0]
		for _, p := range r.Packs {
			i, ok := l.index.place(p)
			if !ok {
				return fmt.Errorf("entry %q: pack %s was not among those needed before", e.Path, p)
			}
			l.held = append(l.held, uint32(i))
		}
		slices.Sort(l.held)
		ref.held = slices.Compact(l.held)
		e.Map = &ref
	}
	return nil
}

// heldPacks makes packs of places in a manifest's list. Files that follow one
// another often lean on the same ones, and share the list.
type heldPacks struct {
	index *packIndex
	held  []uint32 // of the last entry
	packs []PackRef
}

func (h *heldPacks) resolve(e *Entry) error {
	if e.Map == nil {
		return nil
	}
	if !slices.Equal(h.held, e.Map.held) {
		packs := make([]PackRef, 0, len(e.Map.held))
		for _, at := range e.Map.held {
			if int64(at) >= int64(len(h.index.packs)) {
				return fmt.Errorf("entry %q: pack %d of %d", e.Path, at, len(h.index.packs))
			}
			packs = append(packs, h.index.packs[at].PackRef)
		}
		h.held, h.packs = e.Map.held, packs
	}
	e.Map.Packs, e.Map.held = h.packs, nil
	return nil
}

// Kept gives, for files of m whose maps were overlaid, the older packs that
// their new maps lean on. bases are the files' entries in m, before their maps
// in m, after the new ones. A frame table is read only where some pages of a
// generation that lies in several packs were superseded.
func (m *Manifest) Kept(ctx context.Context, bases []Entry, before, after []PageMap) ([][]PackRef, error) {
	out := make([][]PackRef, len(bases))
	reads := func(yield func(Read, error) bool) {
		for i := range bases {
			k := keeper{packs: bases[i].Map.Packs, before: &before[i], after: &after[i]}
			for _, g := range k.doubtful(&out[i]) {
				gen := &after[i].Generations[g]
				if !yield(Read{Tag: int64(i)<<8 | int64(g), Backup: gen.Backup, Kind: FrameTables, File: gen.File, Frame: Frame{Place: gen.Table}}, nil) {
					return
				}
			}
		}
	}
	// Of their own, for reads goes on while answers come.
	var mu sync.Mutex
	var answers []tableAnswer // guarded by mu
	err := m.Fetch(ctx, reads, FetchOptions{}, func(_ context.Context, r Read, raw []byte) error {
		i, g := int(r.Tag>>8), int(r.Tag&0xff)
		table, err := parseTable(raw)
		if err == nil {
			var packs []PackRef
			if packs, err = after[i].packsOf(g, table, bases[i].Map.Packs); err == nil {
				mu.Lock()
				defer mu.Unlock()
				answers = append(answers, tableAnswer{i, packs})
			}
		}
		return at(inside(err, 0, "frame table of %q", bases[i].Path), m.repo.packKey(PackRef{r.Backup, r.Pack}), int64(r.Offset))
	})
	if err != nil {
		return nil, err
	}
	for _, a := range answers {
		out[a.file] = append(out[a.file], a.packs...)
	}
	return out, nil
}

type tableAnswer struct {
	file  int
	packs []PackRef
}

// keeper finds what a file's new map leans on.
type keeper struct {
	packs         []PackRef // of the old map
	before, after *PageMap
}

// doubtful adds the packs of the generations that can be told without their
// frame table, and gives the indexes in after of those that cannot.
func (k *keeper) doubtful(sure *[]PackRef) (ask []int) {
	old, now := k.before.counts(), k.after.counts()
	for g := range k.after.Generations {
		gen := &k.after.Generations[g]
		o := slices.IndexFunc(k.before.Generations, func(b Generation) bool { return b.Backup == gen.Backup })
		if o < 0 {
			continue // the backup that is being written
		}
		var of []PackRef
		for _, p := range k.packs {
			if p.Backup == gen.Backup {
				of = append(of, p)
			}
		}
		// One pack holds the table, the others pages. A generation only ever
		// loses pages.
		if len(of) > 2 && old[o] != now[g] {
			ask = append(ask, g)
			continue
		}
		*sure = append(*sure, of...)
	}
	return ask
}

// counts gives the number of pages of each generation.
func (m *PageMap) counts() [maxGenerations]int {
	var n [maxGenerations]int
	if m.Local == nil {
		n[0] = int(m.Pages)
	}
	for _, g := range m.Local {
		n[g]++
	}
	return n
}

// packsOf gives the packs that hold a live page of a generation, and that of
// its table, all of which must be known.
func (m *PageMap) packsOf(g int, table FrameTable, known []PackRef) ([]PackRef, error) {
	gen := &m.Generations[g]
	out := []PackRef{{gen.Backup, gen.Table.Pack}}
	for i := range table {
		f := &table[i]
		ref := PackRef{gen.Backup, f.Pack}
		if slices.Contains(out, ref) {
			continue
		}
		for j := range int(f.Count) {
			if p := f.Page(j); p < m.Pages && m.Generation(p) == g {
				out = append(out, ref)
				break
			}
		}
	}
	for _, p := range out {
		if !slices.Contains(known, p) {
			return nil, damage(0, "it leads to pack %s, which the manifest does not name for the file", p)
		}
	}
	return out, nil
}
