package repo

import (
	"cmp"
	"fmt"
	"slices"
)

// packIndex is the packs a backup leans on. It does not change once built.
type packIndex struct {
	generations []BackupID // by index
	of          map[BackupID]int
	packs       []Pack // ascending by generation index and number
}

func newPackIndex(generations []BackupID, packs []Pack) (*packIndex, error) {
	x := &packIndex{generations: generations, of: make(map[BackupID]int, len(generations)), packs: packs}
	for i, id := range generations {
		if _, twice := x.of[id]; twice || !id.valid() {
			return nil, fmt.Errorf("generation %s is not valid or named twice", id)
		}
		x.of[id] = i
	}
	for _, p := range packs {
		if _, ok := x.of[p.Backup]; !ok {
			return nil, fmt.Errorf("pack %s is of no generation named", p)
		}
		if p.Number == 0 || p.Size < packHead+frameHead+packFoot || p.Size > maxPack {
			return nil, fmt.Errorf("pack %s has %d bytes", p, p.Size)
		}
	}
	slices.SortFunc(packs, x.compare)
	for i := 1; i < len(packs); i++ {
		if packs[i].PackRef == packs[i-1].PackRef {
			return nil, fmt.Errorf("pack %s is named twice", packs[i])
		}
	}
	return x, nil
}

func (x *packIndex) compare(a, b Pack) int {
	return cmp.Or(cmp.Compare(x.of[a.Backup], x.of[b.Backup]), cmp.Compare(a.Number, b.Number))
}

// place gives where a pack stands in the list.
func (x *packIndex) place(ref PackRef) (int, bool) {
	if _, ok := x.of[ref.Backup]; !ok {
		return 0, false
	}
	return slices.BinarySearchFunc(x.packs, Pack{PackRef: ref}, x.compare)
}

// holds reports an error unless the place lies within a pack of the index.
func (x *packIndex) holds(generation int, p Place) error {
	if generation < 0 || generation >= len(x.generations) {
		return fmt.Errorf("generation index %d of %d", generation, len(x.generations))
	}
	return x.within(x.generations[generation], p)
}

func (x *packIndex) within(id BackupID, p Place) error {
	ref := PackRef{Backup: id, Number: p.Pack}
	if _, ok := x.of[id]; !ok {
		return fmt.Errorf("generation %s is not in the manifest", id)
	}
	i, ok := x.place(ref)
	if !ok {
		return fmt.Errorf("pack %s is not in the manifest", ref)
	}
	if p.Offset < packHead || p.Offset+uint64(p.Length) > uint64(x.packs[i].Size)-packFoot {
		return fmt.Errorf("frame at %d+%d is outside of pack %s with %d bytes", p.Offset, p.Length, ref, x.packs[i].Size)
	}
	return nil
}
