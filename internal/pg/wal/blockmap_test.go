package wal_test

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg/wal"
)

var relA = wal.Relation{Tablespace: 1663, Database: 5, Number: 16384}

// model is a block map of one fork that is plainly right.
type model struct {
	limit  uint32
	blocks map[uint32]bool
}

func newModel() *model { return &model{1<<32 - 1, map[uint32]bool{}} }

func (m *model) truncate(n uint32) {
	m.limit = min(m.limit, n)
	maps.DeleteFunc(m.blocks, func(b uint32, _ bool) bool { return b >= n })
}

func (m *model) mark(b uint32) {
	if b < m.limit {
		m.blocks[b] = true
	}
}

// play does the same random things to a map and to its model.
func play(rng *rand.Rand, m *wal.BlockMap, want *model, steps int) {
	dense := rng.IntN(2) == 0
	for range steps {
		switch rng.IntN(2000) {
		case 0:
			n := rng.Uint32N(300000)
			m.Truncate(relA, wal.Main, n)
			want.truncate(n)
		default:
			b := rng.Uint32N(1 << 30)
			if dense {
				b = rng.Uint32N(70000) // enough of them make lists and bitmaps
			}
			m.Mark(relA, wal.Main, b)
			want.mark(b)
		}
	}
}

func compare(t *testing.T, rng *rand.Rand, m *wal.BlockMap, want *model) {
	t.Helper()
	c := m.Recorded(relA, wal.Main)
	blocks := slices.Sorted(maps.Keys(want.blocks))
	if got := slices.Collect(c.Blocks(0, 1<<32-1)); !slices.Equal(got, blocks) {
		t.Fatalf("%d blocks, want other %d", len(got), len(blocks))
	}
	if limit, ok := c.Limit(); ok != (want.limit != 1<<32-1) || ok && limit != want.limit || c.Count() != len(blocks) {
		t.Fatalf("limit %d, count %d; want %d, %d", limit, c.Count(), want.limit, len(blocks))
	}
	low := rng.Uint32N(250000)
	high := low + rng.Uint32N(100000)
	part := slices.DeleteFunc(slices.Clone(blocks), func(b uint32) bool { return b < low || b >= high })
	if got := slices.Collect(c.Blocks(low, high)); !slices.Equal(got, part) {
		t.Fatalf("blocks of [%d, %d): %d, want %d", low, high, len(got), len(part))
	}
	for range 200 {
		b := rng.Uint32N(300000)
		if want := want.blocks[b] || b >= want.limit; m.Changed(relA, wal.Main, b) != want {
			t.Fatalf("block %d changed: %v, want %v", b, !want, want)
		}
	}
	back, err := wal.DecodeBlockMap(m.Encode())
	if err != nil || !back.Equal(m) {
		t.Fatalf("the encoding reads as another map: %v", err)
	}
}

func TestABlockMapIsTheSetThatWasMarked(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(30, seed))
		older, newer := new(wal.BlockMap), new(wal.BlockMap)
		wantOlder, wantNewer := newModel(), newModel()
		play(rng, older, wantOlder, 1+rng.IntN(30000))
		play(rng, newer, wantNewer, 1+rng.IntN(30000))
		compare(t, rng, older, wantOlder)
		compare(t, rng, newer, wantNewer)
		before := newer.Encode()
		reverse := new(wal.BlockMap)
		reverse.Merge(newer)
		reverse.Merge(older)
		older.Merge(newer)
		maps.Copy(wantOlder.blocks, wantNewer.blocks)
		wantOlder.truncate(min(wantOlder.limit, wantNewer.limit))
		compare(t, rng, older, wantOlder)
		if !reverse.Equal(older) {
			t.Fatal("merged the other way round, the map is another")
		}
		older.Mark(relA, wal.Main, 1<<31)
		older.Truncate(relA, wal.Main, 0)
		if !bytes.Equal(newer.Encode(), before) {
			t.Fatal("a merge or what came after it changed the newer map")
		}
	}
}

func TestTheOrderOfMarksDoesNotShowInTheEncoding(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 1))
	blocks := make([]uint32, 9000)
	for i := range blocks {
		blocks[i] = rng.Uint32N(100000)
	}
	var a, b wal.BlockMap
	for i, n := range blocks {
		a.Mark(relA, wal.Main, n)
		a.MarkWhole(wal.Database{Tablespace: 1663, Database: uint32(i % 7)})
		b.Mark(relA, wal.Main, blocks[len(blocks)-1-i])
		b.MarkWhole(wal.Database{Tablespace: 1663, Database: uint32((len(blocks) - 1 - i) % 7)})
	}
	if !bytes.Equal(a.Encode(), b.Encode()) {
		t.Error("the same marks in another order encode differently")
	}
}

func TestChangedIsNeverTooLittle(t *testing.T) {
	var m wal.BlockMap
	m.Mark(relA, wal.Main, 7)
	m.MarkWhole(wal.Database{Tablespace: 1700, Database: 9})
	other := wal.Relation{Tablespace: 1663, Database: 5, Number: 1}
	for _, c := range []struct {
		name  string
		rel   wal.Relation
		fork  wal.Fork
		block uint32
		want  bool
	}{
		{"a marked block", relA, wal.Main, 7, true},
		{"its neighbour", relA, wal.Main, 8, false},
		{"another relation", other, wal.Main, 7, false},
		{"a visibility map", other, wal.VM, 7, true},
		{"a free space map", other, wal.FSM, 7, true},
		{"an init fork", other, wal.Init, 7, true},
		{"a database created as a whole", wal.Relation{Tablespace: 1700, Database: 9, Number: 3}, wal.Main, 0, true},
		{"the same database in another tablespace", wal.Relation{Tablespace: 1663, Database: 9, Number: 3}, wal.Main, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := m.Changed(c.rel, c.fork, c.block); got != c.want {
				t.Errorf("changed %v, want %v", got, c.want)
			}
		})
	}
}

func TestForksComeInOrder(t *testing.T) {
	var m wal.BlockMap
	want := []wal.RelationFork{
		{Relation: wal.Relation{Tablespace: 1663, Database: 4, Number: 9}},
		{Relation: wal.Relation{Tablespace: 1663, Database: 5, Number: 1}},
		{Relation: wal.Relation{Tablespace: 1663, Database: 5, Number: 1}, Fork: wal.VM},
		{Relation: wal.Relation{Tablespace: 1664, Database: 0, Number: 1}},
	}
	for i := range want {
		k := want[len(want)-1-i]
		m.Mark(k.Relation, k.Fork, 0)
	}
	var got []wal.RelationFork
	for k := range m.Forks() {
		got = append(got, k)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzDecodeBlockMap(f *testing.F) {
	var m wal.BlockMap
	f.Add(m.Encode())
	m.MarkWhole(wal.Database{Tablespace: 1663, Database: 5})
	m.Mark(relA, wal.Main, 70000)
	m.Mark(relA, wal.Main, 70001)
	m.Truncate(relA, wal.VM, 3)
	m.Mark(wal.Relation{Tablespace: 1664, Number: 1260}, wal.Main, 1<<32-2)
	f.Add(m.Encode())
	for i := range uint32(9000) {
		m.Mark(relA, wal.Main, i*7)
	}
	f.Add(m.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := wal.DecodeBlockMap(b)
		if err != nil {
			if !errors.Is(err, wal.ErrCorrupt) {
				t.Fatalf("error %v is no %v", err, wal.ErrCorrupt)
			}
			return
		}
		if got := m.Encode(); !bytes.Equal(got, b) {
			t.Fatalf("%x was read, %x written", b, got)
		}
	})
}
