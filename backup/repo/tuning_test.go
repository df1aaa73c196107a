package repo

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
)

// ascending gives n bytes of an index whose keys ascend: tuples of a place, a
// length and a key (IndexTupleData, itup.h).
func ascending(n int) []byte {
	b := make([]byte, 0, n)
	for key := 0; len(b)+16 <= n; key++ {
		b = binary.LittleEndian.AppendUint16(b, uint16(key/61>>16))
		b = binary.LittleEndian.AppendUint16(b, uint16(key/61))
		b = binary.LittleEndian.AppendUint16(b, uint16(key%61+1))
		b = binary.LittleEndian.AppendUint16(b, 16)
		b = binary.LittleEndian.AppendUint64(b, uint64(key))
	}
	return append(b, make([]byte, n-len(b))...)
}

// rows gives n bytes of a heap: text with little in it that is new.
func rows(n int) []byte {
	var b []byte
	for i := 0; len(b) < n; i++ {
		d := DigestOf(binary.AppendUvarint(nil, uint64(i)))
		b = fmt.Appendf(b, `{"customer": %d, "state": "returned", "tags": ["paid", %d], "token": "%s"}`, i*104729%50000, i%17, d)
	}
	return b[:n]
}

func TestAFrameIsCompressedTheWayThatSuitsItsFile(t *testing.T) {
	const size = 256 << 10
	r, c := Open(nil, ClusterID{Scope: "x", SystemID: 1}, Options{}), newCompressor()
	var tune tuning
	for step, test := range []struct {
		file  uint32
		raw   []byte
		n     int // frames
		brief bool
	}{
		{1, rows(size), 20, false},
		{2, ascending(size), 100, true},
		{3, rows(size), 100, false},
		{3, ascending(size), 65, true}, // the same file: noticed at the next trial
	} {
		h := frameHeader{kind: FrameRun, file: test.file}
		var last []byte
		for range test.n {
			out, used, err := tune.compress(c, make([]byte, 0, c.bound(size)), test.raw, &h, r)
			if err != nil || used != CodecZstd {
				t.Fatalf("step %d: %s, %v", step, used, err)
			}
			got := make([]byte, size)
			if err := expand(c, got, out, used); err != nil || !bytes.Equal(got, test.raw) {
				t.Fatalf("step %d: a frame does not come back: %v", step, err)
			}
			last = out
		}
		if tune.brief != (test.brief && hasSearch) {
			t.Errorf("step %d: brief matches are %t", step, tune.brief)
		}
		for _, brief := range []bool{false, true} {
			other, err := c.compress(nil, test.raw, 1, searchFor(brief))
			if err != nil {
				t.Fatal(err)
			}
			if len(last)*(100-briefGain) > len(other)*100 {
				t.Errorf("step %d: %d bytes stored, where brief %t makes %d of them", step, len(last), brief, len(other))
			}
		}
	}
}

func TestTrialsAreFew(t *testing.T) {
	for name, test := range map[string]struct {
		frame, level int
		file         func(i int) uint32
		frames, want int
	}{
		"one large file":        {256 << 10, 1, func(int) uint32 { return 1 }, 4096, 64},
		"a file for each frame": {64 << 10, 1, func(i int) uint32 { return uint32(i + 1) }, 4096, 64},
		"files of 8 MiB":        {256 << 10, 1, func(i int) uint32 { return uint32(i/32 + 1) }, 1024, 32},
		"another level":         {256 << 10, 3, func(i int) uint32 { return uint32(i + 1) }, 1024, 0},
	} {
		var tune tuning
		trials := 0
		for i := range test.frames {
			if file := test.file(i); tune.due(file, test.frame, test.level) {
				trials++
				tune.begun, tune.file, tune.since = true, file, 0
			}
		}
		if !hasSearch {
			test.want = 0
		}
		if trials > test.want || trials < test.want*9/10 {
			t.Errorf("%s: %d trials in %d frames, want %d", name, trials, test.frames, test.want)
		}
	}
}
