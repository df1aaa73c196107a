package wal

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/pgtender/pgtender/internal/pg"
)

// pageSource gives the page at an address, which is a multiple of the block
// size. The slice is valid until the next call. errEnd says that the range to
// be read ends there; any other error is one of reading.
type pageSource interface {
	page(at pg.LSN) ([]byte, error)
}

// errEnd is the end of the pages to be read.
var errEnd = errors.New("end of the WAL at hand")

// errUnfinished says that the range ended within a record, which the scanner
// has in rec (as far as known) and gathered.
var errUnfinished = errors.New("record continues past the WAL at hand")

// scanner walks over pages and records. It follows ReadPageInternal,
// XLogDecodeNextRecord and ValidXLogRecord of xlogreader.c.
type scanner struct {
	geometry
	pages pageSource
	tli   func(at pg.LSN) pg.Timeline // nil: timelines need only not decrease

	page []byte
	head PageHeader // of page
	at   pg.LSN     // address of page
	off  int        // the cursor: next unread byte of page
	next pg.LSN     // address of the page to turn to

	rec       Record
	gathered  piece
	prev      pg.LSN // start of the last complete record, if linked
	linked    bool
	aborted   pg.LSN // start of a record that was given up on this page
	dropped   bool   // a record was given up on this page
	overwrote bool   // a record was given up somewhere
}

// load makes the page at the given address the current one.
func (s *scanner) load(at pg.LSN) error {
	page, err := s.pages.page(at)
	if err != nil {
		return err
	}
	h := parsePageHeader(page)
	why := s.check(h, page, at)
	switch {
	case why != "":
	case h.Timeline < s.head.Timeline:
		why = fmt.Sprintf("timeline goes back from %s to %s", s.head.Timeline, h.Timeline)
	case s.tli != nil && s.tli(at) != h.Timeline:
		why = fmt.Sprintf("page belongs to timeline %s, not %s", h.Timeline, s.tli(at))
	}
	if why != "" {
		return &CorruptError{At: at, What: "page", Why: why, seen: at - pg.LSN(s.block), empty: true}
	}
	s.page, s.head, s.at, s.off = page, h, at, h.len()
	s.next = at + pg.LSN(s.block)
	return nil
}

// turn goes to the next page, on which a record must begin.
func (s *scanner) turn() error {
	if err := s.load(s.next); err != nil {
		return err
	}
	switch {
	case s.head.flags&pageFirstIsOverwriteContr != 0:
		return s.corrupt(s.at, "page", "page overwrites an unfinished record, but there is none")
	case s.head.flags&pageFirstIsContRecord != 0 || s.head.remaining != 0:
		return s.corrupt(s.at, "page", "page continues a record, but the one before is complete")
	}
	return nil
}

func (s *scanner) corrupt(at pg.LSN, what, format string, args ...any) error {
	return &CorruptError{At: at, What: what, Why: fmt.Sprintf(format, args...), seen: s.at}
}

// record reads the record at the cursor into s.rec and moves on. The error is
// errEnd at the end of the range, errUnfinished within a record, a
// *CorruptError, or one of reading.
func (s *scanner) record() error {
	for {
		if s.off >= len(s.page) {
			if err := s.turn(); err != nil {
				return err
			}
		}
		b := s.page[s.off:]
		start := s.at + pg.LSN(s.off)
		total := le.Uint32(b)
		switch {
		case total == 0:
			return &CorruptError{At: start, What: "record", Why: "there is none, its length is 0", seen: s.at, empty: true}
		case total < recordHeaderLen || total > maxRecordLen:
			return s.corrupt(start, "record", "its length is said to be %d bytes", total)
		case int(total) <= len(b):
			s.off += int(align8(total))
			return s.accept(start, b[:total], crc32.Update(0, castagnoli, b[recordHeaderLen:total]))
		}
		err := s.gather(start, total, b)
		if err != errOverwritten {
			return err
		}
	}
}

// errOverwritten says that the gathered record was given up by the server and
// that the cursor stands at the one written in its place.
var errOverwritten = errors.New("record was overwritten")

// gather reads a record that goes on past the current page.
func (s *scanner) gather(start pg.LSN, total uint32, first []byte) error {
	s.gathered.reset(recordHeaderLen, maxHeadersLen)
	s.addPiece(first)
	for s.gathered.n < total {
		err := s.load(s.next)
		if err == errEnd {
			s.rec.Start, s.rec.Length = start, total
			return errUnfinished
		}
		if err != nil {
			return s.within(start, err)
		}
		if s.head.flags&pageFirstIsOverwriteContr != 0 {
			s.aborted, s.dropped, s.overwrote = start, true, true
			return errOverwritten
		}
		if why := s.continues(total - s.gathered.n); why != "" {
			return s.corrupt(start, "record", "at %s: %s", s.at, why)
		}
		b := s.page[s.off:]
		b = b[:min(len(b), int(total-s.gathered.n))]
		s.addPiece(b)
		s.off += int(align8(uint32(len(b))))
	}
	return s.accept(start, s.gathered.kept, s.gathered.crc)
}

// addPiece gathers bytes of a record, all of them if its main data is wanted.
func (s *scanner) addPiece(b []byte) {
	g := &s.gathered
	if len(g.kept) < recordHeaderLen && len(g.kept)+len(b) >= recordHeaderLen {
		// The header decides how much to keep, so it is completed first.
		n := recordHeaderLen - len(g.kept)
		g.add(b[:n])
		b = b[n:]
		if wantsMain(g.kept[17], g.kept[16]) {
			g.keep = maxRecordLen
		}
	}
	g.add(b)
}

// continues judges whether the current page goes on with a record of which so
// many bytes are missing.
func (s *scanner) continues(missing uint32) string {
	switch {
	case s.head.flags&pageFirstIsContRecord == 0:
		return "the page does not continue it"
	case s.head.remaining != missing:
		return fmt.Sprintf("the page continues it with %d bytes, %d are missing", s.head.remaining, missing)
	}
	return ""
}

// within turns a bad page met inside a record into an error about the record.
func (s *scanner) within(start pg.LSN, err error) error {
	var bad *CorruptError
	if !errors.As(err, &bad) {
		return err
	}
	return &CorruptError{At: start, What: "record", Why: fmt.Sprintf("it breaks off at %s: %s", bad.At, bad.Why), seen: bad.seen}
}

// accept checks the record whose bytes, or as much of their beginning as is
// kept, are b, and whose body has the given CRC. The cursor is past it already.
func (s *scanner) accept(start pg.LSN, b []byte, body uint32) error {
	if why := s.rec.header(b, start, s.major); why != "" {
		return s.corrupt(start, "record", "%s", why)
	}
	if s.linked && s.rec.Prev != s.prev {
		return s.corrupt(start, "record", "previous record is said to be at %s, not %s", s.rec.Prev, s.prev)
	}
	if crc := crc32.Update(body, castagnoli, b[:crcOffset]); crc != le.Uint32(b[crcOffset:]) {
		return s.corrupt(start, "record", "its CRC is %08X, computed %08X", le.Uint32(b[crcOffset:]), crc)
	}
	if why := s.rec.decode(b); why != "" {
		return s.corrupt(start, "record", "%s", why)
	}
	s.rec.End = s.at + pg.LSN(s.off)
	if s.dropped {
		s.dropped = false
		if why := s.rec.overwrites(s.aborted); why != "" {
			return s.corrupt(start, "record", "%s", why)
		}
	}
	s.prev, s.linked = start, true
	return nil
}

// skipToRecord moves the cursor from the start of the current page past the
// continuation of a record begun earlier. It returns what it passed, nil if
// nothing; errEnd and errors are those of load.
func (s *scanner) skipToRecord() (*Head, error) {
	if s.head.flags&pageFirstIsOverwriteContr != 0 {
		s.dropped, s.overwrote = true, true
		return &Head{Overwritten: true}, nil
	}
	if s.head.flags&pageFirstIsContRecord == 0 {
		return nil, nil
	}
	begin := s.at
	h := &Head{Remaining: s.head.remaining}
	s.gathered.reset(0, maxCarried)
	finish := func(err error) (*Head, error) {
		h.Length, h.CRC = s.gathered.n, s.gathered.crc
		h.Bytes = append([]byte(nil), s.gathered.kept...)
		return h, err
	}
	if h.Remaining == 0 || h.Remaining > maxRecordLen {
		return nil, s.corrupt(begin, "page", "page continues a record with %d bytes", h.Remaining)
	}
	for {
		b := s.page[s.off:]
		b = b[:min(len(b), int(h.Remaining-s.gathered.n))]
		s.gathered.add(b)
		s.off += int(align8(uint32(len(b))))
		if s.gathered.n == h.Remaining {
			return finish(nil)
		}
		if err := s.load(s.next); err != nil {
			return finish(err)
		}
		if s.head.flags&pageFirstIsOverwriteContr != 0 {
			h.Overwritten, s.dropped, s.overwrote = true, true, true
			return finish(nil)
		}
		if why := s.continues(h.Remaining - s.gathered.n); why != "" {
			return nil, s.corrupt(s.at, "page", "within the record continued at %s: %s", begin, why)
		}
	}
}
