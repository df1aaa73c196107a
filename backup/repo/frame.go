package repo

import "fmt"

// FrameKind says what a frame holds.
type FrameKind uint8

// The kinds of frames.
const (
	FrameRun     FrameKind = 1 // contiguous pages of one file
	FrameList    FrameKind = 2 // scattered pages of one file
	FrameBundle  FrameKind = 3 // whole small files
	FramePageMap FrameKind = 4
	FrameTables  FrameKind = 5 // a frame table
)

func (k FrameKind) String() string {
	switch k {
	case FrameRun:
		return "run"
	case FrameList:
		return "list"
	case FrameBundle:
		return "bundle"
	case FramePageMap:
		return "page map"
	case FrameTables:
		return "frame table"
	}
	return fmt.Sprintf("frame kind %d", uint8(k))
}

// Limits of format.md §4.
const (
	MaxFrame      = 512 << 10 // raw bytes of a run, list or bundle
	MaxFramePages = 64        // pages of a run or list
	maxMapFrame   = 16 << 20  // raw bytes of a page map or frame table
	maxMembers    = 4096
	maxFile       = 1 << 28
	frameHead     = 56
	frameMagic    = 'P' | 'F'<<8 | 'R'<<16 | 'M'<<24
)

// MaxFileSize is the most a file may have, in bytes: the frame table of a larger
// one might not fit into its frame. A table takes 7 bytes for a run, and the
// smallest runs that a backup should make of a large file are of 64 KiB; this
// leaves an eighth to spare.
const MaxFileSize = 120 << 30

// frameHeader is the fixed part of a frame. Its extension stays bytes.
type frameHeader struct {
	kind               FrameKind
	codec              Codec
	raw, stored        uint32
	file, first, count uint32
	tag                uint32
	digest             Digest
	sum                uint32 // of the stored payload
}

// extLen is the length of the extension.
func (h *frameHeader) extLen() int {
	switch h.kind {
	case FrameList:
		return 4 * int(h.count)
	case FrameBundle:
		return 8 * int(h.count)
	}
	return 0
}

// length is that of the whole frame.
func (h *frameHeader) length() int { return frameHead + h.extLen() + int(h.stored) }

// put writes header and checksum to b, whose extension is in place.
func (h *frameHeader) put(b []byte) {
	le.PutUint32(b, frameMagic)
	b[4], b[5], b[6], b[7] = byte(h.kind), byte(h.codec), 0, 0
	for i, v := range [...]uint32{h.raw, h.stored, h.file, h.first, h.count, h.tag} {
		le.PutUint32(b[8+4*i:], v)
	}
	copy(b[32:], h.digest[:])
	le.PutUint32(b[48:], h.sum)
	le.PutUint32(b[52:], checksum2(b[:52], b[frameHead:frameHead+h.extLen()]))
}

// parseFrame parses and checks header and extension at b's start; the payload
// need not be there. Offsets in errors count from b's start.
func parseFrame(b []byte, blockSize int) (h frameHeader, ext []byte, err error) {
	if len(b) < frameHead {
		return h, nil, damage(0, "frame header ends early")
	}
	if le.Uint32(b) != frameMagic {
		return h, nil, damage(0, "no frame begins here")
	}
	h = frameHeader{
		kind: FrameKind(b[4]), codec: Codec(b[5]),
		raw: le.Uint32(b[8:]), stored: le.Uint32(b[12:]),
		file: le.Uint32(b[16:]), first: le.Uint32(b[20:]), count: le.Uint32(b[24:]), tag: le.Uint32(b[28:]),
		digest: Digest(b[32:48]), sum: le.Uint32(b[48:]),
	}
	if err := h.checkCounts(); err != nil {
		return h, nil, err
	}
	n := frameHead + h.extLen()
	if len(b) < n {
		return h, nil, damage(frameHead, "frame extension ends early")
	}
	ext = b[frameHead:n]
	if checksum2(b[:52], ext) != le.Uint32(b[52:]) {
		return h, nil, damage(0, "checksum of the frame header is wrong")
	}
	if b[6] != 0 {
		return h, nil, unknownVersion("cipher", int(b[6]))
	}
	if err := reserved(b[7:8], 7); err != nil {
		return h, nil, err
	}
	if err := checkLengths(h.codec, int(h.raw), int(h.stored)); err != nil {
		return h, nil, err
	}
	return h, ext, h.checkContent(ext, blockSize)
}

// checkCounts bounds what later sizes memory, before the checksum is known.
func (h *frameHeader) checkCounts() error {
	limit := uint32(MaxFrame)
	switch h.kind {
	case FrameRun, FrameList:
		if h.count < 1 || h.count > MaxFramePages {
			return damage(24, "%s of %d pages", h.kind, h.count)
		}
	case FrameBundle:
		if h.count < 1 || h.count > maxMembers {
			return damage(24, "bundle of %d members", h.count)
		}
	case FramePageMap, FrameTables:
		limit = maxMapFrame
	default:
		return damage(4, "%s is not known", h.kind)
	}
	if h.raw < 1 || h.raw > limit || h.stored > h.raw {
		return damage(8, "%s of %d bytes, stored as %d", h.kind, h.raw, h.stored)
	}
	return nil
}

// checkContent compares the numbers in a header with each other.
func (h *frameHeader) checkContent(ext []byte, blockSize int) error {
	isMap := h.kind == FramePageMap || h.kind == FrameTables
	switch {
	case h.kind == FrameBundle && h.file != 0, h.kind != FrameBundle && (h.file < 1 || h.file > maxFile):
		return damage(16, "%s of file %d", h.kind, h.file)
	case h.kind != FrameRun && h.first != 0, h.kind == FrameRun && uint64(h.first)+uint64(h.count) > 1<<32-1:
		return damage(20, "%s starts at page %d", h.kind, h.first)
	case isMap && h.count != 0:
		return damage(24, "%s counts %d", h.kind, h.count)
	case h.kind <= FrameList && int(h.count) != pagesOf(int(h.raw), blockSize):
		return damage(24, "%s of %d pages has %d bytes", h.kind, h.count, h.raw)
	}
	switch h.kind {
	case FrameList:
		for i := 4; i < len(ext); i += 4 {
			if le.Uint32(ext[i:]) <= le.Uint32(ext[i-4:]) {
				return damage(frameHead+int64(i), "page numbers of a list do not ascend")
			}
		}
		if le.Uint32(ext[len(ext)-4:]) == 1<<32-1 {
			return damage(frameHead, "page number out of range")
		}
	case FrameBundle:
		sum := uint64(0)
		for i := 0; i < len(ext); i += 8 {
			file, n := le.Uint32(ext[i:]), le.Uint32(ext[i+4:])
			if file < 1 || file > maxFile || n < 1 {
				return damage(frameHead+int64(i), "bundle member: file %d of %d bytes", file, n)
			}
			sum += uint64(n)
		}
		if sum != uint64(h.raw) {
			return damage(frameHead, "bundle members add up to %d bytes, not %d", sum, h.raw)
		}
	}
	return nil
}

// open verifies the payload against its header and gives the raw bytes in buf
// or new memory.
func (h *frameHeader) open(c compressor, payload, buf []byte) ([]byte, error) {
	off := int64(frameHead + h.extLen())
	if len(payload) != int(h.stored) {
		return nil, damage(off, "frame payload ends early")
	}
	if checksum(payload) != h.sum {
		return nil, damage(off, "checksum of the frame payload is wrong")
	}
	if cap(buf) < int(h.raw) {
		buf = make([]byte, h.raw)
	}
	buf = buf[:h.raw]
	if err := expand(c, buf, payload, h.codec); err != nil {
		return nil, err
	}
	if DigestOf(buf) != h.digest {
		return nil, damage(off, "digest of the frame's content is wrong")
	}
	return buf, nil
}

func pagesOf(size, blockSize int) int { return (size + blockSize - 1) / blockSize }

func validBlockSize(n int) bool { return n >= 1024 && n <= 32768 && n&(n-1) == 0 }
