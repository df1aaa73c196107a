package wal

import (
	"errors"
	"hash/crc32"
	"math/bits"

	"github.com/pgtender/pgtender/internal/pg"
)

// A fifth of what WAL becomes when it is compressed are fields that a reader can
// compute: each record's CRC and the position of the record before it, and the page
// headers. Condensed WAL is without them, and without padding. docs/format.md §7 says
// what is left out where.
//
// A chunk is condensed by itself: it begins with a page, whose header is kept, and of
// its first record the position of the one before.

// Marks are places in a chunk of WAL: offsets that are multiples of 8, as all records'
// are. Nil has none. Not safe for concurrent use.
type Marks []uint64

// Reset forgets all marks, and makes room for those of a chunk of n bytes.
func (m *Marks) Reset(n int) {
	words := (n + 511) / 512
	if cap(*m) < words {
		*m = make(Marks, words)
	}
	*m = (*m)[:words]
	clear(*m)
}

// Add marks an offset within the chunk.
func (m Marks) Add(off int) { m[off/512] |= 1 << (off / 8 % 64) }

func (m Marks) has(off int) bool { return off/512 < len(m) && m[off/512]&(1<<(off/8%64)) != 0 }

// ValidBlockSize reports whether WAL pages (XLOG_BLCKSZ) can have so many bytes:
// configure allows powers of two from 1 to 64 KiB.
func ValidBlockSize(n uint32) bool {
	return n >= 1<<10 && n <= 1<<16 && bits.OnesCount32(n) == 1
}

// Condense appends to dst what is left of a chunk of WAL, whose pages have block bytes.
// Offsets of records whose CRC is known to be right may be in sound; the others' are
// computed. It reports false where [Expand] would not give the same bytes again, as of
// what is no WAL throughout, or where nothing would be saved; what it appended then is
// of no use. With room in dst for as many bytes as the chunk has nothing is allocated.
func Condense(dst, chunk []byte, block int, sound Marks) ([]byte, bool) {
	w, ok := enter(chunk, chunk, block)
	if !ok {
		return dst, false
	}
	c := condenser{chunkWalk: w, out: append(dst, chunk[:w.off]...)}
	if !c.run(sound) || len(c.out)-len(dst) >= len(chunk) {
		return dst, false
	}
	return c.out, true
}

// Expand fills a chunk with the WAL that condensed is left of. An error means that
// this is not so of any WAL. That it gives what [Condense] was given must be checked
// by a digest: damage is not found out in every case.
func Expand(chunk, condensed []byte, block int) error {
	w, ok := enter(condensed, chunk, block)
	if !ok || len(condensed) >= len(chunk) {
		return errNotCondensed
	}
	e := expander{chunkWalk: w, in: condensed[copy(chunk, condensed[:w.off]):]}
	if !e.run() || len(e.in) > 0 {
		return errNotCondensed
	}
	return nil
}

var errNotCondensed = errors.New("it is no condensed WAL")

// chunkWalk is a walk over a chunk that is being condensed or expanded.
type chunkWalk struct {
	chunk     []byte
	block     int
	address   pg.LSN               // of the first page
	remaining uint32               // bytes of the record that the chunk begins in
	common    [shortHeaderLen]byte // what page headers have in common

	off   int    // in the chunk
	prev  pg.LSN // start of the last record
	begun bool   // there was a record

	// head is that of a record that is spread over pages. It is here since what a CRC
	// is computed of is on the heap, and so there is one for all records.
	head [recordHeaderLen]byte
}

// enter reads the header at the start of b, which is that of a chunk's first page, and
// goes to its end.
func enter(b, chunk []byte, block int) (w chunkWalk, ok bool) {
	size := len(chunk)
	if len(b) < shortHeaderLen || size%block > 0 && size%block < shortHeaderLen {
		return w, false
	}
	h := parsePageHeader(b)
	w = chunkWalk{chunk: chunk, block: block, address: h.Address, remaining: h.remaining, off: h.len()}
	continues := h.flags&pageFirstIsContRecord != 0
	switch {
	case min(len(b), size) < w.off:
		return w, false
	case h.flags&pageFirstIsOverwriteContr != 0 || continues != (h.remaining > 0) || h.remaining > maxRecordLen:
		return w, false
	}
	copy(w.common[:8], b)
	le.PutUint16(w.common[2:], h.flags&^(pageLongHeader|pageFirstIsContRecord))
	return w, true
}

// atPage reports whether a page's header belongs here.
func (w *chunkWalk) atPage() bool { return w.off&(w.block-1) == 0 }

// pageHeader gives the header of the page that begins here with so many bytes of a record.
func (w *chunkWalk) pageHeader(remaining uint32) (h [shortHeaderLen]byte) {
	h = w.common
	if remaining > 0 {
		h[2] |= pageFirstIsContRecord
	}
	le.PutUint64(h[8:], uint64(w.address)+uint64(w.off))
	le.PutUint32(h[16:], remaining)
	return h
}

// page is what is left of the page here, which has begun.
func (w *chunkWalk) page() []byte {
	return w.chunk[w.off:min((w.off|(w.block-1))+1, len(w.chunk))]
}

// room is how many bytes of records there are on the page here, which has begun, and
// all that follow.
func (w *chunkWalk) room() int {
	here := len(w.page())
	rest := len(w.chunk) - w.off - here
	return here + rest - (rest+w.block-1)/w.block*shortHeaderLen
}

// padding is what lies here up to where the next record may begin.
func (w *chunkWalk) padding() []byte { return w.chunk[w.off:min((w.off+7)&^7, len(w.chunk))] }

// passed takes note of a record.
func (w *chunkWalk) passed(start int) { w.prev, w.begun = w.address+pg.LSN(start), true }

// keptHeader is how many bytes are kept of the header of a record that lies whole in the
// chunk, unless it is the first one.
const keptHeader = 10

// recordCRC is the CRC of a record (COMP_CRC32C in XLogInsertRecord): of its body, then
// of its header.
func recordCRC(header, body []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, body), castagnoli, header[:crcOffset])
}

type condenser struct {
	chunkWalk
	out []byte
}

func (c *condenser) run(sound Marks) bool {
	if !c.body(min(int(c.remaining), c.room()), c.remaining) || !c.pad() {
		return false
	}
	for c.off < len(c.chunk) {
		if !c.record(sound) || !c.pad() {
			return false
		}
	}
	return true
}

// turn passes over a page's header, if there is one here.
func (c *condenser) turn(remaining uint32) bool {
	if !c.atPage() {
		return true
	}
	h := c.pageHeader(remaining)
	ok := string(h[:]) == string(c.chunk[c.off:c.off+shortHeaderLen])
	c.off += shortHeaderLen
	return ok
}

// body takes n bytes of a record, of which left are to come here and further on.
func (c *condenser) body(n int, left uint32) bool {
	for n > 0 {
		if !c.turn(left) {
			return false
		}
		b := c.page()
		m := min(n, len(b))
		c.out = append(c.out, b[:m]...)
		c.off += m
		n -= m
		left -= uint32(m)
	}
	return true
}

// pad passes over what is between two records.
func (c *condenser) pad() bool {
	b := c.padding()
	c.off += len(b)
	return allZero(b)
}

func (c *condenser) record(sound Marks) bool {
	if !c.turn(0) {
		return false
	}
	start := c.off
	if rec := c.page(); len(rec) >= recordHeaderLen && le.Uint32(rec) <= uint32(len(rec)) {
		// It lies on one page, as most do.
		if rec = rec[:max(recordHeaderLen, le.Uint32(rec))]; !c.header(start, rec, true) {
			return false
		}
		c.out = append(c.out, rec[recordHeaderLen:]...)
		c.off += len(rec)
		return sound.has(start) || recordCRC(rec, rec[recordHeaderLen:]) == le.Uint32(rec[crcOffset:])
	}
	return c.spread(sound.has(start))
}

// spread takes a record of which not all lies on this page.
func (c *condenser) spread(sound bool) bool {
	room := c.room()
	if room < recordHeaderLen {
		c.out = append(c.out, c.chunk[c.off:]...)
		c.off = len(c.chunk)
		return true
	}
	total, at, start := le.Uint32(c.chunk[c.off:]), len(c.out), c.off
	if total < recordHeaderLen || total > maxRecordLen || !c.body(recordHeaderLen, total) {
		return false
	}
	h := c.head[:]
	copy(h, c.out[at:])
	c.out = c.out[:at]
	whole := room >= int(total)
	if !c.header(start, h, whole) {
		return false
	}
	at = len(c.out)
	if !c.body(min(room, int(total))-recordHeaderLen, total-recordHeaderLen) {
		return false
	}
	return !whole || sound || recordCRC(h, c.out[at:]) == le.Uint32(h[crcOffset:])
}

// header takes what is kept of the header (XLogRecord) of the record at start, which
// lies whole in the chunk or not.
func (c *condenser) header(start int, h []byte, whole bool) bool {
	if le.Uint32(h) < recordHeaderLen || le.Uint16(h[18:]) != 0 || c.begun && pg.LSN(le.Uint64(h[8:])) != c.prev {
		return false
	}
	c.out = append(c.out, h[:8]...)
	if !c.begun {
		c.out = append(c.out, h[8:16]...)
	}
	c.out = append(c.out, h[16], h[17])
	if !whole {
		c.out = append(c.out, h[crcOffset:recordHeaderLen]...)
	}
	c.passed(start)
	return true
}

type expander struct {
	chunkWalk
	in []byte
}

func (e *expander) run() bool {
	b, ok := e.take(min(int(e.remaining), e.room()))
	if !ok {
		return false
	}
	e.put(b, e.remaining)
	for e.pad(); e.off < len(e.chunk); e.pad() {
		if !e.record() {
			return false
		}
	}
	return true
}

// take gives the next n bytes of what is condensed.
func (e *expander) take(n int) (b []byte, ok bool) {
	if n > len(e.in) {
		return nil, false
	}
	b, e.in = e.in[:n], e.in[n:]
	return b, true
}

// turn writes a page's header, if one belongs here.
func (e *expander) turn(remaining uint32) {
	if e.atPage() {
		h := e.pageHeader(remaining)
		e.off += copy(e.chunk[e.off:], h[:])
	}
}

// put writes bytes of a record, of which left are to come here and further on.
func (e *expander) put(b []byte, left uint32) {
	for len(b) > 0 {
		e.turn(left)
		n := copy(e.page(), b)
		e.off += n
		b = b[n:]
		left -= uint32(n)
	}
}

// pad writes what is between two records.
func (e *expander) pad() {
	b := e.padding()
	clear(b)
	e.off += len(b)
}

func (e *expander) record() bool {
	e.turn(0)
	if e.begun && len(e.in) >= keptHeader {
		total, rec := le.Uint32(e.in), e.page()
		if total >= recordHeaderLen && int(total) <= min(len(rec), len(e.in)-keptHeader+recordHeaderLen) {
			e.whole(rec[:total], e.in[:keptHeader])
			return true
		}
	}
	return e.spread()
}

// whole writes a record that lies on one page.
func (e *expander) whole(rec, header []byte) {
	copy(rec, header[:8])
	le.PutUint64(rec[8:], uint64(e.prev))
	rec[16], rec[17], rec[18], rec[19] = header[8], header[9], 0, 0
	body := rec[recordHeaderLen:]
	copy(body, e.in[len(header):])
	le.PutUint32(rec[crcOffset:], recordCRC(rec, body))
	e.passed(e.off)
	e.off += len(rec)
	e.in = e.in[len(header)+len(body):]
}

// spread writes any record.
func (e *expander) spread() bool {
	start, room := e.off, e.room()
	if room < recordHeaderLen {
		b, ok := e.take(len(e.chunk) - start)
		e.off += copy(e.chunk[start:], b)
		return ok
	}
	if len(e.in) < 4 {
		return false
	}
	total := le.Uint32(e.in)
	if total < recordHeaderLen || total > maxRecordLen {
		return false
	}
	whole := room >= int(total)
	if !e.header(!e.begun, !whole) {
		return false
	}
	body, ok := e.take(min(room, int(total)) - recordHeaderLen)
	if !ok {
		return false
	}
	if whole {
		le.PutUint32(e.head[crcOffset:], recordCRC(e.head[:], body))
	}
	e.put(e.head[:], total)
	e.put(body, total-recordHeaderLen)
	e.passed(start)
	return true
}

// header is the inverse of the condenser's. What is not there is what is known, but the
// CRC.
func (e *expander) header(prev, crc bool) bool {
	n := keptHeader
	if prev {
		n += 8
	}
	if crc {
		n += 4
	}
	b, ok := e.take(n)
	if !ok {
		return false
	}
	h := e.head[:]
	clear(h)
	b = b[copy(h, b[:8]):]
	if le.PutUint64(h[8:], uint64(e.prev)); prev {
		b = b[copy(h[8:16], b):]
	}
	b = b[copy(h[16:18], b):]
	copy(h[crcOffset:], b)
	return true
}
