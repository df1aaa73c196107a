package wal

import (
	"fmt"

	"github.com/pgtender/pgtender/internal/pg"
)

// Relation is the place of a relation's files: RelFileLocator (RelFileNode
// before 16). Shared relations have tablespace 1664 and database 0.
type Relation struct {
	Tablespace uint32 // OID; 1663 is pg_default
	Database   uint32 // OID
	Number     uint32 // relation file number
}

func (r Relation) String() string {
	return fmt.Sprintf("%d/%d/%d", r.Tablespace, r.Database, r.Number)
}

// Fork is one of a relation's files (common/relpath.h).
type Fork uint8

// The forks of a relation.
const (
	Main Fork = iota
	FSM
	VM
	Init
)

func (f Fork) String() string {
	if f > Init {
		return fmt.Sprintf("fork %d", uint8(f))
	}
	return [...]string{"main", "fsm", "vm", "init"}[f]
}

// BlockRef is one block reference of a record: the record changes this block.
type BlockRef struct {
	Relation Relation
	Fork     Fork
	ID       uint8 // the record's own number for the reference
	Image    bool  // a full page image comes with it
	Block    uint32
}

// Resource managers whose records are looked into (access/rmgrlist.h).
const (
	rmXLOG      = 0
	rmXact      = 1
	rmSmgr      = 2
	rmDatabase  = 4
	rmLast      = 21
	rmCustomMin = 128

	infoOp      = 0xF0
	infoSpecial = 0x01 // XLR_SPECIAL_REL_UPDATE
)

// Record is one WAL record. The value that a [Reader] returns, its slices
// included, is valid until the next call.
type Record struct {
	Start  pg.LSN // first byte
	End    pg.LSN // first byte after it, aligned to 8; may be a page's start
	Prev   pg.LSN // start of the record before it, as it says itself
	Length uint32 // bytes, header included, page headers not
	XID    uint32
	Rmgr   uint8
	Info   uint8 // operation in the high four bits
	Blocks []BlockRef

	// Main is the main data. It is given for XLOG (but for page images), XACT,
	// SMGR and DBASE records, and nil for all others.
	Main []byte

	major   int
	mainLen int // full length; Main is shorter when bytes were cut off
}

func wantsMain(rmgr, info uint8) bool {
	switch rmgr {
	case rmXLOG:
		return info&infoOp != xlogFPI && info&infoOp != xlogFPIForHint
	case rmXact, rmSmgr, rmDatabase:
		return true
	}
	return false
}

// Block and image header flags (access/xlogrecord.h).
const (
	maxBlockID       = 32
	idMainShort      = 255
	idMainLong       = 254
	idOrigin         = 253
	idTopLevelXID    = 252
	forkMask         = 0x0F
	blockHasImage    = 0x10
	blockHasData     = 0x20
	blockSameRel     = 0x80
	imageHasHole     = 0x01
	imageCompressed  = 0x1C // pglz, lz4, zstd; 15 and later
	imageCompressed0 = 0x02 // 13 and 14
)

func compressedBits(major int) uint8 {
	if major < 15 {
		return imageCompressed0
	}
	return imageCompressed
}

// header fills the fixed fields from the first 24 bytes and judges them; "" is
// a header in order.
func (r *Record) header(b []byte, start pg.LSN, major int) string {
	r.Start, r.major = start, major
	r.Length = le.Uint32(b)
	r.XID = le.Uint32(b[4:])
	r.Prev = pg.LSN(le.Uint64(b[8:]))
	r.Info, r.Rmgr = b[16], b[17]
	switch {
	case r.Rmgr > rmLast && (r.Rmgr < rmCustomMin || major < 15):
		return fmt.Sprintf("resource manager %d does not exist in PostgreSQL %d", r.Rmgr, major)
	case r.Prev >= start:
		return fmt.Sprintf("previous record is said to be at %s", r.Prev)
	}
	return ""
}

const whyHeaders = "its block headers do not fit its length"

// decode reads the block references and finds the main data (xlogreader.c,
// DecodeXLogRecord). b is the record, or as much of its beginning as was kept.
func (r *Record) decode(b []byte) string {
	r.Blocks, r.Main, r.mainLen = r.Blocks[:0], nil, 0
	total := int(r.Length)
	i, payload := recordHeaderLen, 0
	for total-i > payload {
		if len(b)-i < 2 {
			return whyHeaders
		}
		switch id := b[i]; {
		case id <= maxBlockID:
			n, size, why := r.block(b[i:])
			if why != "" {
				return why
			}
			i += n
			payload += size
			continue
		case id == idOrigin:
			i += 3
			continue
		case id == idTopLevelXID && r.major >= 14:
			i += 5
			continue
		case id == idMainShort:
			r.mainLen = int(b[i+1])
			i += 2
		case id == idMainLong:
			if len(b)-i < 5 {
				return whyHeaders
			}
			r.mainLen = int(le.Uint32(b[i+1:]))
			i += 5
		default:
			return fmt.Sprintf("unknown block header %d", id)
		}
		payload += r.mainLen
		break
	}
	if i > len(b) || total-i != payload {
		return whyHeaders
	}
	if r.mainLen > 0 && wantsMain(r.Rmgr, r.Info) {
		r.Main = b[min(len(b), total-r.mainLen):]
	}
	return ""
}

// block reads one block header. It returns how long the header is and how many
// bytes of payload it announces.
func (r *Record) block(b []byte) (n, payload int, why string) {
	if len(b) < 4 {
		return 0, 0, whyHeaders
	}
	flags := b[1]
	data := int(le.Uint16(b[2:]))
	// It is filled in place: one that is copied waits for each of its fields.
	at := len(r.Blocks)
	r.Blocks = append(r.Blocks, BlockRef{})
	ref := &r.Blocks[at]
	ref.ID, ref.Fork = b[0], Fork(flags&forkMask)
	switch {
	case at > 0 && r.Blocks[at-1].ID >= ref.ID:
		return 0, 0, fmt.Sprintf("block reference %d is out of order", ref.ID)
	case ref.Fork > Init:
		return 0, 0, fmt.Sprintf("block reference %d names fork %d", ref.ID, ref.Fork)
	case (flags&blockHasData != 0) != (data > 0):
		return 0, 0, fmt.Sprintf("block reference %d has %d bytes of data and flags %02X", ref.ID, data, flags)
	}
	n, payload = 4, data
	if flags&blockHasImage != 0 {
		if len(b) < n+5 {
			return 0, 0, whyHeaders
		}
		ref.Image = true
		payload += int(le.Uint16(b[n:]))
		info := b[n+4]
		n += 5
		if info&imageHasHole != 0 && info&compressedBits(r.major) != 0 {
			n += 2
		}
	}
	if flags&blockSameRel == 0 {
		if len(b) < n+12 {
			return 0, 0, whyHeaders
		}
		ref.Relation = parseRelation(b[n:])
		n += 12
	} else {
		if at == 0 {
			return 0, 0, fmt.Sprintf("block reference %d names the relation of none before", ref.ID)
		}
		ref.Relation = r.Blocks[at-1].Relation
	}
	if len(b) < n+4 {
		return 0, 0, whyHeaders
	}
	ref.Block = le.Uint32(b[n:])
	if ref.Block == noBlock {
		return 0, 0, fmt.Sprintf("block reference %d names no valid block", ref.ID)
	}
	return n + 4, payload, ""
}

// noBlock is InvalidBlockNumber (storage/block.h).
const noBlock = 0xFFFFFFFF

// parseRelation reads a locator: b holds at least 12 bytes.
func parseRelation(b []byte) Relation {
	return Relation{Tablespace: le.Uint32(b), Database: le.Uint32(b[4:]), Number: le.Uint32(b[8:])}
}
