package wal

import (
	"encoding/binary"
	"fmt"

	"github.com/pgtender/pgtender/internal/pg"
)

// The fixed part of records (access/xlogrecord.h).
const (
	recordHeaderLen = 24
	crcOffset       = 20

	// maxRecordLen is PostgreSQL's allocation limit (MaxAllocSize), which no
	// reader of any major exceeds; 16 and later stop at 1020 MiB already.
	maxRecordLen = 0x3fffffff

	// maxHeadersLen bounds the header, the block headers and the main data
	// header of one record: 33 block references of at most 27 bytes, replication
	// origin, top-level transaction and main data (access/xlogrecord.h).
	maxHeadersLen = 1024
)

// MinMajor and MaxMajor are the PostgreSQL majors whose WAL is understood.
const (
	MinMajor = 13
	MaxMajor = 18
)

// magics are the values of XLOG_PAGE_MAGIC (access/xlog_internal.h).
var magics = map[uint16]int{0xD106: 13, 0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}

// MajorOf gives the PostgreSQL major whose WAL pages have a magic number, and
// whether there is one.
func MajorOf(magic uint16) (major int, ok bool) {
	major, ok = magics[magic]
	return major, ok
}

var le = binary.LittleEndian

// geometry is what the first page of a segment says about its cluster.
type geometry struct {
	major    int
	magic    uint16
	systemID pg.SystemID
	segment  pg.SegmentSize
	block    int // XLOG_BLCKSZ, bytes per page
}

// parseGeometry reads the long header at the start of a segment.
func parseGeometry(b []byte) (geometry, PageHeader, error) {
	h := parseSegmentHeader(b)
	bad := func(format string, args ...any) (geometry, PageHeader, error) {
		return geometry{}, h.PageHeader, &CorruptError{At: h.Address, What: "segment", Why: fmt.Sprintf(format, args...)}
	}
	major, ok := magics[h.Magic]
	if !ok {
		return bad("page magic %04X belongs to no PostgreSQL from %d to %d", h.Magic, MinMajor, MaxMajor)
	}
	if h.flags&pageLongHeader == 0 || h.flags&^uint16(pageAllFlags) != 0 {
		return bad("first page has flags %04X, not those of a segment's start", h.flags)
	}
	if !h.SegmentSize.Valid() {
		return bad("segment size %d in the page header is invalid", h.SegmentSize)
	}
	block := h.BlockSize
	if !ValidBlockSize(block) {
		return bad("WAL block size %d in the page header is invalid", block)
	}
	if h.SegmentSize.Offset(h.Address) != 0 {
		return bad("page address is not the start of a segment of %d bytes", h.SegmentSize)
	}
	return geometry{major: major, magic: h.Magic, systemID: h.SystemID, segment: h.SegmentSize, block: int(block)}, h.PageHeader, nil
}

// check judges the header of the page that should lie at the given address.
// It returns "" if all is well. page is the whole page.
func (g *geometry) check(h PageHeader, page []byte, at pg.LSN) string {
	switch {
	case h.Magic != g.magic:
		return fmt.Sprintf("page magic is %04X, not %04X (PostgreSQL %d)", h.Magic, g.magic, g.major)
	case h.Address != at:
		return fmt.Sprintf("page address is %s", h.Address)
	case h.flags&^uint16(pageAllFlags) != 0:
		return fmt.Sprintf("unknown page flags %04X", h.flags)
	case h.Timeline == 0:
		return "page has timeline 0"
	}
	first := uint64(at)%uint64(g.segment) == 0
	if first != (h.flags&pageLongHeader != 0) {
		return fmt.Sprintf("page flags %04X, but the long header belongs on a segment's first page only", h.flags)
	}
	if !first {
		return ""
	}
	switch long := parseSegmentHeader(page); {
	case long.SystemID != g.systemID:
		return fmt.Sprintf("system identifier is %s, not %s", long.SystemID, g.systemID)
	case long.SegmentSize != g.segment:
		return fmt.Sprintf("segment size is %d, not %d", long.SegmentSize, g.segment)
	case long.BlockSize != uint32(g.block):
		return fmt.Sprintf("WAL block size is %d, not %d", long.BlockSize, g.block)
	}
	return ""
}

// stale reports whether the page is a left-over of a recycled segment: a page of
// the same place in another segment. That is an older one mostly; after a switch
// of timelines segments of the old one past the fork are recycled too
// (RemoveNonParentXlogFiles, xlog.c), and may get a lower number than they had.
func (g *geometry) stale(page []byte, at pg.LSN) bool {
	h := parsePageHeader(page)
	return h.Magic == g.magic && h.flags&^uint16(pageAllFlags) == 0 && h.Timeline != 0 &&
		h.Address != at && (uint64(at)-uint64(h.Address))%uint64(g.segment) == 0
}

// align8 rounds up to MAXALIGN, the alignment of records.
func align8(n uint32) uint32 { return (n + 7) &^ 7 }

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if le.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
