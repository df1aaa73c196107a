package pg

import "encoding/binary"

const (
	sumLanes = 32       // N_SUMS
	fnvPrime = 16777619 // FNV_PRIME
	sumRow   = sumLanes * 4
)

// sumBases are checksumBaseOffsets of checksum_impl.h: where the lanes start.
var sumBases = [sumLanes]uint32{
	0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A,
	0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
	0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA,
	0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
	0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE,
	0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
	0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E,
	0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
}

// pageSumsGo puts the sum of each page of buf into out: pg_checksum_block, with
// the stored checksum taken as 0. buf holds len(out) pages.
//
// The lanes are walked eight at a time down the whole page: that many stay in
// registers, and a page stays in the nearest cache while it is walked again.
func pageSumsGo(out []uint32, buf []byte, pageSize int) {
	for i := range out {
		page := buf[i*pageSize : (i+1)*pageSize]
		sum := uint32(0)
		for lane := 0; lane < sumLanes; lane += 8 {
			sum ^= sumEightLanes(page, lane)
		}
		out[i] = sum
	}
}

func sumEightLanes(page []byte, lane int) uint32 {
	base := sumBases[lane : lane+8]
	a, b, c, d := base[0], base[1], base[2], base[3]
	e, f, g, h := base[4], base[5], base[6], base[7]
	for at := lane * 4; at+32 <= len(page); at += sumRow {
		w := page[at : at+32 : at+32]
		third := binary.LittleEndian.Uint32(w[8:])
		if at == 0 {
			third &^= 0xffff // the stored checksum
		}
		a = mix(a ^ binary.LittleEndian.Uint32(w[0:]))
		b = mix(b ^ binary.LittleEndian.Uint32(w[4:]))
		c = mix(c ^ third)
		d = mix(d ^ binary.LittleEndian.Uint32(w[12:]))
		e = mix(e ^ binary.LittleEndian.Uint32(w[16:]))
		f = mix(f ^ binary.LittleEndian.Uint32(w[20:]))
		g = mix(g ^ binary.LittleEndian.Uint32(w[24:]))
		h = mix(h ^ binary.LittleEndian.Uint32(w[28:]))
	}
	sum := uint32(0)
	// Two rounds of zeros let the last words reach every bit.
	for _, s := range [...]uint32{a, b, c, d, e, f, g, h} {
		sum ^= mix(mix(s))
	}
	return sum
}

// mix is one step of CHECKSUM_COMP.
func mix(x uint32) uint32 { return x*fnvPrime ^ x>>17 }
