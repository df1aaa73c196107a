package pg_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg"
)

// soundPage fills page with a valid header, content and checksum.
func soundPage(page []byte, block uint32) {
	r := rand.New(rand.NewPCG(uint64(block), 1))
	for i := 24; i+4 <= len(page); i += 4 {
		binary.LittleEndian.PutUint32(page[i:], r.Uint32())
	}
	clear(page[:24])
	binary.LittleEndian.PutUint32(page[0:], 0x1)
	binary.LittleEndian.PutUint32(page[4:], 0xA0000028)
	binary.LittleEndian.PutUint16(page[12:], 40)
	binary.LittleEndian.PutUint16(page[14:], 4000)
	binary.LittleEndian.PutUint16(page[16:], uint16(len(page)-16))
	binary.LittleEndian.PutUint16(page[18:], uint16(len(page))|4)
	reseal(page, block)
}

func reseal(page []byte, block uint32) {
	binary.LittleEndian.PutUint16(page[8:], pg.PageChecksum(page, block))
}

func TestPageHeaderFields(t *testing.T) {
	page := make(pg.Page, 8192)
	soundPage(page, 7)
	if got, want := page.LSN().String(), "1/A0000028"; got != want {
		t.Errorf("LSN %s, want %s: the high word comes first", got, want)
	}
	if page.Lower() != 40 || page.Upper() != 4000 || page.Special() != 8176 || page.Size() != 8192 || page.LayoutVersion() != 4 || page.Flags() != 0 {
		t.Errorf("lower %d upper %d special %d size %d version %d flags %d", page.Lower(), page.Upper(), page.Special(), page.Size(), page.LayoutVersion(), page.Flags())
	}
	if page.New() || page.Zero() {
		t.Error("a page in use counts as new")
	}
	if page.Checksum() != pg.PageChecksum(page, 7) || page.Checksum() == pg.PageChecksum(page, 8) {
		t.Error("the checksum does not depend on the block number as it should")
	}
}

func TestVectorAndPureGoSumsAreEqual(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1024, 4096, 8192, 32768} {
		for range 20 {
			pages := 1 + r.IntN(9)
			// An odd start: buffers need not be aligned.
			buf := make([]byte, pages*size+1)[1:]
			for i := range buf {
				buf[i] = byte(r.Uint32())
			}
			got, want := make([]uint32, pages), make([]uint32, pages)
			pg.PageSums(got, buf, size)
			pg.PageSumsGo(want, buf, size)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("page size %d: %s", size, diff)
			}
		}
	}
}

func TestVerifyFindsBadPages(t *testing.T) {
	const size, first = 8192, 131072
	tests := []struct {
		name      string
		checksums bool
		damage    func(page []byte, block uint32)
		want      pg.PageFault // 0: sound
	}{
		{"a sound page", true, func([]byte, uint32) {}, 0},
		{"a new page is all zeros", true, func(p []byte, _ uint32) { clear(p) }, 0},
		{"one flipped bit at the end", true, func(p []byte, _ uint32) { p[size-1] ^= 0x80 }, pg.FaultChecksum},
		{"one flipped bit in the LSN", true, func(p []byte, _ uint32) { p[0] ^= 1 }, pg.FaultChecksum},
		{"one flipped bit of the checksum itself", true, func(p []byte, _ uint32) { p[9] ^= 1 }, pg.FaultChecksum},
		{"a page that belongs elsewhere", true, func(p []byte, b uint32) { soundPage(p, b+1) }, pg.FaultChecksum},
		{"flipped bit without checksums goes unseen", false, func(p []byte, _ uint32) { p[size-1] ^= 0x80 }, 0},
		{"zeroed header with content below", true, func(p []byte, _ uint32) { clear(p[:24]) }, pg.FaultNotZero},
		{"a single stray byte on a new page", false, func(p []byte, _ uint32) { clear(p); p[5000] = 1 }, pg.FaultNotZero},
		{"unknown flags", true, func(p []byte, b uint32) { p[10] = 0x8; reseal(p, b) }, pg.FaultHeader},
		{"lower past upper", true, func(p []byte, b uint32) { binary.LittleEndian.PutUint16(p[12:], 4001); reseal(p, b) }, pg.FaultHeader},
		{"upper past special", false, func(p []byte, _ uint32) { binary.LittleEndian.PutUint16(p[14:], 8184) }, pg.FaultHeader},
		{"special past the page", false, func(p []byte, _ uint32) { binary.LittleEndian.PutUint16(p[16:], 8200) }, pg.FaultHeader},
		{"special not aligned", false, func(p []byte, _ uint32) { binary.LittleEndian.PutUint16(p[16:], 8177) }, pg.FaultHeader},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := pg.PageVerifier{PageSize: size, Checksums: tt.checksums}
			for _, at := range []int{0, 7, 8, 18} { // on both sides of a batch's end, and in the last short one
				buf := make([]byte, 19*size)
				for i := range 19 {
					soundPage(buf[i*size:(i+1)*size], first+uint32(i))
				}
				tt.damage(buf[at*size:(at+1)*size], first+uint32(at))
				bad := v.Verify(buf, first)
				if tt.want == 0 {
					if len(bad) != 0 {
						t.Fatalf("page %d: %v", at, bad)
					}
					continue
				}
				if len(bad) != 1 || bad[0].Block != first+uint32(at) || bad[0].Fault != tt.want {
					t.Fatalf("page %d: got %v, want %v", at, bad, tt.want)
				}
			}
		})
	}
	t.Run("a verifier that knows no page size finds nothing sound", func(t *testing.T) {
		if bad := (pg.PageVerifier{}).Verify(make([]byte, size), 0); len(bad) != 1 || bad[0].Fault != pg.FaultShort {
			t.Errorf("got %v", bad)
		}
	})
	t.Run("half a page at the end", func(t *testing.T) {
		buf := make([]byte, size+100)
		got := pg.PageVerifier{PageSize: size}.Verify(buf, 5)
		if diff := cmp.Diff([]pg.BadPage{{Block: 6, Fault: pg.FaultShort}}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// The value was taken when the implementation agreed with pg_checksums on a
// whole cluster; it guards builds that have no server to ask.
func TestChecksumOfAKnownPage(t *testing.T) {
	page := make([]byte, 8192)
	for i := range page {
		page[i] = byte(i*i>>3 + i)
	}
	for block, want := range map[uint32]uint16{0: 0x1d13, 1: 0x1d12, 131072: 0x1d15} {
		if got := pg.PageChecksum(page, block); got != want {
			t.Errorf("block %d: %#04x, want %#04x", block, got, want)
		}
	}
}
