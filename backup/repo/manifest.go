package repo

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

const (
	manifestHead  = 64
	manifestMagic = "PGTMANIF"
	blockHead     = 36
	maxBlock      = 1 << 20
	// blockTarget is the raw size at which a block of lines is closed.
	blockTarget = 256 << 10
)

type blockType uint8

const (
	blockBackup      blockType = 1
	blockGenerations blockType = 2
	blockPacks       blockType = 3
	blockFiles       blockType = 4
	blockEnd         blockType = 5
)

// The lines of blocks 2, 3 and 5.
type (
	generationLine struct {
		ID BackupID `json:"id"`
	}
	packLine struct {
		G int    `json:"g"`
		N uint32 `json:"n"`
		S int64  `json:"s"`
	}
	endLine struct {
		Files  int64  `json:"files"`
		Bytes  int64  `json:"bytes"`
		Digest Digest `json:"digest"`
	}
)

func manifestHeader(id BackupID, system pg.SystemID) []byte {
	b := make([]byte, manifestHead)
	copy(b, manifestMagic)
	le.PutUint16(b[8:], formatVersion)
	putID(b[16:], id)
	le.PutUint64(b[40:], uint64(system))
	le.PutUint32(b[60:], checksum(b[:60]))
	return b
}

// checkManifestHeader checks a header against the key it was read under.
func checkManifestHeader(b []byte, id BackupID, system pg.SystemID) error {
	if err := checkHead(b, manifestHead, manifestMagic); err != nil {
		return err
	}
	got, err := readID(b[16:40], 16)
	switch {
	case err != nil:
		return err
	case b[11] != 0:
		return unknownVersion("cipher", int(b[11]))
	case got != id:
		return damage(16, "it is the manifest of backup %s", got)
	case pg.SystemID(le.Uint64(b[40:])) != system:
		return damage(40, "it is of the cluster with system identifier %d", le.Uint64(b[40:]))
	}
	for _, r := range [][2]int{{10, 11}, {12, 16}, {48, 60}} {
		if err := reserved(b[r[0]:r[1]], int64(r[0])); err != nil {
			return err
		}
	}
	return nil
}

// appendBlock appends one block.
func appendBlock(b []byte, typ blockType, raw []byte, codec Codec, level int) ([]byte, error) {
	stored, codec, err := compressNew(raw, codec, level)
	if err != nil {
		return nil, err
	}
	n := len(b)
	b = append(b, make([]byte, blockHead)...)
	h := b[n:]
	h[0], h[1] = byte(typ), byte(codec)
	le.PutUint32(h[4:], uint32(len(raw)))
	le.PutUint32(h[8:], uint32(len(stored)))
	d := DigestOf(raw)
	copy(h[12:], d[:])
	le.PutUint32(h[28:], checksum(stored))
	le.PutUint32(h[32:], checksum(h[:32]))
	return append(b, stored...), nil
}

type blockHeader struct {
	typ         blockType
	codec       Codec
	raw, stored int
	digest      Digest
	sum         uint32
}

func parseBlockHeader(b []byte) (h blockHeader, err error) {
	if checksum(b[:32]) != le.Uint32(b[32:]) {
		return h, damage(0, "checksum of a block header is wrong")
	}
	h = blockHeader{
		typ: blockType(b[0]), codec: Codec(b[1]), raw: int(le.Uint32(b[4:])), stored: int(le.Uint32(b[8:])),
		digest: Digest(b[12:28]), sum: le.Uint32(b[28:]),
	}
	switch {
	case h.typ < blockBackup || h.typ > blockEnd:
		return h, damage(0, "block type %d", h.typ)
	case b[2] != 0:
		return h, unknownVersion("cipher", int(b[2]))
	case h.raw < 1 || h.raw > maxBlock:
		return h, damage(4, "block of %d bytes", h.raw)
	}
	if err := checkLengths(h.codec, h.raw, h.stored); err != nil {
		return h, err
	}
	return h, reserved(b[3:4], 3)
}

// blockReader reads the blocks of one manifest in order and computes the
// digest that the end block repeats.
type blockReader struct {
	r    *bufio.Reader
	off  int64 // of the next block
	last blockType
	hash *hasher
	buf  []byte
	raw  []byte
}

// peek gives the type of the next block without consuming or checking it.
func (b *blockReader) peek() (blockType, error) {
	c, err := b.r.Peek(1)
	if err != nil {
		return 0, b.short(err)
	}
	return blockType(c[0]), nil
}

// next gives the next block's type and content, which is valid until the
// following call. Types never go back.
func (b *blockReader) next() (typ blockType, raw []byte, err error) {
	var head [blockHead]byte
	if _, err := io.ReadFull(b.r, head[:]); err != nil {
		return 0, nil, b.short(err)
	}
	h, err := parseBlockHeader(head[:])
	if err != nil {
		return 0, nil, inside(err, b.off, "block")
	}
	if !mayFollow(b.last, h.typ) {
		return 0, nil, damage(b.off, "a block of type %d follows one of type %d", h.typ, b.last)
	}
	b.buf = sized(b.buf, h.stored)
	if _, err := io.ReadFull(b.r, b.buf); err != nil {
		return 0, nil, b.short(err)
	}
	if checksum(b.buf) != h.sum {
		return 0, nil, damage(b.off+blockHead, "checksum of a block is wrong")
	}
	b.raw = sized(b.raw, h.raw)
	err = withCompressor(func(c compressor) error { return expand(c, b.raw, b.buf, h.codec) })
	if err != nil {
		return 0, nil, inside(err, b.off+blockHead, "block")
	}
	if DigestOf(b.raw) != h.digest {
		return 0, nil, damage(b.off+blockHead, "digest of a block is wrong")
	}
	if h.typ != blockEnd {
		b.hash.Write(head[:])
		b.hash.Write(b.buf)
	}
	b.last = h.typ
	b.off += int64(blockHead + h.stored)
	return h.typ, b.raw, nil
}

// mayFollow is the order of blocks; last is 0 at the beginning.
func mayFollow(last, typ blockType) bool {
	switch last {
	case 0:
		return typ == blockBackup
	case blockBackup:
		return typ == blockGenerations
	case blockEnd:
		return false
	}
	return typ >= last
}

// short turns an end of file where a block must follow into damage.
func (b *blockReader) short(err error) error {
	if err = notEOF(err); err == io.ErrUnexpectedEOF || errors.Is(err, storage.ErrShort) {
		return damage(b.off, "the object ends early")
	}
	return err
}

// sized gives a slice of n bytes, b's memory if that is enough.
func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// notEOF turns an end of file where more must follow into a short object.
func notEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// lines calls f for each line, line end included.
func lines(raw []byte, f func([]byte) error) error {
	for off := int64(0); len(raw) > 0; {
		n := bytes.IndexByte(raw, '\n') + 1
		if n == 0 {
			return damage(off, "the last line has no end")
		}
		if err := f(raw[:n]); err != nil {
			return inside(err, off, "line")
		}
		raw, off = raw[n:], off+int64(n)
	}
	return nil
}

// decodeLine decodes a line of blocks 2 and 3.
func decodeLine(b []byte, v any) error { return decodeJSON(b[:len(b)-1], v) }

func comparePacks(a, b Pack) int {
	return cmp.Or(cmp.Compare(a.Backup, b.Backup), cmp.Compare(a.Number, b.Number))
}

// numbers is a set of file numbers; it takes at most 32 MiB.
type numbers []uint64

// add reports whether n is new.
func (s *numbers) add(n uint32) bool {
	i, bit := int(n/64), uint64(1)<<(n%64)
	if i >= len(*s) {
		*s = append(*s, make([]uint64, max(i+1-len(*s), len(*s)))...)
	}
	if (*s)[i]&bit != 0 {
		return false
	}
	(*s)[i] |= bit
	return true
}
