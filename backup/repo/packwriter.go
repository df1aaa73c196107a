package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Place is where a frame lies within the packs of one backup.
type Place struct {
	Pack   uint32 // number
	Offset uint64
	Length uint32 // of header, extension and payload
}

// Frame is a frame with the pages it holds: Count from First on, or those in
// Pages (ascending; First is then the first of them). Of a bundle Count is the
// number of members.
type Frame struct {
	Place
	First uint32
	Count uint32
	Pages []uint32
}

// Page gives the number of the i-th page, of Count.
func (f *Frame) Page(i int) uint32 {
	if f.Pages != nil {
		return f.Pages[i]
	}
	return f.First + uint32(i)
}

// last gives the number of the last page.
func (f *Frame) last() uint32 { return f.Page(int(f.Count) - 1) }

// PackWriter compresses frames into packs of its own, for one goroutine at a
// time. Finished packs are put in the background; a failed put is reported by
// the next call of any PackWriter, by Close and by Commit.
type PackWriter struct {
	w       *Writer
	kind    packKind
	c       compressor
	number  uint32
	tag     uint32
	frames  uint32
	buf     []byte // the pack so far; nil: none begun
	index   []byte // raw
	ext     []byte // scratch
	tuning  tuning
	scratch []byte // raw content of a bundle
	closed  bool
}

// Pack gives a writer for one goroutine. Close it before Commit.
func (w *Writer) Pack() *PackWriter {
	w.open.Add(1)
	return w.newPackWriter(packData)
}

func (w *Writer) newPackWriter(kind packKind) *PackWriter {
	return &PackWriter{w: w, kind: kind, c: newCompressor()}
}

// WriteRun stores contiguous pages of one file, from page first on: at most
// MaxFrame bytes and MaxFramePages pages, of which only the file's last may be
// short. raw is free again when it returns.
func (p *PackWriter) WriteRun(ctx context.Context, file, first uint32, raw []byte) (Frame, error) {
	h := frameHeader{kind: FrameRun, file: file, first: first, count: uint32(pagesOf(len(raw), p.w.blockSize))}
	place, err := p.write(ctx, &h, nil, raw)
	return Frame{Place: place, First: first, Count: h.count}, err
}

// WriteList stores scattered pages of one file, whose numbers ascend; raw
// holds them one after the other, within the limits of WriteRun.
func (p *PackWriter) WriteList(ctx context.Context, file uint32, pages []uint32, raw []byte) (Frame, error) {
	if len(pages) == 0 {
		return Frame{}, fmt.Errorf("write list frame of file %d: no pages", file)
	}
	p.ext = p.ext[:0]
	for _, n := range pages {
		p.ext = le.AppendUint32(p.ext, n)
	}
	h := frameHeader{kind: FrameList, file: file, count: uint32(len(pages))}
	place, err := p.write(ctx, &h, p.ext, raw)
	return Frame{Place: place, First: pages[0], Count: h.count, Pages: slices.Clone(pages)}, err
}

// WriteBundle stores whole small files, at most MaxFrame bytes together and none
// of them empty. A member's place in the slice is its number in the bundle.
func (p *PackWriter) WriteBundle(ctx context.Context, members []Member) (Frame, error) {
	p.ext, p.scratch = p.ext[:0], p.scratch[:0]
	for _, m := range members {
		p.ext = le.AppendUint32(p.ext, m.File)
		p.ext = le.AppendUint32(p.ext, uint32(len(m.Data)))
		if len(p.scratch)+len(m.Data) > MaxFrame {
			return Frame{}, fmt.Errorf("write bundle of %d files: more than %d bytes", len(members), MaxFrame)
		}
		p.scratch = append(p.scratch, m.Data...)
	}
	h := frameHeader{kind: FrameBundle, count: uint32(len(members))}
	place, err := p.write(ctx, &h, p.ext, p.scratch)
	return Frame{Place: place, Count: h.count}, err
}

// write adds a frame to the current pack; h holds what the caller knows.
func (p *PackWriter) write(ctx context.Context, h *frameHeader, ext, raw []byte) (Place, error) {
	if err := p.accept(ctx, h, ext, raw); err != nil {
		return Place{}, err
	}
	start := len(p.buf)
	head := start + frameHead + len(ext)
	p.buf = slices.Grow(p.buf, frameHead+len(ext)+p.c.bound(len(raw)))
	// out lies at the end of buf: the room was made above.
	out, codec, err := p.tuning.compress(p.c, p.buf[head:head], raw, h, p.w.repo)
	if err != nil {
		return Place{}, p.w.fail(fmt.Errorf("write %s of file %d: %w", h.kind, h.file, err))
	}
	h.codec, h.stored, h.sum = codec, uint32(len(out)), checksum(out)
	return p.add(ctx, h, ext, out, raw)
}

// accept fills in what follows from a frame's content and pack, and refuses what
// a reader would.
func (p *PackWriter) accept(ctx context.Context, h *frameHeader, ext, raw []byte) error {
	if err := p.w.usable(ctx); err != nil {
		return err
	}
	if p.closed {
		return errors.New("write frame: pack writer is closed")
	}
	if err := p.begin(); err != nil {
		return err
	}
	h.raw, h.stored, h.tag, h.digest = uint32(len(raw)), 0, p.tag, DigestOf(raw)
	if len(raw) > maxMapFrame {
		return fmt.Errorf("write %s of %d bytes: too large", h.kind, len(raw))
	}
	if err := errors.Join(h.checkCounts(), h.checkContent(ext, p.w.blockSize)); err != nil {
		return fmt.Errorf("write %s of file %d: %w", h.kind, h.file, asUsage(err))
	}
	return nil
}

// add appends a frame whose header is complete; the payload may lie where it
// belongs already.
func (p *PackWriter) add(ctx context.Context, h *frameHeader, ext, payload, raw []byte) (Place, error) {
	start := len(p.buf)
	head := start + frameHead + len(ext)
	p.buf = slices.Grow(p.buf, frameHead+len(ext)+len(payload))
	p.buf = append(p.buf[:start+frameHead], ext...)
	p.buf = append(p.buf, payload...)
	h.put(p.buf[start:])
	p.index = append(p.index, p.buf[start:head]...)
	p.index = appendHashes(p.index, h, ext, raw, p.w.blockSize)
	p.frames++
	p.w.raw.Add(int64(len(raw)))
	p.w.frames.Add(1)

	place := Place{Pack: p.number, Offset: uint64(start), Length: uint32(len(p.buf) - start)}
	if len(p.buf) >= p.w.opts.PackSize || p.frames >= maxPackFrames {
		return place, p.flush(ctx)
	}
	return place, nil
}

// asUsage strips the mark of damage: the caller's numbers are wrong, nothing
// that is stored.
func asUsage(err error) error { return errors.New(err.Error()) }

// begin starts a pack if none is open.
func (p *PackWriter) begin() error {
	if p.buf != nil {
		return nil
	}
	n := p.w.number.Add(1)
	if n == 0 {
		return p.w.fail(errors.New("pack numbers are used up"))
	}
	p.number = n
	h := packHeader(p.kind, PackRef{Backup: p.w.id, Number: n}, p.w.repo.cluster.SystemID, p.w.blockSize)
	p.tag = le.Uint32(h[60:])
	p.buf = append(p.w.buffer(), h[:]...)
	p.index, p.frames = p.index[:0], 0
	return nil
}

// flush completes the current pack and hands it to the uploads.
func (p *PackWriter) flush(ctx context.Context) error {
	if p.frames == 0 {
		return p.w.usable(ctx)
	}
	f := packFooter{indexOff: uint64(len(p.buf)), indexRaw: uint32(len(p.index)), frames: p.frames, number: p.number, tag: p.tag, digest: DigestOf(p.index)}
	off := len(p.buf)
	p.buf = slices.Grow(p.buf, p.c.bound(len(p.index))+packFoot)
	out, codec, err := compressTo(p.c, p.buf[off:off], p.index, p.w.repo.codec(), p.w.repo.opts.Level, searchLong)
	if err != nil {
		return p.w.fail(err)
	}
	p.buf = append(p.buf, out...)
	f.codec, f.indexStored, f.sum = codec, uint32(len(out)), checksum(out)
	buf := f.append(p.buf)
	p.buf, p.frames = nil, 0
	return p.w.upload(ctx, p.number, buf)
}

// Close hands over the last pack. It does not wait for it: Commit does. After
// an error the backup cannot be committed any more.
func (p *PackWriter) Close(ctx context.Context) error {
	if p.closed {
		return p.w.failure()
	}
	p.closed = true
	p.w.open.Add(-1)
	if err := p.flush(ctx); err != nil {
		return p.w.fail(err)
	}
	return nil
}
