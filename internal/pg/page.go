package pg

import (
	"encoding/binary"
	"fmt"
)

// Page is one page of a relation file, header included. It is a view of bytes
// that belong to the caller, as long as one page (Control.BlockSize).
type Page []byte

// The page header (PageHeaderData, bufpage.h) is 24 bytes.
const (
	pageHeaderSize = 24
	pageFlagsValid = 0x7 // PD_VALID_FLAG_BITS
)

// LSN gives the end of the last WAL record that changed the page. It is stored
// as two words, the high one first, and so is not one little-endian number.
func (p Page) LSN() LSN {
	return LSN(binary.LittleEndian.Uint32(p))<<32 | LSN(binary.LittleEndian.Uint32(p[4:]))
}

// Checksum gives the checksum as stored.
func (p Page) Checksum() uint16 { return binary.LittleEndian.Uint16(p[8:]) }

// Flags gives the pd_flags.
func (p Page) Flags() uint16 { return binary.LittleEndian.Uint16(p[10:]) }

// Lower gives the offset at which free space begins.
func (p Page) Lower() uint16 { return binary.LittleEndian.Uint16(p[12:]) }

// Upper gives the offset at which free space ends.
func (p Page) Upper() uint16 { return binary.LittleEndian.Uint16(p[14:]) }

// Special gives the offset of the access method's own space.
func (p Page) Special() uint16 { return binary.LittleEndian.Uint16(p[16:]) }

// Size gives the page size noted in the header: its low byte holds the version.
func (p Page) Size() int { return int(binary.LittleEndian.Uint16(p[18:]) & 0xff00) }

// LayoutVersion gives the version of the page's layout; 4 since PostgreSQL 8.3.
func (p Page) LayoutVersion() uint8 { return p[18] }

// New reports whether the page was never initialised (PageIsNew): upper is 0.
// The rest of a sound new page is zero too, see [Page.Zero].
func (p Page) New() bool { return p.Upper() == 0 }

// Zero reports whether every byte is 0.
func (p Page) Zero() bool {
	for len(p) >= 8 {
		if binary.LittleEndian.Uint64(p) != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// saneHeader applies the rules of PageIsVerified (bufpage.c) to a page that is
// not new.
func (p Page) saneHeader() bool {
	lower, upper, special := p.Lower(), p.Upper(), p.Special()
	return p.Flags()&^pageFlagsValid == 0 &&
		lower <= upper && upper <= special && int(special) <= len(p) && special%8 == 0
}

// PageChecksum gives the checksum that belongs on page, whose block number
// within the relation's fork (not within the segment file) is block. The stored
// checksum takes no part. The page's size must be a multiple of 128 bytes, as
// all of PostgreSQL's are.
//
// It is pg_checksum_page of checksum_impl.h: 32 FNV-1a lanes side by side.
func PageChecksum(page []byte, block uint32) uint16 {
	var sum [1]uint32
	pageSums(sum[:], page, len(page))
	return foldChecksum(sum[0], block)
}

// foldChecksum mixes the block number into a page's sum, so that a page in the
// wrong place is seen, and brings it to 1..65535.
func foldChecksum(sum, block uint32) uint16 { return uint16((sum^block)%65535 + 1) }

// PageFault says what is wrong with a page.
type PageFault uint8

// The faults.
const (
	FaultChecksum PageFault = iota + 1 // the stored checksum is not the page's
	FaultHeader                        // the header contradicts itself
	FaultNotZero                       // a new page that is not all zeros
	FaultShort                         // the end of the buffer, less than a page
)

// String gives the fault in words.
func (f PageFault) String() string {
	switch f {
	case FaultChecksum:
		return "checksum mismatch"
	case FaultHeader:
		return "invalid page header"
	case FaultNotZero:
		return "uninitialised page with content"
	case FaultShort:
		return "incomplete page"
	}
	return "sound page"
}

// BadPage is a page that a [PageVerifier] complains about.
type BadPage struct {
	Block  uint32 // number within the fork
	Fault  PageFault
	LSN    LSN    // from the page's header; 0 for FaultShort
	Stored uint16 // the checksum found
	Want   uint16 // the checksum computed; 0 unless FaultChecksum
}

func (b BadPage) String() string {
	if b.Fault == FaultChecksum {
		return fmt.Sprintf("block %d: %s: stored %04X, computed %04X, page LSN %s", b.Block, b.Fault, b.Stored, b.Want, b.LSN)
	}
	return fmt.Sprintf("block %d: %s, page LSN %s", b.Block, b.Fault, b.LSN)
}

// PageVerifier checks pages as a server does when it reads them (PageIsVerified,
// bufpage.c): the checksum if the cluster has them, the header, and that a new
// page is empty. Relation files of every fork consist of such pages. Take one
// from [Control.PageVerifier]; to the zero value every page is FaultShort.
type PageVerifier struct {
	PageSize  int // bytes, a multiple of 128
	Checksums bool
}

// PageVerifier gives the verifier for the cluster's relation files.
func (c Control) PageVerifier() PageVerifier {
	return PageVerifier{PageSize: int(c.BlockSize), Checksums: c.Checksums()}
}

// verifyBatch is how many pages are summed at a time: 64 KiB of the usual ones
// stay in the nearest cache between the sums and the look at the headers.
const verifyBatch = 8

// Verify gives the bad pages of buf, whose first page has the block number
// first; none is the usual case and allocates nothing. A page may be bad only
// because a running server was writing it: read it again, and again, before
// believing it. Bytes after the last whole page are one FaultShort.
func (v PageVerifier) Verify(buf []byte, first uint32) []BadPage {
	var bad []BadPage
	var sums [verifyBatch]uint32
	for v.PageSize >= pageHeaderSize && len(buf) >= v.PageSize {
		n := min(len(buf)/v.PageSize, verifyBatch)
		if v.Checksums {
			pageSums(sums[:n], buf[:n*v.PageSize], v.PageSize)
		}
		for i := range n {
			page := Page(buf[i*v.PageSize : (i+1)*v.PageSize])
			if b, ok := v.judge(page, first, sums[i]); !ok {
				bad = append(bad, b)
			}
			first++
		}
		buf = buf[n*v.PageSize:]
	}
	if len(buf) > 0 {
		bad = append(bad, BadPage{Block: first, Fault: FaultShort})
	}
	return bad
}

func (v PageVerifier) judge(page Page, block, sum uint32) (BadPage, bool) {
	if page.New() {
		if page.Zero() {
			return BadPage{}, true
		}
		return BadPage{Block: block, Fault: FaultNotZero, LSN: page.LSN(), Stored: page.Checksum()}, false
	}
	if v.Checksums {
		if want := foldChecksum(sum, block); want != page.Checksum() {
			return BadPage{Block: block, Fault: FaultChecksum, LSN: page.LSN(), Stored: page.Checksum(), Want: want}, false
		}
	}
	if !page.saneHeader() {
		return BadPage{Block: block, Fault: FaultHeader, LSN: page.LSN(), Stored: page.Checksum()}, false
	}
	return BadPage{}, true
}
