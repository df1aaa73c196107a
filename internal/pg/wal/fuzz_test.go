package wal_test

import (
	"bytes"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/pgtender/pgtender/internal/pg/wal"
)

// FuzzInspect lays the fuzzer's bytes over a sound segment.
func FuzzInspect(f *testing.F) {
	b := newBuilder(15, segStart)
	b.random(rand.New(rand.NewPCG(40, 1)), segmentEnd(1)+1)
	sound := b.segments[5]
	f.Add(uint32(0), []byte{0x18, 0xD1}, false)
	f.Add(uint32(8192), make([]byte, 8192), true)
	f.Add(uint32(40), []byte{255, 255, 0, 0}, true)
	f.Add(uint32(testSegSize-8), []byte{255, 255, 255, 0, 0, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, off uint32, patch []byte, unfinished bool) {
		segment := bytes.Clone(sound)
		copy(segment[off%uint32(len(segment)):], patch)
		in, err := wal.Inspect(segment, wal.Expect{SystemID: testSystem, Unfinished: unfinished})
		if err != nil {
			if !errors.Is(err, wal.ErrCorrupt) && !errors.Is(err, wal.ErrForeign) {
				t.Fatalf("error %v is of no known kind", err)
			}
			return
		}
		if in.Info.End < in.Info.Start || in.Info.End > in.Info.SegmentEnd() {
			t.Fatalf("the segment from %s ends at %s", in.Info.Start, in.Info.End)
		}
		if _, err := wal.DecodeCarry(in.Carry.Encode()); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzRecord gives the fuzzer's bytes a right length and CRC, so that they are
// decoded.
func FuzzRecord(f *testing.F) {
	b := newBuilder(15, segStart)
	refs := []ref{{rel: relA, block: 3, image: 20, data: 4}, {rel: relA, fork: wal.VM, block: 1}}
	f.Add(uint8(15), b.encode(10, 0, refs, []byte("main")))
	f.Add(uint8(13), b.encode(1, 0x80, nil, dropAll(2, 3)))
	f.Add(uint8(18), b.encode(4, 0x20, nil, make([]byte, 16)))
	f.Add(uint8(17), b.encode(0, 0x60, nil, make([]byte, 28)))
	f.Add(uint8(14), b.encode(2, 0x20, nil, make([]byte, 20)))
	f.Fuzz(func(t *testing.T, major uint8, rec []byte) {
		if len(rec) < 24 || len(rec) > 1<<16 {
			return
		}
		b := newBuilder(wal.MinMajor+int(major)%6, segStart)
		le.PutUint32(rec, uint32(len(rec)))
		b.seal(rec)
		b.page(0)
		b.put(rec, uint32(len(rec)))
		in, err := wal.Inspect(b.segments[5], wal.Expect{})
		if err != nil {
			if !errors.Is(err, wal.ErrCorrupt) {
				t.Fatalf("error %v is of no known kind", err)
			}
			return
		}
		m, err := wal.DecodeBlockMap(in.Map.Encode())
		if err != nil || !m.Equal(in.Map) {
			t.Fatalf("the map does not survive its encoding: %v", err)
		}
		// The same record in two parts must say the same.
		cut := 24 + int(major)%(len(rec)-23)
		if cut == len(rec) {
			return
		}
		castagnoli := crc32.MakeTable(crc32.Castagnoli)
		tail := &wal.Unfinished{
			Major: b.major, Start: segStart + 40, Total: uint32(len(rec)), Length: uint32(cut),
			CRC: crc32.Checksum(rec[24:cut], castagnoli), Bytes: rec[:cut],
		}
		rest := rec[cut:]
		head := &wal.Head{
			Remaining: uint32(len(rest)), Length: uint32(len(rest)),
			CRC: crc32.Checksum(rest, castagnoli), Bytes: rest,
		}
		done, err := wal.Complete(tail, head)
		if err != nil || !done.Map.Equal(in.Map) || done.Flags != in.Info.Flags {
			t.Fatalf("completed from parts: %v, flags %s, want %s", err, done.Flags, in.Info.Flags)
		}
	})
}
