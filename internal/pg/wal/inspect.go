package wal

import (
	"errors"
	"fmt"
	"io"

	"github.com/pgtender/pgtender/internal/pg"
)

// Expect is what the caller knows about a segment. Zero fields are not checked.
type Expect struct {
	SystemID    pg.SystemID
	SegmentSize pg.SegmentSize
	// Segment is what the file name says. No page may be of a later timeline, as
	// a segment holds WAL of its own timeline and of ancestors only.
	Segment pg.Segment

	// Unfinished accepts a segment that breaks off anywhere, as long as no page of
	// the same WAL follows: for .partial files, and for a timeline's last segment
	// whose switch point is not known.
	Unfinished bool
	// Until is where the segment's timeline was left, if it was left within this
	// segment: a record must end there, and what follows is not looked at.
	Until pg.LSN
}

// Inspection is what [Inspect] finds out about one segment.
type Inspection struct {
	Info  Info
	Map   *BlockMap // of all records that start and end in the segment
	Carry Carry     // the rest of the records at its two ends
}

// Inspect reads one whole segment by itself. It checks every page header, the
// links between records, and the CRC of each record that lies within the
// segment; records that do not are left to [Chain] by way of the carry.
//
// Damage is a [*CorruptError]; a sound segment that does not meet expect is an
// [ErrForeign]. A segment whose WAL ends early, in zeros or in what it was
// recycled from, is no error: the caller must look at [Info.Complete].
func Inspect(segment []byte, expect Expect) (*Inspection, error) {
	return inspect(&memory{data: segment}, int64(len(segment)), expect, nil)
}

// InspectFile is [Inspect] for a segment of size bytes that is read through r, in
// pieces of at most 256 KiB.
func InspectFile(r io.ReaderAt, size int64, expect Expect) (*Inspection, error) {
	return inspect(&window{r: r}, size, expect, nil)
}

// Pieces is a segment that is given in pieces, to one who judges it.
type Pieces interface {
	// Piece gives whole pages from an offset on, one or more, valid until the next call.
	Piece(off int64) ([]byte, error)
	// Sound hears the offset of each record that ends in what was given and whose CRC is
	// right, before the next piece is asked for.
	Sound(off int64)
}

// InspectPieces is [Inspect] for a segment of size bytes. Each page is asked for
// once, in order; only what damage is looked into for may be asked for again.
func InspectPieces(p Pieces, size int64, expect Expect) (*Inspection, error) {
	return inspect(&window{piece: p.Piece}, size, expect, p.Sound)
}

// segmentSource is a pageSource over one segment.
type segmentSource interface {
	pageSource
	first() ([]byte, error) // the first SegmentHeaderLen bytes
	set(start pg.LSN, size, block int)
}

func inspect(src segmentSource, size int64, expect Expect, sound func(off int64)) (*Inspection, error) {
	if size < SegmentHeaderLen {
		return nil, &CorruptError{What: "segment", Why: fmt.Sprintf("it has only %d bytes", size)}
	}
	head, err := src.first()
	if err != nil {
		return nil, fmt.Errorf("read WAL segment: %w", err)
	}
	g, h, err := parseGeometry(head)
	if err != nil {
		return nil, err
	}
	if err := expect.judge(g, h); err != nil {
		return nil, err
	}
	if size != int64(g.segment) {
		return nil, &CorruptError{At: h.Address, What: "segment", Why: fmt.Sprintf("it has %d bytes, not %d", size, g.segment)}
	}
	src.set(h.Address, int(g.segment), g.block)
	in := inspector{expect: expect, sound: sound, s: scanner{geometry: g, pages: src}}
	in.out.Map = new(BlockMap)
	in.out.Info = Info{
		Major: g.major, SystemID: g.systemID, SegmentSize: g.segment, BlockSize: g.block,
		Start: h.Address, FirstTimeline: h.Timeline,
	}
	if err := in.run(); err != nil {
		return nil, err
	}
	return &in.out, nil
}

func (e *Expect) judge(g geometry, h PageHeader) error {
	foreign := func(format string, args ...any) error {
		return fmt.Errorf("WAL segment at %s: %s: %w", h.Address, fmt.Sprintf(format, args...), ErrForeign)
	}
	if e.SystemID != 0 && e.SystemID != g.systemID {
		return foreign("system identifier is %s, not %s", g.systemID, e.SystemID)
	}
	if e.SegmentSize != 0 && e.SegmentSize != g.segment {
		return foreign("segment size is %d, not %d", g.segment, e.SegmentSize)
	}
	if e.Segment == (pg.Segment{}) {
		return nil
	}
	if start := g.segment.Start(e.Segment.Number); start != h.Address {
		return foreign("its name says that it starts at %s", start)
	}
	if h.Timeline > e.Segment.Timeline {
		return foreign("it is of timeline %s, its name says %s", h.Timeline, e.Segment.Timeline)
	}
	return nil
}

type inspector struct {
	s      scanner
	expect Expect
	sound  func(off int64) // nil: nobody hears it
	out    Inspection
}

func (in *inspector) run() error {
	info := &in.out.Info
	if err := in.s.load(info.Start); err != nil {
		return err
	}
	info.End = info.Start
	head, err := in.s.skipToRecord()
	in.out.Carry.Head = head
	if head != nil && (head.Remaining > 0) {
		info.Flags |= FlagStartsInRecord
	}
	for err == nil {
		err = in.record()
	}
	if err == errEnd && info.First == 0 && head != nil && head.Length < head.Remaining {
		info.Flags |= FlagAllContinuation
	}
	if err := in.finish(err); err != nil {
		return err
	}
	info.LastTimeline = in.s.head.Timeline
	if in.s.overwrote {
		info.Flags |= FlagOverwrites
	}
	if t := in.expect.Segment.Timeline; t != 0 && info.LastTimeline > t {
		return fmt.Errorf("WAL segment at %s: it has pages of timeline %s, its name says %s: %w", info.Start, info.LastTimeline, t, ErrForeign)
	}
	return nil
}

// errStop says that the WAL of the segment ended as it should, before its end.
var errStop = errors.New("end of the segment's WAL")

// record takes the next record into account.
func (in *inspector) record() error {
	s, info := &in.s, &in.out.Info
	if err := s.record(); err != nil {
		return err
	}
	if in.sound != nil {
		in.sound(int64(s.rec.Start - info.Start))
	}
	if info.First == 0 {
		info.First, info.FirstPrev = s.rec.Start, s.rec.Prev
	}
	info.Last, info.LastComplete, info.End = s.rec.Start, s.rec.Start, s.rec.End
	flags, err := in.out.Map.Record(&s.rec)
	if err != nil {
		return err
	}
	info.Flags |= flags
	until := in.expect.Until
	switch inside := until > info.Start && until < info.SegmentEnd(); {
	case inside && info.End > until:
		return in.crosses()
	case inside && info.End == until:
		info.Tail = TailUntil
		return errStop
	case s.rec.IsSwitch():
		info.Tail = TailSwitch
		return errStop
	}
	return nil
}

func (in *inspector) crosses() error {
	return &CorruptError{At: in.s.rec.Start, What: "record", Why: fmt.Sprintf("it goes on past %s, where its timeline ends", in.expect.Until)}
}

// finish judges what ended the reading.
func (in *inspector) finish(err error) error {
	info := &in.out.Info
	switch {
	case err == errStop:
		return nil
	case err == errEnd:
		info.Tail, info.End = TailFull, info.SegmentEnd()
		return nil
	case err == errUnfinished:
		return in.unfinished()
	}
	var bad *CorruptError
	if !errors.As(err, &bad) {
		return fmt.Errorf("read WAL segment at %s: %w", info.Start, err)
	}
	tail, readErr := in.ending(bad)
	if readErr != nil {
		return fmt.Errorf("read WAL segment at %s: %w", info.Start, readErr)
	}
	if tail == 0 || tail == TailTorn && !in.expect.Unfinished {
		return bad
	}
	info.Tail, info.Remark = tail, bad.Error()
	return nil
}

// unfinished notes the record that goes on in the next segment.
func (in *inspector) unfinished() error {
	s, info := &in.s, &in.out.Info
	if until := in.expect.Until; until > info.Start && until < info.SegmentEnd() {
		return in.crosses()
	}
	t := &Unfinished{
		Major: s.major, Start: s.rec.Start, Total: s.rec.Length,
		Length: s.gathered.n, CRC: s.gathered.crc,
	}
	t.Bytes = append(t.Bytes, s.gathered.kept[:min(len(s.gathered.kept), maxCarried)]...)
	if len(t.Bytes) >= recordHeaderLen {
		if why := s.rec.header(t.Bytes, t.Start, s.major); why != "" {
			return s.corrupt(t.Start, "record", "%s", why)
		}
		if s.linked && s.rec.Prev != s.prev {
			return s.corrupt(t.Start, "record", "previous record is said to be at %s, not %s", s.rec.Prev, s.prev)
		}
	}
	if info.First == 0 {
		info.First = t.Start
		if len(t.Bytes) >= recordHeaderLen {
			info.FirstPrev = s.rec.Prev
		} else {
			info.Flags |= FlagPrevUnknown
		}
	}
	info.Last = t.Start
	info.Flags |= FlagEndsInRecord
	info.Tail, info.End = TailFull, info.SegmentEnd()
	in.out.Carry.Tail = t
	return nil
}

// ending tells whether WAL may have ended where bad was met: after it no page of
// this WAL follows. It returns 0 if one does.
func (in *inspector) ending(bad *CorruptError) (Tail, error) {
	if bad.seen < in.out.Info.Start {
		return 0, nil
	}
	clean := bad.empty && bad.What == "page"
	if bad.empty && bad.What == "record" {
		page, err := in.s.pages.page(bad.seen)
		if err != nil {
			return 0, err
		}
		clean = allZero(page[bad.At-bad.seen:])
	}
	stale := false
	for at := bad.seen + pg.LSN(in.s.block); at < in.out.Info.SegmentEnd(); at += pg.LSN(in.s.block) {
		page, err := in.s.pages.page(at)
		if err != nil {
			return 0, err
		}
		if allZero(page) {
			continue
		}
		if !in.s.stale(page, at) {
			return 0, nil
		}
		stale = true
	}
	switch {
	case !clean:
		return TailTorn, nil
	case stale:
		return TailStale, nil
	}
	return TailZero, nil
}
