package wal_test

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"slices"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

const (
	testSystem  pg.SystemID    = 7234567890123456789
	testSegSize pg.SegmentSize = 1 << 20
	testBlock                  = 8192
)

var le = binary.LittleEndian

var magics = map[int]uint16{13: 0xD106, 14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}

// builder writes WAL as a server does, page by page, and remembers what it wrote.
type builder struct {
	major    int
	timeline pg.Timeline
	at, prev pg.LSN
	overPage bool // the next page overwrites an unfinished record
	segments map[pg.SegmentNumber][]byte
	records  []wal.Record // Start, Prev, End, Length, Rmgr, Info, Blocks
	all      *wal.BlockMap
}

func newBuilder(major int, start pg.LSN) *builder {
	return &builder{
		major: major, timeline: 1, at: start,
		segments: map[pg.SegmentNumber][]byte{}, all: new(wal.BlockMap),
	}
}

func (b *builder) put(p []byte, remaining uint32) {
	for len(p) > 0 {
		if b.at%testBlock == 0 {
			b.page(remaining)
		}
		n := min(len(p), testBlock-int(b.at%testBlock))
		copy(b.segment()[b.at%pg.LSN(testSegSize):], p[:n])
		b.at += pg.LSN(n)
		p = p[n:]
		remaining -= min(remaining, uint32(n))
	}
}

func (b *builder) segment() []byte {
	n := testSegSize.SegmentOf(b.at)
	if b.segments[n] == nil {
		b.segments[n] = make([]byte, testSegSize)
	}
	return b.segments[n]
}

// page writes the header of the page at b.at.
func (b *builder) page(remaining uint32) {
	h := make([]byte, 40)
	flags := uint16(4)
	if remaining > 0 {
		flags |= 1
	}
	if b.overPage {
		flags, remaining, b.overPage = flags|8, 0, false
	}
	le.PutUint32(h[4:], uint32(b.timeline))
	le.PutUint64(h[8:], uint64(b.at))
	le.PutUint32(h[16:], remaining)
	n := 24
	if b.at%pg.LSN(testSegSize) == 0 {
		flags |= 2
		le.PutUint64(h[24:], uint64(testSystem))
		le.PutUint32(h[32:], uint32(testSegSize))
		le.PutUint32(h[36:], testBlock)
		n = 40
	}
	le.PutUint16(h, magics[b.major])
	le.PutUint16(h[2:], flags)
	copy(b.segment()[b.at%pg.LSN(testSegSize):], h[:n])
	b.at += pg.LSN(n)
}

// ref is a block reference to be written.
type ref struct {
	rel   wal.Relation
	fork  wal.Fork
	block uint32
	image int // bytes of a compressed page image with a hole, 0 for none
	data  int
}

// encode gives the bytes of a record.
func (b *builder) encode(rmgr, info uint8, refs []ref, main []byte) []byte {
	var heads, payload []byte
	for i, r := range refs {
		flags := byte(r.fork)
		same := i > 0 && refs[i-1].rel == r.rel
		if same {
			flags |= 0x80
		}
		if r.image > 0 {
			flags |= 0x10
		}
		if r.data > 0 {
			flags |= 0x20
		}
		heads = append(heads, byte(i), flags)
		heads = le.AppendUint16(heads, uint16(r.data))
		if r.image > 0 {
			bits := byte(0x01 | 0x04) // has hole, compressed by pglz
			if b.major < 15 {
				bits = 0x01 | 0x02
			}
			heads = le.AppendUint16(heads, uint16(r.image))
			heads = le.AppendUint16(heads, 100)
			heads = append(heads, bits, 50, 0)
		}
		if !same {
			heads = le.AppendUint32(heads, r.rel.Tablespace)
			heads = le.AppendUint32(heads, r.rel.Database)
			heads = le.AppendUint32(heads, r.rel.Number)
		}
		heads = le.AppendUint32(heads, r.block)
		for range r.image + r.data {
			payload = append(payload, byte(len(payload)*7+i))
		}
	}
	switch {
	case len(main) == 0:
	case len(main) < 256:
		heads = append(heads, 255, byte(len(main)))
	default:
		heads = append(heads, 254)
		heads = le.AppendUint32(heads, uint32(len(main)))
	}
	rec := make([]byte, 24, 24+len(heads)+len(payload)+len(main))
	rec = append(append(append(rec, heads...), payload...), main...)
	le.PutUint32(rec, uint32(len(rec)))
	le.PutUint32(rec[4:], 700)
	rec[16], rec[17] = info, rmgr
	return rec
}

// seal completes a record that is to stand at the current position.
func (b *builder) seal(rec []byte) {
	le.PutUint64(rec[8:], uint64(b.prev))
	crc := crc32.Checksum(rec[24:], crc32.MakeTable(crc32.Castagnoli))
	le.PutUint32(rec[20:], crc32.Update(crc, crc32.MakeTable(crc32.Castagnoli), rec[:20]))
}

// record writes one record and returns where it starts.
func (b *builder) record(rmgr, info uint8, refs []ref, main []byte) pg.LSN {
	rec := b.encode(rmgr, info, refs, main)
	b.seal(rec)
	if b.at%testBlock == 0 {
		b.page(0)
	}
	start := b.at
	b.put(rec, uint32(len(rec)))
	b.at = (b.at + 7) &^ 7
	w := wal.Record{Start: start, Prev: b.prev, End: b.at, Length: uint32(len(rec)), XID: 700, Rmgr: rmgr, Info: info}
	for i, r := range refs {
		w.Blocks = append(w.Blocks, wal.BlockRef{Relation: r.rel, Fork: r.fork, ID: uint8(i), Image: r.image > 0, Block: r.block})
		if r.fork != wal.FSM {
			b.all.Mark(r.rel, r.fork, r.block)
		}
	}
	b.records = append(b.records, w)
	b.prev = start
	return start
}

// abort writes the beginning of a record up to the next page, which then
// overwrites it with the record that says so.
func (b *builder) abort(length int) pg.LSN {
	rec := b.encode(10, 0, nil, make([]byte, length))
	b.seal(rec)
	if b.at%testBlock == 0 {
		b.page(0)
	}
	start := b.at
	b.put(rec[:testBlock-int(b.at%testBlock)], uint32(len(rec)))
	b.overPage = true
	b.record(0, 0xD0, nil, le.AppendUint64(le.AppendUint64(nil, uint64(start)), 1))
	return start
}

// switchSegment writes an XLOG_SWITCH and goes to the next segment.
func (b *builder) switchSegment() {
	b.record(0, 0x40, nil, nil)
	b.at = testSegSize.Start(testSegSize.SegmentBefore(b.at) + 1)
}

// random writes records of varied shape until the position is reached.
func (b *builder) random(rng *rand.Rand, until pg.LSN) {
	for b.at < until {
		var refs []ref
		rel := wal.Relation{Tablespace: 1663, Database: 5, Number: 16384 + rng.Uint32N(20)}
		for range rng.IntN(4) {
			if rng.IntN(2) == 0 {
				rel.Number++
			}
			r := ref{rel: rel, block: rng.Uint32N(1 << 20), data: rng.IntN(60)}
			switch rng.IntN(12) {
			case 0:
				r.image = 1 + rng.IntN(8000)
			case 1:
				r.fork = wal.Fork(rng.IntN(4))
			}
			refs = append(refs, r)
		}
		b.record(uint8(9+rng.IntN(9)), uint8(rng.IntN(16)<<4), refs, make([]byte, rng.IntN(300)))
	}
}

// numbers gives the segments written, in order.
func (b *builder) numbers() []pg.SegmentNumber {
	var out []pg.SegmentNumber
	for n := range b.segments {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
