package wal

import "hash/crc32"

// castagnoli is PostgreSQL's CRC-32C (port/pg_crc32c.h): reflected, initial and
// final value all ones.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crcShift gives the contribution of a CRC to that of a longer message, n bytes
// of which follow: crc(a+b) = crcShift(crc(a), len(b)) ^ crc(b). It multiplies
// by x to the power 8n modulo the polynomial, in the reflected representation.
func crcShift(crc uint32, n uint32) uint32 {
	power := uint32(1) << 31  // x^0
	square := uint32(1) << 23 // x^8
	for ; n != 0; n >>= 1 {
		if n&1 != 0 {
			power = crcMul(power, square)
		}
		square = crcMul(square, square)
	}
	return crcMul(power, crc)
}

// crcMul multiplies two polynomials modulo the Castagnoli polynomial.
func crcMul(a, b uint32) uint32 {
	var product uint32
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		if b&1 != 0 {
			b = b>>1 ^ crc32.Castagnoli
		} else {
			b >>= 1
		}
	}
	return product
}

// piece gathers consecutive bytes of a record that is spread over pages: it
// keeps the first of them, and the CRC and the number of all.
type piece struct {
	skip uint32 // leading bytes that the CRC leaves out
	keep int    // how many bytes to keep
	kept []byte
	n    uint32
	crc  uint32
}

func (p *piece) reset(skip uint32, keep int) {
	*p = piece{skip: skip, keep: keep, kept: p.kept[:0]}
}

func (p *piece) add(b []byte) {
	if room := p.keep - len(p.kept); room > 0 {
		p.kept = append(p.kept, b[:min(room, len(b))]...)
	}
	body := b
	if p.n < p.skip {
		body = b[min(len(b), int(p.skip-p.n)):]
	}
	p.crc = crc32.Update(p.crc, castagnoli, body)
	p.n += uint32(len(b))
}
