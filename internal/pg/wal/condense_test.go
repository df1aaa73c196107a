package wal_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pgtender/pgtender/internal/pg/wal"
)

// expanded condenses a chunk and expands it again.
func expanded(t *testing.T, chunk []byte, sound wal.Marks) (condensed []byte, ok bool) {
	t.Helper()
	condensed, ok = wal.Condense(nil, chunk, testBlock, sound)
	if !ok {
		return nil, false
	}
	got := bytes.Repeat([]byte{0xA5}, len(chunk))
	if err := wal.Expand(got, condensed, testBlock); err != nil {
		t.Fatalf("%d bytes condensed to %d: %v", len(chunk), len(condensed), err)
	}
	if !bytes.Equal(got, chunk) {
		t.Fatalf("%d bytes condensed to %d become others", len(chunk), len(condensed))
	}
	return condensed, true
}

func TestCondensedWALExpandsToTheSame(t *testing.T) {
	for major := wal.MinMajor; major <= wal.MaxMajor; major++ {
		b := newBuilder(major, segStart)
		rng := rand.New(rand.NewPCG(60, uint64(major)))
		b.random(rng, segStart+300_000)
		b.record(10, 0, nil, make([]byte, 3*testBlock)) // over several pages
		b.record(10, 0, nil, make([]byte, 200_000))     // over a whole chunk
		b.random(rng, segmentEnd(2)+1)
		for _, n := range b.numbers()[:2] {
			for _, size := range []int{64 << 10, 128 << 10, 1 << 20} {
				for chunk := range slices.Chunk(b.segments[n], size) {
					condensed, ok := expanded(t, chunk, nil)
					if !ok {
						t.Fatalf("PostgreSQL %d: a chunk of %d bytes was not condensed", major, size)
					}
					if saved := len(chunk) - len(condensed); saved < len(chunk)/testBlock*20 {
						t.Errorf("PostgreSQL %d: %d of %d bytes saved, less than page headers", major, saved, len(chunk))
					}
				}
			}
		}
	}
}

// TestACondensedChunkMayEndAnywhere, as that of a segment does in which WAL ends.
func TestACondensedChunkMayEndAnywhere(t *testing.T) {
	b := newBuilder(15, segStart)
	b.random(rand.New(rand.NewPCG(61, 1)), segmentEnd(1)+1)
	chunk, condensed := b.segments[5], 0
	for n := range 3 * testBlock {
		if _, ok := expanded(t, chunk[:n], nil); ok {
			condensed++
		}
	}
	// Between headers of pages, which are not cut, and of the first record.
	if condensed < 3*testBlock-200 {
		t.Errorf("%d of %d lengths are condensed", condensed, 3*testBlock)
	}
}

// TestWhatExpandWouldNotGiveIsNotCondensed: each change leaves bytes that cannot be
// computed where others are expected.
func TestWhatExpandWouldNotGiveIsNotCondensed(t *testing.T) {
	b := newBuilder(15, segStart)
	var starts []int
	for i := range 2000 {
		starts = append(starts, int(b.record(10, 0, nil, make([]byte, 101+i%7))-segStart))
	}
	const chunk = 128 << 10
	sound := b.segments[5][:chunk]
	if _, ok := expanded(t, sound, nil); !ok {
		t.Fatal("sound WAL is not condensed")
	}
	second := starts[1]
	for name, off := range map[string]int{
		"the position of the record before":           second + 8,
		"padding in a record's header":                second + 18,
		"a CRC":                                       second + 20,
		"a body":                                      second + 30,
		"a length":                                    second,
		"padding between records":                     starts[1] - 1,
		"the magic of a page":                         testBlock,
		"the flags of a page":                         testBlock + 2,
		"the timeline of a page":                      testBlock + 4,
		"the address of a page":                       testBlock + 8,
		"the bytes of a record that a page goes on":   testBlock + 16,
		"padding in the header of a page":             testBlock + 20,
		"the first page says that it overwrites":      2,
		"the first page says that it goes on":         2,
		"the first page says how much of a record is": 16,
	} {
		flip := byte(0x10)
		switch name {
		case "the first page says that it overwrites":
			flip = 8
		case "the first page says that it goes on":
			flip = 1
		}
		changed := bytes.Clone(sound)
		changed[off] ^= flip
		if _, ok := expanded(t, changed, nil); ok {
			t.Errorf("%s is another and yet it was condensed", name)
		}
	}
	for name, of := range map[string][]byte{"zeros": make([]byte, chunk), "noise": noise(chunk), "nothing": nil, "a page header": sound[:40]} {
		if _, ok := expanded(t, of, nil); ok {
			t.Errorf("%s was condensed", name)
		}
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{62}).Read(b)
	return b
}

// TestCRCsKnownToBeRightAreNotComputed: what is marked is believed, nothing else.
func TestCRCsKnownToBeRightAreNotComputed(t *testing.T) {
	b := newBuilder(15, segStart)
	first := int(b.record(10, 0, nil, make([]byte, 100)) - segStart)
	second := int(b.record(10, 0, nil, make([]byte, 100)) - segStart)
	chunk := bytes.Clone(b.segments[5][:b.at-segStart])
	chunk[second+20] ^= 1
	var marks wal.Marks
	marks.Reset(len(chunk))
	for _, c := range []struct {
		mark int
		want bool
	}{{first, false}, {second, true}} {
		marks.Add(c.mark)
		if _, ok := wal.Condense(nil, chunk, testBlock, marks); ok != c.want {
			t.Errorf("with a mark at %d: %v, want %v", c.mark, ok, c.want)
		}
	}
	marks.Reset(len(chunk))
	if _, ok := wal.Condense(nil, chunk, testBlock, marks); ok {
		t.Error("forgotten marks count")
	}
}

// TestOnlySoundRecordsAreCalledSound: all that end in the segment, once what has their
// end was given.
func TestOnlySoundRecordsAreCalledSound(t *testing.T) {
	b := newBuilder(15, segStart)
	b.random(rand.New(rand.NewPCG(63, 1)), segmentEnd(1)+1)
	segment := bytes.Clone(b.segments[5])
	var want []int64
	for _, r := range b.records {
		if r.End <= segmentEnd(1) {
			want = append(want, int64(r.Start-segStart))
		}
	}
	p := pieces(segment)
	if _, err := wal.InspectPieces(p, int64(len(segment)), wal.Expect{}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.sound, want) || p.early {
		t.Errorf("%d records are sound of %d; before their time: %v", len(p.sound), len(want), p.early)
	}
	bad := len(want) / 2
	segment[want[bad]+20] ^= 1
	p = pieces(segment)
	if _, err := wal.InspectPieces(p, int64(len(segment)), wal.Expect{}); err == nil {
		t.Fatal("a wrong CRC is not seen")
	}
	if !slices.Equal(p.sound, want[:bad]) {
		t.Errorf("%d records are sound before a wrong CRC, want %d", len(p.sound), bad)
	}
}

// FuzzExpand: what expands is condensed to the same bytes again.
func FuzzExpand(f *testing.F) {
	b := newBuilder(15, segStart)
	b.random(rand.New(rand.NewPCG(64, 1)), segmentEnd(1)+1)
	for _, size := range []int{64 << 10, 10_000, 500} {
		for _, from := range []int{0, 5 * testBlock} {
			chunk := b.segments[5][from : from+size]
			if condensed, ok := wal.Condense(nil, chunk, testBlock, nil); ok {
				f.Add(condensed, uint32(size))
			}
		}
	}
	f.Fuzz(func(t *testing.T, condensed []byte, size uint32) {
		chunk := make([]byte, size%(1<<20))
		if wal.Expand(chunk, condensed, testBlock) != nil {
			return
		}
		again, ok := wal.Condense(nil, chunk, testBlock, nil)
		if !ok || !bytes.Equal(again, condensed) {
			t.Fatalf("%d bytes expand to %d, which are condensed to %d", len(condensed), len(chunk), len(again))
		}
	})
}

// FuzzCondense lays the fuzzer's bytes over sound WAL.
func FuzzCondense(f *testing.F) {
	b := newBuilder(15, segStart)
	b.random(rand.New(rand.NewPCG(65, 1)), segmentEnd(1)+1)
	f.Add(uint32(0), uint32(0), uint32(64<<10), []byte{0})
	f.Add(uint32(3), uint32(30), uint32(64<<10), make([]byte, 30))
	f.Add(uint32(9), uint32(16), uint32(100_001), []byte{1, 2})
	f.Fuzz(func(t *testing.T, page, off, size uint32, patch []byte) {
		segment := b.segments[5]
		chunk := bytes.Clone(segment[int(page)%100*testBlock:])
		chunk = chunk[:int(size)%(len(chunk)+1)]
		if len(chunk) > 0 {
			copy(chunk[int(off)%len(chunk):], patch)
		}
		expanded(t, chunk, nil)
	})
}

func BenchmarkCondense(b *testing.B) {
	s := benchSegment(b)
	sound := pieces(s)
	if _, err := wal.InspectPieces(sound, int64(len(s)), wal.Expect{}); err != nil {
		b.Fatal(err)
	}
	s = s[:1<<20]
	for _, known := range []bool{true, false} {
		b.Run(fmt.Sprintf("known=%v", known), func(b *testing.B) {
			var marks wal.Marks
			marks.Reset(len(s))
			for _, off := range sound.sound {
				if known && off < int64(len(s)) {
					marks.Add(int(off))
				}
			}
			b.SetBytes(int64(len(s)))
			dst := make([]byte, 0, len(s))
			for b.Loop() {
				if _, ok := wal.Condense(dst, s, testBlock, marks); !ok {
					b.Fatal("it is not condensed")
				}
			}
		})
	}
}

func BenchmarkExpand(b *testing.B) {
	s := benchSegment(b)[:1<<20]
	condensed, ok := wal.Condense(nil, s, testBlock, nil)
	if !ok {
		b.Fatal("it is not condensed")
	}
	b.SetBytes(int64(len(s)))
	chunk := make([]byte, len(s))
	for b.Loop() {
		if err := wal.Expand(chunk, condensed, testBlock); err != nil {
			b.Fatal(err)
		}
	}
}
