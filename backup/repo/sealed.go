package repo

import (
	"bytes"
	"context"
	"fmt"
)

// Sealed is a frame of contiguous pages as one backup stored it, for another
// that keeps all of it: neither compresses it again.
type Sealed struct {
	First uint32 // page
	Count uint32
	Bytes int // raw

	head    frameHeader
	payload []byte
}

// Sealed gives a copy of the frame that a read's content came from, if it is a
// run of which every page is wanted. It is for the function that a fetch calls,
// which has checked the frame, and only until that returns.
func (r *Read) Sealed(blockSize int) (Sealed, bool) {
	if r.Kind != FrameRun || r.Live != 1<<r.Count-1 || len(r.stored) == 0 {
		return Sealed{}, false
	}
	h, ext, err := parseFrame(r.stored, blockSize)
	if err != nil {
		return Sealed{}, false
	}
	return Sealed{First: h.first, Count: h.count, Bytes: int(h.raw), head: h, payload: bytes.Clone(r.stored[frameHead+len(ext):])}, true
}

// WriteSealed stores a frame of another backup under a number of its file in
// this one. raw is its content, which is compared with the frame's digest.
func (p *PackWriter) WriteSealed(ctx context.Context, file uint32, s Sealed, raw []byte) (Frame, error) {
	h := s.head
	h.file = file
	if err := p.accept(ctx, &h, nil, raw); err != nil {
		return Frame{}, err
	}
	if h.digest != s.head.digest || h.raw != s.head.raw {
		return Frame{}, fmt.Errorf("write run of file %d: the content at page %d is not that of the frame", file, s.First)
	}
	h.stored = s.head.stored
	place, err := p.add(ctx, &h, nil, s.payload, raw)
	return Frame{Place: place, First: h.first, Count: h.count}, err
}
