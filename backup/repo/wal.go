package repo

import (
	"math/bits"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// WALFlags say what kind of segment a WAL object holds. Except for WALPartial
// and WALBlockMap they come from whoever read the WAL.
type WALFlags uint32

// The flags of format version 0.
const (
	WALPartial       WALFlags = 1    // a .partial file
	WALSwitch        WALFlags = 2    // ends by a segment switch
	WALStartsInside  WALFlags = 4    // starts inside a record
	WALEndsInside    WALFlags = 8    // ends inside a record
	WALOverwritten   WALFlags = 16   // holds an overwritten continuation record
	WALChainBreak    WALFlags = 32   // changes behind it cannot be tracked from before it
	WALNoRecordStart WALFlags = 64   // no record starts here
	WALBlockMap      WALFlags = 128  // a block map is present; set by EncodeWAL
	WALUnchecked     WALFlags = 256  // not valid WAL throughout; only with WALPartial
	WALPrevUnknown   WALFlags = 512  // FirstPrev is not known: too little of the record lies here
	WALFullPagesOff  WALFlags = 1024 // a record says that full_page_writes is off

	knownWALFlags = 2047
)

// WALHeader describes one archived segment. The first group is filled in by
// the caller of EncodeWAL, the second by EncodeWAL.
type WALHeader struct {
	Flags       WALFlags
	SystemID    pg.SystemID
	Incarnation Incarnation
	Segment     pg.SegmentNumber
	SegmentSize pg.SegmentSize
	PageMagic   uint16
	End         pg.LSN // semantic end: what lies behind is zero
	FirstRecord pg.LSN // 0: none starts here
	FirstPrev   pg.LSN // the previous-record pointer of the first
	LastRecord  pg.LSN // 0: none starts here
	// LastComplete is the last record that starts and ends here; 0: none.
	LastComplete pg.LSN
	// BlockSize is that of WAL pages (XLOG_BLCKSZ), FirstTimeline and
	// LastTimeline are those of the first and the last page that count. All are
	// 0 if the content was not read, and so nothing is claimed about it.
	BlockSize                   uint32
	FirstTimeline, LastTimeline pg.Timeline

	Digest   Digest // of the bytes up to End
	sections walSections
}

// walSections is where a WAL object keeps what.
type walSections struct {
	codec       Codec
	blockMap    walSection
	carry       walSection
	chunks      uint32
	tableSum    uint32
	chunksSize  uint64 // stored
	chunkLength uint32 // raw
	pageSize    uint32 // that chunks are condensed by; 0: none is
}

type walSection struct {
	raw, stored, sum uint32
	digest           Digest
}

const (
	walHead       = 256
	walMagic      = "PGTWAL\x00\x00"
	maxWALSection = 64 << 20
	minChunk      = 64 << 10
	maxChunk      = 16 << 20
	walChunk      = 1 << 20 // what EncodeWAL uses
	maxWALObject  = 3 << 30 // more than the largest segment can become
	chunkEntry    = 12      // bytes of the chunk table for each
)

// Start gives the LSN of the segment's first byte.
func (h *WALHeader) Start() pg.LSN { return h.SegmentSize.Start(h.Segment) }

// Name gives the segment's file name, with .partial if it is one.
func (h *WALHeader) Name() WALName {
	return WALName{Segment: pg.Segment{Timeline: h.Incarnation.Timeline, Number: h.Segment}.Name(h.SegmentSize), Partial: h.Flags&WALPartial != 0}
}

// Equal reports whether both are the same segment with the same content.
func (h *WALHeader) Equal(o *WALHeader) bool {
	return h.SystemID == o.SystemID && h.Incarnation == o.Incarnation && h.Segment == o.Segment && h.SegmentSize == o.SegmentSize &&
		h.End == o.End && h.Digest == o.Digest && h.Flags&WALPartial == o.Flags&WALPartial
}

func (h *WALHeader) validate() error {
	bad := func(off int64, format string, args ...any) error { return damage(off, format, args...) }
	if !h.SegmentSize.Valid() {
		return bad(28, "segment size %d", h.SegmentSize)
	}
	start, end := h.Start(), h.Start()+pg.LSN(h.SegmentSize)
	inside := func(l pg.LSN) bool { return l == 0 || l >= start && l < h.End }
	switch {
	case h.SystemID == 0:
		return bad(16, "system identifier 0")
	case h.Incarnation.Timeline == 0:
		return bad(24, "timeline 0")
	case uint64(h.Segment) >= 1<<32*(1<<32/uint64(h.SegmentSize))-1:
		return bad(32, "segment number %d", h.Segment)
	case h.End <= start || h.End > end:
		return bad(56, "semantic end %s is not within %s and %s", h.End, start, end)
	case !inside(h.FirstRecord) || !inside(h.LastRecord) || h.FirstRecord > h.LastRecord || (h.FirstRecord == 0) != (h.LastRecord == 0):
		return bad(64, "records from %s to %s in a segment from %s to %s", h.FirstRecord, h.LastRecord, start, h.End)
	case h.LastComplete != 0 && (h.LastComplete < h.FirstRecord || h.LastComplete > h.LastRecord):
		return bad(184, "last complete record at %s, with records from %s to %s", h.LastComplete, h.FirstRecord, h.LastRecord)
	case h.BlockSize != 0 && !wal.ValidBlockSize(h.BlockSize):
		return bad(148, "WAL block size %d", h.BlockSize)
	case (h.BlockSize == 0) != (h.FirstTimeline == 0) || h.FirstTimeline > h.LastTimeline || h.LastTimeline > h.Incarnation.Timeline || (h.FirstTimeline == 0) != (h.LastTimeline == 0):
		return bad(192, "pages of timelines %s to %s of %d bytes in a segment of timeline %s", h.FirstTimeline, h.LastTimeline, h.BlockSize, h.Incarnation.Timeline)
	case h.Flags&^knownWALFlags != 0 || h.Flags&WALUnchecked != 0 && h.Flags&WALPartial == 0:
		return bad(12, "flags %#x", uint32(h.Flags))
	}
	return nil
}

// contentLength is how many bytes of the segment are stored.
func (h *WALHeader) contentLength() int64 { return int64(h.End - h.Start()) }

// size is that of the whole object.
func (h *WALHeader) size() int64 { return h.chunksOffset() + int64(h.sections.chunksSize) }

func (h *WALHeader) tableOffset() int64 {
	return walHead + int64(h.sections.blockMap.stored) + int64(h.sections.carry.stored)
}

func (h *WALHeader) chunksOffset() int64 {
	return h.tableOffset() + chunkEntry*int64(h.sections.chunks)
}

func (h *WALHeader) encode() []byte {
	b, s := make([]byte, walHead), &h.sections
	copy(b, walMagic)
	le.PutUint16(b[8:], formatVersion)
	b[10] = byte(s.codec)
	le.PutUint32(b[12:], uint32(h.Flags))
	le.PutUint64(b[16:], uint64(h.SystemID))
	le.PutUint32(b[24:], uint32(h.Incarnation.Timeline))
	le.PutUint32(b[28:], uint32(h.SegmentSize))
	le.PutUint64(b[32:], uint64(h.Segment))
	copy(b[40:], h.Incarnation.Ancestry[:])
	le.PutUint16(b[48:], h.PageMagic)
	if s.pageSize > 0 {
		b[50] = byte(bits.TrailingZeros32(s.pageSize))
	}
	for i, l := range [...]pg.LSN{h.End, h.FirstRecord, h.FirstPrev, h.LastRecord} {
		le.PutUint64(b[56+8*i:], uint64(l))
	}
	copy(b[88:], h.Digest[:])
	for i, v := range [...]uint32{s.blockMap.stored, s.blockMap.sum, s.carry.stored, s.carry.sum, s.chunks, s.tableSum} {
		le.PutUint32(b[104+4*i:], v)
	}
	le.PutUint64(b[128:], s.chunksSize)
	le.PutUint32(b[136:], s.chunkLength)
	le.PutUint32(b[140:], s.blockMap.raw)
	le.PutUint32(b[144:], s.carry.raw)
	le.PutUint32(b[148:], h.BlockSize)
	copy(b[152:], s.blockMap.digest[:])
	copy(b[168:], s.carry.digest[:])
	le.PutUint64(b[184:], uint64(h.LastComplete))
	le.PutUint32(b[192:], uint32(h.FirstTimeline))
	le.PutUint32(b[196:], uint32(h.LastTimeline))
	le.PutUint32(b[252:], checksum(b[:252]))
	return b
}

func parseWALHeader(b []byte) (h WALHeader, err error) {
	if err := checkHead(b, walHead, walMagic); err != nil {
		return h, err
	}
	h = WALHeader{
		Flags: WALFlags(le.Uint32(b[12:])), SystemID: pg.SystemID(le.Uint64(b[16:])),
		Incarnation: Incarnation{Timeline: pg.Timeline(le.Uint32(b[24:])), Ancestry: [8]byte(b[40:48])},
		SegmentSize: pg.SegmentSize(le.Uint32(b[28:])), Segment: pg.SegmentNumber(le.Uint64(b[32:])), PageMagic: le.Uint16(b[48:]),
		End: pg.LSN(le.Uint64(b[56:])), FirstRecord: pg.LSN(le.Uint64(b[64:])), FirstPrev: pg.LSN(le.Uint64(b[72:])), LastRecord: pg.LSN(le.Uint64(b[80:])),
		LastComplete: pg.LSN(le.Uint64(b[184:])), BlockSize: le.Uint32(b[148:]),
		FirstTimeline: pg.Timeline(le.Uint32(b[192:])), LastTimeline: pg.Timeline(le.Uint32(b[196:])),
		Digest: Digest(b[88:104]),
		sections: walSections{
			codec:    Codec(b[10]),
			blockMap: walSection{raw: le.Uint32(b[140:]), stored: le.Uint32(b[104:]), sum: le.Uint32(b[108:]), digest: Digest(b[152:168])},
			carry:    walSection{raw: le.Uint32(b[144:]), stored: le.Uint32(b[112:]), sum: le.Uint32(b[116:]), digest: Digest(b[168:184])},
			chunks:   le.Uint32(b[120:]), tableSum: le.Uint32(b[124:]), chunksSize: le.Uint64(b[128:]), chunkLength: le.Uint32(b[136:]),
		},
	}
	if b[11] != 0 {
		return h, unknownVersion("cipher", int(b[11]))
	}
	if log := b[50]; log > 0 {
		if h.sections.pageSize = 1 << log; !wal.ValidBlockSize(h.sections.pageSize) {
			return h, damage(50, "chunks condensed by pages of 2^%d bytes", log)
		}
	}
	for _, r := range [][2]int{{51, 56}, {200, 252}} {
		if err := reserved(b[r[0]:r[1]], int64(r[0])); err != nil {
			return h, err
		}
	}
	if err := h.validate(); err != nil {
		return h, err
	}
	return h, h.checkSections()
}

func (h *WALHeader) checkSections() error {
	s := &h.sections
	length := uint64(h.contentLength())
	if s.codec > CodecZstd {
		return unknownVersion("codec", int(s.codec))
	}
	if s.chunkLength < minChunk || s.chunkLength > maxChunk || s.chunkLength&(s.chunkLength-1) != 0 {
		return damage(136, "chunk size %d", s.chunkLength)
	}
	if want := (length + uint64(s.chunkLength) - 1) / uint64(s.chunkLength); uint64(s.chunks) != want || s.chunksSize > length || s.chunksSize < want {
		return damage(120, "%d chunks of %d bytes, stored as %d, for %d bytes", s.chunks, s.chunkLength, s.chunksSize, length)
	}
	for _, x := range []*walSection{&s.blockMap, &s.carry} {
		if x.raw > maxWALSection || x.stored > x.raw || (x.stored == 0) != (x.raw == 0) {
			return damage(104, "section of %d bytes, stored as %d", x.raw, x.stored)
		}
	}
	if (s.blockMap.raw > 0) != (h.Flags&WALBlockMap != 0) {
		return damage(12, "flags %#x with a block map of %d bytes", uint32(h.Flags), s.blockMap.raw)
	}
	return nil
}

// WALKey gives the key of a segment, or of its .partial form.
func (r *Repo) WALKey(h *WALHeader) string {
	return r.Key(Key{Kind: KeyWAL, Incarnation: h.Incarnation, Group: walGroup(h.Segment), WAL: h.Name()})
}

// WALConflictKey gives the key under which a proved leader's segment lies that
// conflicts with the one under WALKey. It is authoritative.
func (r *Repo) WALConflictKey(h *WALHeader) string {
	return r.Key(Key{Kind: KeyWAL, Incarnation: h.Incarnation, Group: walGroup(h.Segment), WAL: h.Name(), Conflict: h.Digest})
}

// WALQuarantineKey gives the key for a segment whose pusher was not proved.
func (r *Repo) WALQuarantineKey(h *WALHeader) string {
	return r.Key(Key{Kind: KeyQuarantine, Incarnation: h.Incarnation, WAL: h.Name(), Conflict: h.Digest})
}

func walGroup(n pg.SegmentNumber) uint64 { return uint64(n) / 256 }
