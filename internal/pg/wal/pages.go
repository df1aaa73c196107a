package wal

import (
	"errors"
	"io"

	"github.com/pgtender/pgtender/internal/pg"
)

// memory is a segment in memory. Its pages are not copied.
type memory struct {
	data  []byte
	start pg.LSN
	block int
}

func (m *memory) first() ([]byte, error) { return m.data[:SegmentHeaderLen], nil }

func (m *memory) set(start pg.LSN, _, block int) { m.start, m.block = start, block }

func (m *memory) page(at pg.LSN) ([]byte, error) {
	off := uint64(at - m.start)
	if off >= uint64(len(m.data)) {
		return nil, errEnd
	}
	return m.data[off : off+uint64(m.block)], nil
}

// windowLen is how much a window reads at once.
const windowLen = 256 << 10

// window is a segment of which a piece is at hand at a time.
type window struct {
	piece func(off int64) ([]byte, error) // gives whole pages; nil: they are read through r
	r     io.ReaderAt
	start pg.LSN
	size  int // of the segment
	block int
	buf   []byte // the bytes from off on
	off   int
}

func (w *window) first() ([]byte, error) {
	if w.piece != nil {
		return w.piece(0)
	}
	b := make([]byte, SegmentHeaderLen)
	return b, w.read(b, 0)
}

func (w *window) set(start pg.LSN, size, block int) {
	w.start, w.size, w.block = start, size, block
	w.buf, w.off = w.buf[:0], 0
}

func (w *window) page(at pg.LSN) ([]byte, error) {
	off := uint64(at - w.start)
	if off >= uint64(w.size) {
		return nil, errEnd
	}
	i := int(off)
	if i < w.off || i+w.block > w.off+len(w.buf) {
		if err := w.move(i); err != nil {
			w.buf = w.buf[:0]
			return nil, err
		}
	}
	i -= w.off
	return w.buf[i : i+w.block], nil
}

// move has the window begin at off.
func (w *window) move(off int) (err error) {
	w.off = off
	if w.piece != nil {
		if w.buf, err = w.piece(int64(off)); err == nil && len(w.buf) < w.block {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if cap(w.buf) == 0 {
		w.buf = make([]byte, windowLen)
	}
	w.buf = w.buf[:min(windowLen, w.size-off)]
	return w.read(w.buf, int64(off))
}

func (w *window) read(b []byte, off int64) error { return readFullAt(w.r, b, off) }

// readFullAt fills b, and tells a short file from one that has been read to its end.
func readFullAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
