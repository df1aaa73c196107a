package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/pgtender/pgtender/internal/pg"
)

// File is one opened segment. A read past its end is an io.EOF.
type File interface {
	io.ReaderAt
	io.Closer
}

// Source gives the segments of one lineage, each from the file that holds the
// lineage's WAL. A segment that is not there is an [fs.ErrNotExist].
type Source interface {
	// Open opens segment n and says of which timeline the file is.
	Open(ctx context.Context, n pg.SegmentNumber) (File, pg.Timeline, error)
}

// ReaderOptions say what is read. History is required.
type ReaderOptions struct {
	History     pg.History
	SegmentSize pg.SegmentSize // 0: 16 MiB
	SystemID    pg.SystemID    // 0: whatever the first segment says
}

// Reader reads records from a position on, along a timeline history, over
// segment boundaries and timeline switches, until valid WAL ends. Not safe for
// concurrent use. It holds one file and 256 KiB.
type Reader struct {
	source Source
	opt    ReaderOptions
	start  pg.LSN
	pages  lineage
	scan   scanner
	begun  bool
	end    pg.LSN
	stop   error // what ended the WAL
}

// NewReader prepares to read from start, which need not be the start of a
// record: the first one that starts there or later is the first to be read.
func NewReader(source Source, start pg.LSN, opt ReaderOptions) *Reader {
	if opt.SegmentSize == 0 {
		opt.SegmentSize = pg.DefaultSegmentSize
	}
	return &Reader{
		source: source, opt: opt, start: start, end: start,
		pages: lineage{source: source, history: opt.History, size: opt.SegmentSize},
	}
}

// Close closes the file being read.
func (r *Reader) Close() error { return r.pages.close() }

// End is the position after the last record that was read, or the start position.
func (r *Reader) End() pg.LSN { return r.end }

// Reason says, after Next returned io.EOF, why WAL ends at [Reader.End]: a
// *CorruptError for what stands in place of the next record (zeros, or what the
// file was recycled from, in a live pg_wal), or an fs.ErrNotExist for the
// next segment. Whether WAL may end there is for the caller to know.
func (r *Reader) Reason() error { return r.stop }

// Next reads the next record. The record is valid until the next call. It
// returns io.EOF where valid WAL ends, as PostgreSQL's recovery would: at the
// first position without a valid record. All other errors are failures to read.
func (r *Reader) Next(ctx context.Context) (*Record, error) {
	r.pages.ctx = ctx
	for r.stop == nil {
		rec, err := r.next()
		if err != nil {
			return nil, r.ended(err)
		}
		r.end = rec.End
		if rec.Start >= r.start {
			return rec, nil
		}
	}
	return nil, io.EOF
}

func (r *Reader) next() (*Record, error) {
	s := &r.scan
	if !r.begun {
		if err := r.begin(); err != nil {
			return nil, err
		}
		r.begun = true
	}
	// A file of an old timeline may go on past the point where it was left.
	if at := s.at + pg.LSN(s.off); at >= r.pages.until && s.off < len(s.page) {
		return nil, r.left(at)
	}
	if err := s.record(); err != nil {
		return nil, err
	}
	if s.rec.End > r.pages.until {
		return nil, r.left(s.rec.Start)
	}
	if s.rec.IsSwitch() {
		s.off = len(s.page)
		s.next = r.opt.SegmentSize.Start(r.opt.SegmentSize.SegmentOf(s.rec.Start) + 1)
	}
	return &s.rec, nil
}

// left is the error for a record that lies past its file's timeline.
func (r *Reader) left(at pg.LSN) error {
	return &CorruptError{At: at, What: "record", Why: fmt.Sprintf("it is of timeline %s, which was left at %s", r.pages.timeline, r.pages.until)}
}

// begin goes to the first record of the page that holds the start position.
func (r *Reader) begin() error {
	size := r.opt.SegmentSize
	if !size.Valid() {
		return fmt.Errorf("read WAL: invalid segment size %d bytes", size)
	}
	first := size.Start(size.SegmentOf(r.start))
	if err := r.pages.open(first); err != nil {
		return err
	}
	head := make([]byte, SegmentHeaderLen)
	if err := r.pages.window.read(head, 0); err != nil {
		if err == io.ErrUnexpectedEOF {
			return &CorruptError{At: first, What: "segment", Why: "it is too short for a page header"}
		}
		return err
	}
	g, h, err := parseGeometry(head)
	if err != nil {
		return fmt.Errorf("segment at %s: %w", first, err)
	}
	if err := (&Expect{SystemID: r.opt.SystemID, SegmentSize: size}).judge(g, h); err != nil {
		return err
	}
	r.pages.block = g.block
	r.pages.window.set(first, int(size), g.block)
	r.scan = scanner{geometry: g, pages: &r.pages, tli: r.opt.History.TimelineAt}
	page := r.start - r.start%pg.LSN(g.block)
	if err := r.scan.load(page); err != nil {
		return err
	}
	_, err = r.scan.skipToRecord()
	return err
}

// ended notes the end of valid WAL, and tells it from a failure to read.
func (r *Reader) ended(err error) error {
	if !errors.Is(err, ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read WAL after %s: %w", r.end, err)
	}
	r.stop = err
	return io.EOF
}

// lineage is a pageSource over the segments of a Source.
type lineage struct {
	ctx     context.Context // of the current call of Next
	source  Source
	history pg.History
	size    pg.SegmentSize
	block   int

	file     File
	number   pg.SegmentNumber
	timeline pg.Timeline
	until    pg.LSN // where the file's timeline was left, MaxLSN if it was not
	window   window
}

func (l *lineage) close() error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// open opens the segment that holds the byte at the given position.
func (l *lineage) open(at pg.LSN) error {
	if err := l.close(); err != nil {
		return err
	}
	n := l.size.SegmentOf(at)
	f, t, err := l.source.Open(l.ctx, n)
	if err != nil {
		return err
	}
	l.file, l.number, l.timeline, l.until = f, n, t, pg.MaxLSN
	if end, ok := l.history.End(t); ok {
		l.until = end
	}
	l.window.r = f
	if l.block > 0 {
		l.window.set(l.size.Start(n), int(l.size), l.block)
	}
	return nil
}

func (l *lineage) page(at pg.LSN) ([]byte, error) {
	if l.file == nil || l.size.SegmentOf(at) != l.number {
		if err := l.open(at); err != nil {
			return nil, err
		}
	}
	page, err := l.window.page(at)
	if err == io.ErrUnexpectedEOF {
		return l.short(at)
	}
	return page, err
}

// short reads a page on its own, where a window goes past the end of a file that
// is shorter than a segment, as one being received is.
func (l *lineage) short(at pg.LSN) ([]byte, error) {
	page := make([]byte, l.block)
	err := l.window.read(page, int64(uint64(at)%uint64(l.size)))
	if err == io.ErrUnexpectedEOF {
		return nil, &CorruptError{At: at, What: "page", Why: "the file ends before it", seen: at - pg.LSN(l.block), empty: true}
	}
	return page, err
}
