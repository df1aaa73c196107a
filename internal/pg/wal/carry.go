package wal

import (
	"fmt"
	"hash/crc32"

	"github.com/pgtender/pgtender/internal/pg"
)

// maxCarried is how many bytes of a record a carry holds at either end. A record
// with block references needs at most 1 KiB of them, the end of a transaction
// that drops 80,000 relations the whole.
const maxCarried = 1 << 20

// Carry is what a segment leaves unfinished at its two ends.
type Carry struct {
	Head *Head       // nil: the segment's first page begins with a record
	Tail *Unfinished // nil: the last record ends in the segment
}

// Head is the part of a record at the start of a segment that began in an
// earlier one.
type Head struct {
	Remaining uint32 // bytes of the record that were to come, this segment's included
	Length    uint32 // bytes of it in this segment
	CRC       uint32 // CRC-32C of these
	Bytes     []byte // the first of them, at most 1 MiB
	// Overwritten: the server never finished the record, and wrote on after
	// Length bytes.
	Overwritten bool
}

// goesOn reports whether the record fills the segment and goes on in the next.
func (h *Head) goesOn() bool { return h != nil && !h.Overwritten && h.Length < h.Remaining }

// Unfinished is the part of a record in the segment in which it starts.
type Unfinished struct {
	Major  int
	Start  pg.LSN // of the record
	Total  uint32 // the record's length in bytes
	Length uint32 // bytes of it in this segment
	CRC    uint32 // CRC-32C of these but the first 24
	// Bytes are the first of them, at most 1 MiB: as many as can matter for the
	// blocks that the record changes.
	Bytes []byte
}

// Completed is a record that was put together from carries.
type Completed struct {
	Record Record
	Map    *BlockMap // what it changes: part of the segment in which it starts
	Flags  Flags
}

// Complete puts together the record that starts as tail and goes on in heads, in
// the order of their segments: one, or several where segments are filled by the
// record whole. Its CRC is checked over all its bytes, kept or not.
//
// Parts that do not fit are [ErrBroken], a wrong CRC or content is a
// [*CorruptError], and [ErrCut] says that the record must be read from the WAL.
func Complete(tail *Unfinished, heads ...*Head) (*Completed, error) {
	broken := func(format string, args ...any) error {
		return fmt.Errorf("complete the record at %s: %s: %w", tail.Start, fmt.Sprintf(format, args...), ErrBroken)
	}
	kept, body, have := tail.Bytes, tail.CRC, tail.Length
	whole := uint32(len(kept)) == have
	for _, h := range heads {
		if h.Overwritten {
			return nil, broken("the server gave it up")
		}
		if h.Remaining != tail.Total-have {
			return nil, broken("the next segment has %d bytes of it to come, %d are missing", h.Remaining, tail.Total-have)
		}
		crc, n, err := h.body(have)
		if err != nil {
			return nil, broken("%v", err)
		}
		body = crcShift(body, n) ^ crc
		if whole {
			kept = append(kept[:len(kept):len(kept)], h.Bytes...)
			whole = uint32(len(h.Bytes)) == h.Length
		}
		have += h.Length
	}
	if have != tail.Total {
		return nil, broken("only %d of its %d bytes are there", have, tail.Total)
	}
	return finishRecord(tail, kept, body)
}

// body gives the CRC and the number of the head's bytes that the record's CRC
// covers as its body, have bytes of the record being before them.
func (h *Head) body(have uint32) (crc, n uint32, err error) {
	if have >= recordHeaderLen {
		return h.CRC, h.Length, nil
	}
	skip := min(recordHeaderLen-have, h.Length)
	if uint32(len(h.Bytes)) < skip {
		return 0, 0, fmt.Errorf("the next segment's carry holds %d bytes of the record's header, not %d", len(h.Bytes), skip)
	}
	n = h.Length - skip
	return h.CRC ^ crcShift(crc32.Update(0, castagnoli, h.Bytes[:skip]), n), n, nil
}

func finishRecord(tail *Unfinished, kept []byte, body uint32) (*Completed, error) {
	bad := func(format string, args ...any) (*Completed, error) {
		return nil, &CorruptError{At: tail.Start, What: "record", Why: fmt.Sprintf(format, args...)}
	}
	if len(kept) < recordHeaderLen {
		return nil, fmt.Errorf("complete the record at %s: %w", tail.Start, ErrCut)
	}
	c := &Completed{Map: new(BlockMap)}
	if why := c.Record.header(kept, tail.Start, tail.Major); why != "" {
		return bad("%s", why)
	}
	if crc := crc32.Update(body, castagnoli, kept[:crcOffset]); crc != le.Uint32(kept[crcOffset:]) || c.Record.Length != tail.Total {
		return bad("its CRC is %08X, computed %08X over its parts", le.Uint32(kept[crcOffset:]), crc)
	}
	if uint32(len(kept)) < min(c.Record.Length, maxHeadersLen) {
		return nil, fmt.Errorf("complete the record at %s: %w", tail.Start, ErrCut)
	}
	if why := c.Record.decode(kept); why != "" {
		return bad("%s", why)
	}
	var err error
	c.Flags, err = c.Map.Record(&c.Record)
	return c, err
}
