package repo

import (
	"encoding/hex"
	"fmt"
	"hash/crc32"

	"github.com/zeebo/xxh3"
)

// Digest is the XXH3-128 of raw bytes in canonical order. It finds accidents;
// it is no defence against a forger.
type Digest [16]byte

// DigestOf computes the digest of b.
func DigestOf(b []byte) Digest { return xxh3.Hash128(b).Bytes() }

// ParseDigest parses 32 lower-case hexadecimal digits.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) || !isLowerHex(s) {
		return d, fmt.Errorf("parse digest %q: want 32 lower-case hexadecimal digits", s)
	}
	hex.Decode(d[:], []byte(s)) // cannot fail: checked above
	return d, nil
}

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether the digest is unset. No content is known that has it.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(b []byte) error {
	v, err := ParseDigest(string(b))
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// hasher computes a Digest of a stream. The zero value is not ready; copying
// one copies the state.
type hasher struct{ h xxh3.Hasher128 }

func newHasher() *hasher { return &hasher{h: *xxh3.New128()} }

func (h *hasher) Write(b []byte) (int, error) { return h.h.Write(b) }

func (h *hasher) clone() *hasher { c := *h; return &c }

func (h *hasher) digest() (d Digest) {
	h.h.Sum(d[:0])
	return d
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func checksum2(a, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(a, castagnoli), castagnoli, b)
}

// pageHash is the XXH3-64 kept in a pack's index for each page.
func pageHash(page []byte) uint64 { return xxh3.Hash(page) }
