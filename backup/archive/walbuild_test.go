package archive_test

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/internal/pg"
)

const segSize = pg.SegmentSize(1 << 20) // the smallest: tests stay quick

var le = binary.LittleEndian

// builder writes WAL of PostgreSQL 17 as a server does, page by page.
type builder struct {
	size     pg.SegmentSize
	timeline pg.Timeline
	system   pg.SystemID
	at, prev pg.LSN
	segments map[pg.SegmentNumber][]byte
	fill     byte // differs where content is to differ
}

// newBuilder begins with the first byte of a segment.
func newBuilder(t pg.Timeline, n pg.SegmentNumber) *builder {
	return &builder{size: segSize, timeline: t, system: repotest.Cluster.SystemID, at: segSize.Start(n), segments: map[pg.SegmentNumber][]byte{}}
}

func (b *builder) segment() []byte {
	n := b.size.SegmentOf(b.at)
	if b.segments[n] == nil {
		b.segments[n] = make([]byte, b.size)
	}
	return b.segments[n]
}

// page writes the header of the page at b.at.
func (b *builder) page(remaining uint32) {
	h := make([]byte, 40)
	flags, n := uint16(4), 24
	if remaining > 0 {
		flags |= 1
	}
	if b.size.Offset(b.at) == 0 {
		flags, n = flags|2, 40
		le.PutUint64(h[24:], uint64(b.system))
		le.PutUint32(h[32:], uint32(b.size))
		le.PutUint32(h[36:], 8192)
	}
	le.PutUint16(h, 0xD116)
	le.PutUint16(h[2:], flags)
	le.PutUint32(h[4:], uint32(b.timeline))
	le.PutUint64(h[8:], uint64(b.at))
	le.PutUint32(h[16:], remaining)
	copy(b.segment()[b.size.Offset(b.at):], h[:n])
	b.at += pg.LSN(n)
}

// record writes one record with main data, and block references by number, and
// gives its start.
func (b *builder) record(rmgr, info uint8, xid uint32, main []byte, blocks ...uint32) pg.LSN {
	var body []byte
	for i, block := range blocks {
		body = append(body, byte(i), 0, 0, 0) // main fork, no data
		for _, v := range []uint32{1663, 5, 16384, block} {
			body = le.AppendUint32(body, v)
		}
	}
	if len(main) > 0 {
		body = append(body, 254)
		body = le.AppendUint32(body, uint32(len(main)))
		body = append(body, main...)
	}
	rec := make([]byte, 24, 24+len(body))
	rec = append(rec, body...)
	le.PutUint32(rec, uint32(len(rec)))
	le.PutUint32(rec[4:], xid)
	le.PutUint64(rec[8:], uint64(b.prev))
	rec[16], rec[17] = info, rmgr
	crc := crc32.Checksum(rec[24:], crc32.MakeTable(crc32.Castagnoli))
	le.PutUint32(rec[20:], crc32.Update(crc, crc32.MakeTable(crc32.Castagnoli), rec[:20]))
	if b.at%8192 == 0 {
		b.page(0)
	}
	start := b.at
	for p := rec; len(p) > 0; {
		if b.at%8192 == 0 {
			b.page(uint32(len(p)))
		}
		n := min(len(p), 8192-int(b.at%8192))
		copy(b.segment()[b.size.Offset(b.at):], p[:n])
		b.at += pg.LSN(n)
		p = p[n:]
	}
	b.at = (b.at + 7) &^ 7
	b.prev = start
	return start
}

// insert writes a record that changes a block.
func (b *builder) insert(block uint32) pg.LSN {
	main := make([]byte, 2000)
	for i := range main {
		main[i] = byte(i*7) ^ byte(block) ^ b.fill
	}
	return b.record(10, 0, 700, main, block)
}

// until inserts until the position is reached or passed.
func (b *builder) until(l pg.LSN) {
	for n := uint32(0); b.at < l; n++ {
		b.insert(n)
	}
}

// commit ends a transaction.
func (b *builder) commit(xid uint32, at time.Time) pg.LSN {
	return b.record(1, 0, xid, le.AppendUint64(nil, uint64(at.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds())))
}

// restorePoint writes a named restore point.
func (b *builder) restorePoint(name string) pg.LSN {
	return b.record(0, 0x70, 0, append(make([]byte, 8), append([]byte(name), make([]byte, 64-len(name))...)...))
}

// switchSegment ends the segment.
func (b *builder) switchSegment() {
	b.record(0, 0x40, 0, nil)
	b.at = b.size.Start(b.size.SegmentBefore(b.at) + 1)
}

// fork gives a builder that goes on from here on a new timeline, whose first
// segment begins with a copy of this one's.
func (b *builder) fork(t pg.Timeline) *builder {
	out := &builder{size: b.size, timeline: t, system: b.system, at: b.at, prev: b.prev, segments: map[pg.SegmentNumber][]byte{}, fill: byte(t)}
	if b.size.Offset(b.at) != 0 {
		copy(out.segment(), b.segment()[:b.size.Offset(b.at)])
	}
	return out
}

// name gives the file name of a segment of the builder's timeline.
func (b *builder) name(n pg.SegmentNumber) string {
	return pg.Segment{Timeline: b.timeline, Number: n}.Name(b.size)
}

// save writes a segment into dir under its name with suffix, and gives the
// path.
func (b *builder) save(t testing.TB, dir string, n pg.SegmentNumber, suffix string) string {
	t.Helper()
	return save(t, filepath.Join(dir, b.name(n)+suffix), b.segments[n])
}

func save(t testing.TB, path string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// filled gives segments first to last, full of records.
func filled(t pg.Timeline, first, last pg.SegmentNumber) *builder {
	b := newBuilder(t, first)
	b.until(segSize.Start(last + 1))
	return b
}

// rivals gives two builders that have written different WAL into segment 4.
func rivals() (first, second *builder) {
	first, second = filled(1, 4, 4), newBuilder(1, 4)
	second.fill = 1
	second.until(segSize.Start(5))
	return first, second
}

// leads is the [archive.PushOptions].Leadership of a proved leader.
func leads(context.Context) (archive.Proof, error) { return archive.Leader, nil }

// saveHistory writes a timeline's history file into dir.
func saveHistory(t testing.TB, dir string, h pg.History) string {
	t.Helper()
	return save(t, filepath.Join(dir, pg.HistoryName(h.Timeline)), h.Encode())
}
