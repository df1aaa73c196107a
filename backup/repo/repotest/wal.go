package repotest

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"

	"github.com/pgtender/pgtender/internal/pg"
)

// WAL gives a segment of the cluster's timeline 1 as PostgreSQL 17 writes it: pages of
// 8 KiB with records of some hundred bytes, and now and then one of several pages. It
// begins with a record, and most likely ends within one.
func WAL(seed uint64, n pg.SegmentNumber, size pg.SegmentSize) []byte {
	const page, shortHeader, longHeader, recordHeader = 8192, 24, 40, 24
	var (
		le      = binary.LittleEndian
		crc     = crc32.MakeTable(crc32.Castagnoli)
		rng     = rand.New(rand.NewPCG(seed, uint64(n)))
		segment = make([]byte, size)
		start   = uint64(size.Start(n))
		prev    = start - 100
		off     = 0
	)
	begin := func(remaining int) { // a page
		h := segment[off:]
		le.PutUint16(h, 0xD116)
		le.PutUint16(h[2:], 4) // XLP_BKP_REMOVABLE
		if remaining > 0 {
			h[2] |= 1 // XLP_FIRST_IS_CONTRECORD
		}
		le.PutUint32(h[4:], 1)
		le.PutUint64(h[8:], start+uint64(off))
		le.PutUint32(h[16:], uint32(remaining))
		if off += shortHeader; off == shortHeader {
			h[2] |= 2 // XLP_LONG_HEADER
			le.PutUint64(h[24:], uint64(Cluster.SystemID))
			le.PutUint32(h[32:], uint32(size))
			le.PutUint32(h[36:], page)
			off = longHeader
		}
	}
	for off < len(segment) {
		if off%page == 0 {
			begin(0)
		}
		main := 20 + rng.IntN(230)
		if rng.IntN(100) == 0 {
			main = 20_000
		}
		rec := make([]byte, recordHeader, recordHeader+5+main)
		le.PutUint64(rec[8:], prev)
		le.PutUint32(rec[4:], 700+uint32(rng.IntN(8)))
		rec[16], rec[17] = 0, 10 // of a heap
		rec = append(rec, 254)   // long main data
		rec = le.AppendUint32(rec, uint32(main))
		for range main {
			rec = append(rec, byte(rng.IntN(1+main%16)))
		}
		le.PutUint32(rec, uint32(len(rec)))
		le.PutUint32(rec[20:], crc32.Update(crc32.Checksum(rec[recordHeader:], crc), crc, rec[:20]))
		prev = start + uint64(off)
		for len(rec) > 0 && off < len(segment) {
			if off%page == 0 {
				begin(len(rec))
			}
			n := copy(segment[off:off+page-off%page], rec)
			off, rec = off+n, rec[n:]
		}
		off = (off + 7) &^ 7
	}
	return segment
}
