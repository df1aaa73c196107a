package wal

import (
	"fmt"
	"io"

	"github.com/pgtender/pgtender/internal/pg"
)

// The headers of WAL pages (access/xlog_internal.h): each page has a short one
// (XLogPageHeaderData), a segment's first page a long one (XLogLongPageHeaderData).
const (
	shortHeaderLen = 24

	// SegmentHeaderLen is the length of a segment's first page header, in bytes.
	SegmentHeaderLen = 40

	pageFirstIsContRecord     = 0x0001
	pageLongHeader            = 0x0002
	pageFirstIsOverwriteContr = 0x0008
	pageAllFlags              = 0x000F
)

// PageHeader is what the header of a WAL page says. Nothing in it is checked: a
// file that the server recycled still has its old one, and one that was never
// written has zeros.
type PageHeader struct {
	Magic    uint16 // tells the major version: [MajorOf]; 0 where nothing was written
	Timeline pg.Timeline
	Address  pg.LSN // of the page

	flags     uint16
	remaining uint32 // bytes of a record that began on an earlier page
}

// parsePageHeader reads the short form; b holds at least shortHeaderLen bytes.
func parsePageHeader(b []byte) PageHeader {
	return PageHeader{
		Magic:     le.Uint16(b),
		flags:     le.Uint16(b[2:]),
		Timeline:  pg.Timeline(le.Uint32(b[4:])),
		Address:   pg.LSN(le.Uint64(b[8:])),
		remaining: le.Uint32(b[16:]),
	}
}

func (h PageHeader) len() int {
	if h.flags&pageLongHeader != 0 {
		return SegmentHeaderLen
	}
	return shortHeaderLen
}

// SegmentHeader is what the first page header of a segment says. As in
// [PageHeader] nothing is checked; [Inspect] does that.
type SegmentHeader struct {
	PageHeader
	SystemID    pg.SystemID
	SegmentSize pg.SegmentSize
	BlockSize   uint32 // XLOG_BLCKSZ, bytes per page
}

// parseSegmentHeader reads the long form; b holds at least SegmentHeaderLen bytes.
func parseSegmentHeader(b []byte) SegmentHeader {
	return SegmentHeader{
		PageHeader: parsePageHeader(b), SystemID: pg.SystemID(le.Uint64(b[24:])),
		SegmentSize: pg.SegmentSize(le.Uint32(b[32:])), BlockSize: le.Uint32(b[36:]),
	}
}

// ReadSegmentHeader reads the header at the start of a segment file. One that is
// shorter is an [io.ErrUnexpectedEOF].
func ReadSegmentHeader(r io.ReaderAt) (SegmentHeader, error) {
	var b [SegmentHeaderLen]byte
	if err := readFullAt(r, b[:], 0); err != nil {
		return SegmentHeader{}, fmt.Errorf("read header of WAL segment: %w", err)
	}
	return parseSegmentHeader(b[:]), nil
}

// Plausible reports whether the header has the form of one at the start of a
// segment, so that its segment size may be relied on.
func (h *SegmentHeader) Plausible() bool {
	return h.flags&pageLongHeader != 0 && h.SegmentSize.Valid()
}
