package wal

import (
	"encoding/binary"
	"fmt"

	"github.com/pgtender/pgtender/internal/pg"
)

// Encoding of a Carry. All integers are unsigned varints in their shortest form
// but for CRCs, which are 4 bytes, little-endian.
//
//	version (1), presence: 1 head, 2 overwritten head, 4 tail
//	head: remaining, length, CRC, number of bytes, bytes
//	tail: major, start, total, length, CRC, number of bytes, bytes
const carryVersion = 1

const (
	carryHead        = 1
	carryOverwritten = 2
	carryTail        = 4
)

// Encode gives the carry's canonical form: equal carries have equal encodings.
// It has no checksum of its own.
func (c Carry) Encode() []byte {
	flags := byte(0)
	if c.Head != nil {
		flags |= carryHead
		if c.Head.Overwritten {
			flags |= carryOverwritten
		}
	}
	if c.Tail != nil {
		flags |= carryTail
	}
	b := []byte{carryVersion, flags}
	if c.Head != nil {
		b = c.Head.append(b)
	}
	if c.Tail != nil {
		b = c.Tail.append(b)
	}
	return b
}

func (h *Head) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(h.Remaining))
	b = binary.AppendUvarint(b, uint64(h.Length))
	b = le.AppendUint32(b, h.CRC)
	b = binary.AppendUvarint(b, uint64(len(h.Bytes)))
	return append(b, h.Bytes...)
}

func (t *Unfinished) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(t.Major))
	b = binary.AppendUvarint(b, uint64(t.Start))
	b = binary.AppendUvarint(b, uint64(t.Total))
	b = binary.AppendUvarint(b, uint64(t.Length))
	b = le.AppendUint32(b, t.CRC)
	b = binary.AppendUvarint(b, uint64(len(t.Bytes)))
	return append(b, t.Bytes...)
}

// DecodeCarry is the inverse of [Carry.Encode]. What it accepts encodes to the
// same bytes again; all else is an [ErrCorrupt]. The carry shares no memory with b.
func DecodeCarry(b []byte) (Carry, error) {
	d := decoder{b: b}
	var c Carry
	if v := d.byte(); v != carryVersion {
		d.fail("version is %d, not %d", v, carryVersion)
	}
	flags := d.byte()
	if flags&^(carryHead|carryOverwritten|carryTail) != 0 || flags&(carryHead|carryOverwritten) == carryOverwritten {
		d.fail("unknown content %02X", flags)
	}
	if flags&carryHead != 0 {
		c.Head = d.head(flags&carryOverwritten != 0)
	}
	if flags&carryTail != 0 {
		c.Tail = d.unfinished()
	}
	if err := d.end(); err != nil {
		return Carry{}, fmt.Errorf("decode WAL carry: %w", err)
	}
	return c, nil
}

func (d *decoder) head(overwritten bool) *Head {
	h := &Head{Overwritten: overwritten}
	h.Remaining = uint32(d.uvarint(maxRecordLen))
	h.Length = uint32(d.uvarint(uint64(h.Remaining)))
	h.CRC = d.fixed32()
	h.Bytes = d.bytes(min(uint64(h.Length), maxCarried))
	if !overwritten && h.Length == 0 {
		d.fail("head is empty")
	}
	return h
}

func (d *decoder) unfinished() *Unfinished {
	t := new(Unfinished)
	t.Major = int(d.uvarint(MaxMajor))
	t.Start = pg.LSN(d.uvarint(uint64(pg.MaxLSN)))
	t.Total = uint32(d.uvarint(maxRecordLen))
	t.Length = uint32(d.uvarint(uint64(t.Total)))
	t.CRC = d.fixed32()
	t.Bytes = d.bytes(min(uint64(t.Length), maxCarried))
	if t.Major < MinMajor || t.Total < recordHeaderLen || t.Length == 0 || t.Length == t.Total {
		d.fail("tail is of PostgreSQL %d with %d of %d bytes", t.Major, t.Length, t.Total)
	}
	return t
}
