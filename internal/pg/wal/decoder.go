package wal

import (
	"encoding/binary"
	"fmt"
)

// decoder reads an encoding from front to back. After the first failure, which
// it keeps, every value is zero.
type decoder struct {
	b   []byte
	off int
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("byte %d: %s: %w", d.off, fmt.Sprintf(format, args...), ErrCorrupt)
	}
}

func (d *decoder) ok() bool { return d.err == nil }

// raw gives the next n bytes, which stay part of the encoding.
func (d *decoder) raw(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n > len(d.b)-d.off {
		d.fail("%d bytes are due, %d are left", n, len(d.b)-d.off)
		return nil
	}
	v := d.b[d.off : d.off+n]
	d.off += n
	return v
}

func (d *decoder) byte() byte {
	if v := d.raw(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) fixed32() uint32 {
	if v := d.raw(4); v != nil {
		return le.Uint32(v)
	}
	return 0
}

// uvarint reads a number of at most max, in its shortest form.
func (d *decoder) uvarint(max uint64) uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.b[d.off:])
	if n <= 0 || n > 1 && d.b[d.off+n-1] == 0 {
		d.fail("no number in its shortest form")
		return 0
	}
	if v > max {
		d.fail("%d is more than %d", v, max)
		return 0
	}
	d.off += n
	return v
}

// bytes reads a length of at most max and a copy of so many bytes.
func (d *decoder) bytes(max uint64) []byte {
	n := d.uvarint(max)
	return append([]byte(nil), d.raw(int(n))...)
}

// end gives the first failure, or says that bytes are left over.
func (d *decoder) end() error {
	if d.err == nil && d.off != len(d.b) {
		d.fail("%d bytes too many", len(d.b)-d.off)
	}
	return d.err
}
