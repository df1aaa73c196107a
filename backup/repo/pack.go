package repo

import (
	"fmt"

	"github.com/pgtender/pgtender/internal/pg"
)

const (
	formatVersion = 0
	packHead      = 64
	packFoot      = 64
	packMagic     = "PGTPACK\x00"
	packEnd       = "PGTPKEND"
	maxPack       = 1 << 30
	maxFrames     = 65536
	maxIndex      = 64 << 20
)

// PackRef names a pack by the backup that wrote it and its number there.
type PackRef struct {
	Backup BackupID
	Number uint32
}

func (p PackRef) String() string { return fmt.Sprintf("%s/%08x", p.Backup, p.Number) }

// Pack is a pack with its size in bytes.
type Pack struct {
	PackRef
	Size int64
}

type packKind uint8

const (
	packData packKind = 1
	packMaps packKind = 2
)

func (k FrameKind) packKind() packKind {
	if k == FramePageMap || k == FrameTables {
		return packMaps
	}
	return packData
}

// packHeader gives the header of a pack; its last four bytes are the tag.
func packHeader(kind packKind, ref PackRef, system pg.SystemID, blockSize int) [packHead]byte {
	var b [packHead]byte
	copy(b[:], packMagic)
	le.PutUint16(b[8:], formatVersion)
	b[10] = byte(kind)
	le.PutUint32(b[12:], ref.Number)
	putID(b[16:], ref.Backup)
	le.PutUint64(b[40:], uint64(system))
	le.PutUint32(b[48:], uint32(blockSize))
	le.PutUint32(b[60:], checksum(b[:60]))
	return b
}

// packTag is what every frame of the pack repeats.
func packTag(kind packKind, ref PackRef, system pg.SystemID, blockSize int) uint32 {
	b := packHeader(kind, ref, system, blockSize)
	return le.Uint32(b[60:])
}

type packInfo struct {
	kind      packKind
	ref       PackRef
	system    pg.SystemID
	blockSize int
	tag       uint32
}

func parsePackHeader(b []byte) (p packInfo, err error) {
	if err := checkHead(b, packHead, packMagic); err != nil {
		return p, err
	}
	p = packInfo{
		kind: packKind(b[10]), ref: PackRef{Number: le.Uint32(b[12:])},
		system: pg.SystemID(le.Uint64(b[40:])), blockSize: int(le.Uint32(b[48:])), tag: le.Uint32(b[60:]),
	}
	if p.ref.Backup, err = readID(b[16:40], 16); err != nil {
		return p, err
	}
	switch {
	case p.kind != packData && p.kind != packMaps:
		return p, damage(10, "pack kind %d", p.kind)
	case b[11] != 0:
		return p, unknownVersion("cipher", int(b[11]))
	case p.ref.Number == 0:
		return p, damage(12, "pack number 0")
	case p.system == 0:
		return p, damage(40, "system identifier 0")
	case !validBlockSize(p.blockSize):
		return p, damage(48, "block size %d", p.blockSize)
	}
	return p, reserved(b[52:60], 52)
}

// checkHead checks length, magic, version and checksum of one of the headers
// of 64 bytes that nothing else goes into.
func checkHead(b []byte, size int, magic string) error {
	if len(b) < size {
		return damage(0, "header ends early")
	}
	if string(b[:8]) != magic {
		return damage(0, "magic is %q, not %q", b[:8], magic)
	}
	if checksum(b[:size-4]) != le.Uint32(b[size-4:]) {
		return damage(0, "checksum of the header is wrong")
	}
	return checkVersion(b)
}

func checkVersion(b []byte) error {
	if v := le.Uint16(b[8:]); v != formatVersion {
		return unknownVersion("format", int(v))
	}
	return nil
}

type packFooter struct {
	indexOff              uint64
	indexStored, indexRaw uint32
	frames, number, tag   uint32
	codec                 Codec
	digest                Digest
	sum                   uint32
}

func (f *packFooter) append(b []byte) []byte {
	n := len(b)
	b = append(b, make([]byte, packFoot)...)
	p := b[n:]
	le.PutUint64(p, f.indexOff)
	le.PutUint32(p[8:], f.indexStored)
	le.PutUint32(p[12:], f.indexRaw)
	le.PutUint32(p[16:], f.frames)
	p[20] = byte(f.codec)
	copy(p[24:], f.digest[:])
	le.PutUint32(p[40:], f.sum)
	le.PutUint32(p[44:], f.number)
	copy(p[48:], packEnd)
	le.PutUint32(p[56:], f.tag)
	le.PutUint32(p[60:], checksum(p[:60]))
	return b
}

// parsePackFooter checks a footer by itself and against the pack's size.
func parsePackFooter(b []byte, size int64) (f packFooter, err error) {
	if len(b) != packFoot || string(b[48:56]) != packEnd {
		return f, damage(0, "no pack footer here")
	}
	if checksum(b[:60]) != le.Uint32(b[60:]) {
		return f, damage(0, "checksum of the footer is wrong")
	}
	f = packFooter{
		indexOff: le.Uint64(b), indexStored: le.Uint32(b[8:]), indexRaw: le.Uint32(b[12:]), frames: le.Uint32(b[16:]),
		codec: Codec(b[20]), digest: Digest(b[24:40]), sum: le.Uint32(b[40:]), number: le.Uint32(b[44:]), tag: le.Uint32(b[56:]),
	}
	if b[21] != 0 {
		return f, unknownVersion("cipher", int(b[21]))
	}
	if err := reserved(b[22:24], 22); err != nil {
		return f, err
	}
	switch {
	case f.indexRaw > maxIndex || f.frames < 1 || f.frames > maxFrames || f.indexRaw < frameHead*f.frames:
		return f, damage(12, "index of %d bytes for %d frames", f.indexRaw, f.frames)
	case f.indexOff < packHead+frameHead || f.indexOff > maxPack || int64(f.indexOff)+int64(f.indexStored)+packFoot != size:
		return f, damage(0, "index at %d with %d bytes does not end a pack of %d bytes", f.indexOff, f.indexStored, size)
	}
	return f, checkLengths(f.codec, int(f.indexRaw), int(f.indexStored))
}

// FrameInfo is one frame as a pack's index describes it.
type FrameInfo struct {
	Kind    FrameKind
	File    uint32 // in the numbering of the pack's own backup; 0 in a bundle
	First   uint32 // first page of a run
	Count   uint32 // pages of a run or list
	Pages   []uint32
	Members []Member // of a bundle; without Data
	Codec   Codec
	Raw     uint32
	Offset  uint64 // of the whole frame in the pack
	Length  uint32 // of the whole frame
	Digest  Digest
	Hashes  []uint64 // one per page, as page hashes are defined in format.md §4
}

// Member is one file of a bundle.
type Member struct {
	File   uint32
	Length uint32 // bytes; set when reading
	Data   []byte // set when writing
}

func newFrameInfo(h *frameHeader, ext []byte, off uint64) FrameInfo {
	f := FrameInfo{Kind: h.kind, File: h.file, First: h.first, Codec: h.codec, Raw: h.raw, Offset: off, Length: uint32(h.length()), Digest: h.digest}
	switch h.kind {
	case FrameRun:
		f.Count = h.count
	case FrameList:
		f.Count = h.count
		for i := 0; i < len(ext); i += 4 {
			f.Pages = append(f.Pages, le.Uint32(ext[i:]))
		}
	case FrameBundle:
		for i := 0; i < len(ext); i += 8 {
			f.Members = append(f.Members, Member{File: le.Uint32(ext[i:]), Length: le.Uint32(ext[i+4:])})
		}
	}
	return f
}

// hashCount is how many page hashes the index keeps for a frame.
func (h *frameHeader) hashCount(ext []byte, blockSize int) int {
	switch h.kind {
	case FrameRun, FrameList:
		return int(h.count)
	case FrameBundle:
		n := 0
		for i := 4; i < len(ext); i += 8 {
			n += pagesOf(int(le.Uint32(ext[i:])), blockSize)
		}
		return n
	}
	return 0
}

// appendHashes appends the page hashes of a frame's raw payload.
func appendHashes(b []byte, h *frameHeader, ext, raw []byte, blockSize int) []byte {
	switch h.kind {
	case FrameRun, FrameList:
		b = appendPageHashes(b, raw, blockSize)
	case FrameBundle:
		for i := 4; i < len(ext); i += 8 {
			n := le.Uint32(ext[i:])
			b = appendPageHashes(b, raw[:n], blockSize)
			raw = raw[n:]
		}
	}
	return b
}

func appendPageHashes(b, raw []byte, blockSize int) []byte {
	for len(raw) > 0 {
		n := min(blockSize, len(raw))
		b = le.AppendUint64(b, pageHash(raw[:n]))
		raw = raw[n:]
	}
	return b
}

// parseIndex decodes a raw index and checks that its frames fill the pack from
// the header to the index.
func parseIndex(b []byte, p packInfo, f packFooter) ([]FrameInfo, error) {
	out := make([]FrameInfo, 0, min(f.frames, uint32(len(b)/frameHead)))
	off, at := uint64(packHead), int64(0)
	for range f.frames {
		h, ext, err := parseFrame(b, p.blockSize)
		if err != nil {
			return nil, inside(err, at, "index entry %d", len(out))
		}
		if h.tag != p.tag || h.kind.packKind() != p.kind {
			return nil, damage(at, "index entry %d: %s of another pack", len(out), h.kind)
		}
		info := newFrameInfo(&h, ext, off)
		n, hashes := frameHead+len(ext), h.hashCount(ext, p.blockSize)
		if len(b) < n+8*hashes {
			return nil, damage(at, "index ends early")
		}
		for i := range hashes {
			info.Hashes = append(info.Hashes, le.Uint64(b[n+8*i:]))
		}
		out = append(out, info)
		off += uint64(info.Length)
		b, at = b[n+8*hashes:], at+int64(n+8*hashes)
	}
	if len(b) != 0 || off != f.indexOff {
		return nil, damage(at, "index does not match the frames: %d bytes left, frames end at %d, index begins at %d", len(b), off, f.indexOff)
	}
	return out, nil
}
