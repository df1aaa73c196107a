package repo

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/pgtender/pgtender/internal/pg"
)

// PackIndex is what a pack's index says.
type PackIndex struct {
	Maps      bool // page maps and frame tables, else data
	BlockSize int  // bytes
	Frames    []FrameInfo
}

// packTail is read from a pack's end at once: footer and most indexes.
const packTail = 256 << 10

// ReadPackIndex reads and verifies a pack's header, footer and index, in two
// requests or three.
func (r *Repo) ReadPackIndex(ctx context.Context, p Pack) (PackIndex, error) {
	t, err := r.readTail(ctx, p)
	if err != nil {
		return PackIndex{}, err
	}
	return PackIndex{Maps: t.info.kind == packMaps, BlockSize: t.info.blockSize, Frames: t.frames}, nil
}

// packEnds is everything of a pack but its frames.
type packEnds struct {
	info   packInfo
	footer packFooter
	index  []byte // raw
	frames []FrameInfo
}

func (r *Repo) readTail(ctx context.Context, p Pack) (t packEnds, err error) {
	key := r.packKey(p.PackRef)
	if p.Size < packHead+frameHead+packFoot || p.Size > maxPack {
		return t, &CorruptError{Key: key, Offset: -1, What: fmt.Sprintf("a pack cannot have %d bytes", p.Size)}
	}
	head, err := r.readRange(ctx, key, 0, packHead)
	if err != nil {
		return t, err
	}
	if t.info, err = checkPackHeader(head, p.PackRef, r.cluster.SystemID); err != nil {
		return t, at(err, key, 0)
	}
	tail, err := r.readRange(ctx, key, max(0, p.Size-packTail), min(p.Size, packTail))
	if err != nil {
		return t, err
	}
	foot := tail[len(tail)-packFoot:]
	if t.footer, err = parsePackFooter(foot, p.Size); err != nil {
		return t, at(err, key, p.Size-packFoot)
	}
	if t.footer.number != p.Number || t.footer.tag != t.info.tag {
		return t, &CorruptError{Key: key, Offset: p.Size - packFoot, What: "the footer is of another pack"}
	}
	n := int(t.footer.indexStored)
	stored := tail[:len(tail)-packFoot]
	if n <= len(stored) {
		stored = stored[len(stored)-n:]
	} else if stored, err = r.readRange(ctx, key, int64(t.footer.indexOff), int64(n)); err != nil {
		return t, err
	}
	t.index, t.frames, err = openIndex(stored, t.info, t.footer)
	return t, at(err, key, int64(t.footer.indexOff))
}

func checkPackHeader(b []byte, ref PackRef, system pg.SystemID) (packInfo, error) {
	info, err := parsePackHeader(b)
	if err == nil && (info.ref != ref || info.system != system) {
		err = damage(12, "it is pack %s of system %s", info.ref, info.system)
	}
	return info, err
}

// openIndex verifies and decodes a stored index.
func openIndex(stored []byte, info packInfo, f packFooter) ([]byte, []FrameInfo, error) {
	if checksum(stored) != f.sum {
		return nil, nil, damage(0, "checksum of the index is wrong")
	}
	raw := make([]byte, f.indexRaw)
	if err := withCompressor(func(c compressor) error { return expand(c, raw, stored, f.codec) }); err != nil {
		return nil, nil, err
	}
	if DigestOf(raw) != f.digest {
		return nil, nil, damage(0, "digest of the index is wrong")
	}
	frames, err := parseIndex(raw, info, f)
	return raw, frames, err
}

// VerifyPack reads a whole pack and checks every byte of it: header, each
// frame's checksums and digest, the index with its page hashes, footer, size.
// f, if not nil, gets each frame with its raw content, valid until it returns.
func (r *Repo) VerifyPack(ctx context.Context, p Pack, f func(FrameInfo, []byte) error) (err error) {
	t, err := r.readTail(ctx, p)
	if err != nil {
		return err
	}
	key := r.packKey(p.PackRef)
	src, err := r.store.Get(ctx, key, 0, -1)
	if err != nil {
		return at(err, key, 0)
	}
	defer func() {
		if closeErr := src.Close(); err == nil {
			err = at(closeErr, key, 0)
		}
	}()
	in := bufio.NewReaderSize(src, 64<<10)
	if _, err := in.Discard(packHead); err != nil {
		return at(notEOF(err), key, 0)
	}
	v := packVerifier{r: in, t: &t, c: compressors.Get().(compressor)}
	defer compressors.Put(v.c)
	for i := range t.frames {
		off := int64(t.frames[i].Offset)
		raw, err := v.frame(&t.frames[i])
		if err != nil {
			return at(err, key, off)
		}
		if f != nil {
			if err := f(t.frames[i], raw); err != nil {
				return err
			}
		}
	}
	rest, err := io.Copy(io.Discard, in)
	if err != nil {
		return at(err, key, int64(t.footer.indexOff))
	}
	if want := p.Size - int64(t.footer.indexOff); rest != want {
		return &CorruptError{Key: key, Offset: p.Size, What: fmt.Sprintf("%d bytes behind the frames, not %d", rest, want)}
	}
	return nil
}

type packVerifier struct {
	r         io.Reader
	t         *packEnds
	c         compressor
	at        int // in the raw index
	buf, raw  []byte
	indexPart []byte
}

// frame reads the next frame and compares it with its part of the index.
func (v *packVerifier) frame(info *FrameInfo) ([]byte, error) {
	v.buf = sized(v.buf, int(info.Length))
	if _, err := io.ReadFull(v.r, v.buf); err != nil {
		return nil, notEOF(err)
	}
	h, ext, err := parseFrame(v.buf, v.t.info.blockSize)
	if err != nil {
		return nil, err
	}
	if h.length() != len(v.buf) {
		return nil, damage(12, "frame of %d bytes, not %d as the index says", h.length(), len(v.buf))
	}
	n := frameHead + len(ext)
	if v.raw, err = h.open(v.c, v.buf[n:], v.raw); err != nil {
		return nil, err
	}
	v.indexPart = append(v.indexPart[:0], v.buf[:n]...)
	v.indexPart = appendHashes(v.indexPart, &h, ext, v.raw, v.t.info.blockSize)
	if !bytes.HasPrefix(v.t.index[v.at:], v.indexPart) {
		return nil, damage(0, "the index describes another frame, or other pages")
	}
	v.at += len(v.indexPart)
	return v.raw, nil
}
