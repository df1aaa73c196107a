package repo

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestBothZstdImplementationsReadEachOther(t *testing.T) {
	noise := make([]byte, 64<<10)
	rand.NewChaCha8([32]byte{3}).Read(noise)
	mixed := append(bytes.Repeat([]byte("page "), 9000), noise[:5000]...)
	one, two := newCompressor(), compressor(newPureZstd())
	for name, raw := range map[string][]byte{"noise": noise, "mixed": mixed, "zeros": make([]byte, 1<<20), "one byte": {1}} {
		for _, c := range []struct{ enc, dec compressor }{{one, two}, {two, one}, {two, two}, {one, one}} {
			stored, err := c.enc.compress(make([]byte, 0, c.enc.bound(len(raw))), raw, 1, search(len(raw)%4))
			if err != nil {
				t.Fatal(err)
			}
			if len(stored) > c.enc.bound(len(raw)) {
				t.Errorf("%s: %T: %d bytes became %d, more than the bound of %d", name, c.enc, len(raw), len(stored), c.enc.bound(len(raw)))
			}
			got := make([]byte, len(raw))
			if err := c.dec.decompress(got, stored); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("%s: %T to %T: %v", name, c.enc, c.dec, err)
			}
			// The length announced is a limit, and exact.
			guard := bytes.Repeat([]byte{0xee}, len(raw)+16)
			if err := c.dec.decompress(guard[:len(raw)-1:len(raw)], stored); err == nil {
				t.Errorf("%s: %T: a frame that is longer than announced was taken", name, c.dec)
			}
			if !bytes.Equal(guard[len(raw):], bytes.Repeat([]byte{0xee}, 16)) {
				t.Errorf("%s: %T wrote past its destination", name, c.dec)
			}
			if err := c.dec.decompress(make([]byte, len(raw)+1), stored); err == nil {
				t.Errorf("%s: %T: a frame that is shorter than announced was taken", name, c.dec)
			}
			for _, n := range []int{0, 1, len(stored) / 2, len(stored) - 1} {
				if err := c.dec.decompress(got, stored[:n]); err == nil {
					t.Errorf("%s: %T: a frame cut to %d of %d bytes was taken", name, c.dec, n, len(stored))
				}
			}
		}
	}
}

func TestWhatDoesNotShrinkIsStoredAsItIs(t *testing.T) {
	noise := make([]byte, 1000)
	rand.NewChaCha8([32]byte{4}).Read(noise)
	for name, test := range map[string]struct {
		raw   []byte
		codec Codec
		want  Codec
	}{
		"noise":          {noise, CodecZstd, CodecNone},
		"text":           {bytes.Repeat([]byte("x"), 1000), CodecZstd, CodecZstd},
		"no compression": {bytes.Repeat([]byte("x"), 1000), CodecNone, CodecNone},
		"nothing":        {nil, CodecZstd, CodecNone},
	} {
		stored, used, err := compressNew(test.raw, test.codec, 1)
		if err != nil || used != test.want || used == CodecNone && !bytes.Equal(stored, test.raw) {
			t.Errorf("%s: %s, %v", name, used, err)
		}
		got := make([]byte, len(test.raw))
		if err := expand(newCompressor(), got, stored, used); err != nil || !bytes.Equal(got, test.raw) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStringsAreEncodedAsBySpecification(t *testing.T) {
	for _, s := range []string{"", "plain", "\"\\/", "\b\t\n\f\r\x00\x1f\x7f", "<>&'", "ä€😀", "\u2028\u2029\ufffd"} {
		want, err := encodeJSON(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := appendString(nil, s); !bytes.Equal(got, want) {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

// The frame path must not allocate: it runs once for each 64 KiB.
func TestWritingAFrameDoesNotAllocate(t *testing.T) {
	w := &Writer{repo: Open(nil, ClusterID{Scope: "x", SystemID: 1}, Options{}), blockSize: 8192, opts: WriteOptions{PackSize: 64 << 20}}
	w.id = 1 << 40
	w.ctx = t.Context()
	p := w.newPackWriter(packData)
	raw := bytes.Repeat([]byte("some page "), 6000)[:57344]
	write := func() {
		if _, err := p.WriteRun(t.Context(), 1, 0, raw); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if n := testing.AllocsPerRun(100, write); n > 1 {
		t.Errorf("%v allocations per frame", n)
	}
}
