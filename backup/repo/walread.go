package repo

import (
	"bufio"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// WALMeta is all of a WAL object but the WAL.
type WALMeta struct {
	Header   WALHeader
	BlockMap []byte // nil if there is none
	Carry    []byte
}

// ReadWALHeader reads and verifies the header of one WAL object by one small
// request: proof that the segment was archived, and of its identity. The WAL
// itself is not read; that the object is as long as the header says is checked
// where the store tells its size along with the header, as all known ones do.
func (r *Repo) ReadWALHeader(ctx context.Context, key string) (WALHeader, error) {
	b, size, err := storage.ReadPart(ctx, r.store, key, 0, walHead)
	if err != nil {
		return WALHeader{}, at(err, key, 0)
	}
	h, err := r.openWALHeader(key, b)
	if err == nil && size >= 0 && size != h.size() {
		err = damage(0, "the object has %d bytes, its header says %d", size, h.size())
	}
	return h, at(err, key, 0)
}

// openWALHeader parses a header and compares it with the key.
func (r *Repo) openWALHeader(key string, b []byte) (WALHeader, error) {
	h, err := parseWALHeader(b)
	if err != nil {
		return h, err
	}
	k, err := ParseKey(key)
	if err != nil {
		return h, err
	}
	return h, checkWALKey(&h, k)
}

// checkWALKey reports damage if a segment does not belong under a key.
func checkWALKey(h *WALHeader, k Key) error {
	name := h.Name()
	switch {
	case k.Kind != KeyWAL && k.Kind != KeyQuarantine:
		return damage(0, "it is a WAL segment")
	case h.SystemID != k.Cluster.SystemID:
		return damage(16, "it is of the cluster with system identifier %s", h.SystemID)
	case h.Incarnation != k.Incarnation:
		return damage(24, "it is of timeline incarnation %s", h.Incarnation)
	case name != k.WAL || k.Kind == KeyWAL && walGroup(h.Segment) != k.Group:
		return damage(32, "it is segment %s (number %d)", name, h.Segment)
	case !k.Conflict.IsZero() && h.Digest != k.Conflict:
		return damage(88, "its digest is %s", h.Digest)
	}
	return nil
}

// walMetaGuess is read first: header, block map and carry of most segments.
const walMetaGuess = 64 << 10

// ReadWALMeta reads and verifies header, block map and carry. size is that of
// the object if a listing told it, which makes it one request in most cases and
// shows an object that was cut, else 0.
func (r *Repo) ReadWALMeta(ctx context.Context, key string, size int64) (WALMeta, error) {
	b, err := r.readRange(ctx, key, 0, min(max(size, walHead), walMetaGuess))
	if err != nil {
		return WALMeta{}, err
	}
	h, err := r.openWALHeader(key, b)
	if err != nil {
		return WALMeta{}, at(err, key, 0)
	}
	if size > 0 && size != h.size() {
		return WALMeta{}, at(damage(0, "the object has %d bytes, not %d", size, h.size()), key, 0)
	}
	if have, need := int64(len(b)), h.tableOffset(); have < need {
		rest, err := r.readRange(ctx, key, have, need-have)
		if err != nil {
			return WALMeta{}, err
		}
		b = append(b, rest...)
	}
	m, s := WALMeta{Header: h}, &h.sections
	split := walHead + int(s.blockMap.stored)
	if m.BlockMap, err = s.blockMap.open(b[walHead:split], s.codec); err != nil {
		return WALMeta{}, at(err, key, walHead)
	}
	if m.Carry, err = s.carry.open(b[split:split+int(s.carry.stored)], s.codec); err != nil {
		return WALMeta{}, at(err, key, int64(split))
	}
	return m, nil
}

// open verifies and decodes a section.
func (s *walSection) open(stored []byte, codec Codec) ([]byte, error) {
	if checksum(stored) != s.sum {
		return nil, damage(0, "checksum of the section is wrong")
	}
	var raw []byte
	if s.raw > 0 {
		raw = make([]byte, s.raw)
		if err := withCompressor(func(c compressor) error { return expandPart(c, raw, stored, codec) }); err != nil {
			return nil, err
		}
	}
	if DigestOf(raw) != s.digest {
		return nil, damage(0, "digest of the section is wrong")
	}
	return raw, nil
}

// expandPart is expand for the parts of a WAL object: one that did not shrink
// is not compressed.
func expandPart(c compressor, raw, stored []byte, codec Codec) error {
	if len(stored) == len(raw) {
		codec = CodecNone
	}
	return expand(c, raw, stored, codec)
}

// ReadWAL reads a whole segment and writes it to w, with zeros behind its
// semantic end up to the segment size. What w has got counts only if the error
// is nil: the digest of the whole is verified last, so the caller writes to a
// temporary file and renames it. Memory: 3 MiB, or three times the chunk size,
// which a later call uses again.
//
// Decoding runs at more than 1 GB/s (BenchmarkReadWAL), so that it is not spread over
// processors.
func (r *Repo) ReadWAL(ctx context.Context, key string, w io.Writer) (h WALHeader, err error) {
	src, err := r.store.Get(ctx, key, 0, -1)
	if err != nil {
		return h, at(err, key, 0)
	}
	defer func() {
		if closeErr := src.Close(); err == nil {
			err = at(closeErr, key, 0)
		}
	}()
	x := walReaders.Get().(*walReader)
	defer x.release()
	x.in.Reset(src)
	head := make([]byte, walHead)
	if _, err := io.ReadFull(x.in, head); err != nil {
		return h, at(notEOF(err), key, 0)
	}
	if h, err = r.openWALHeader(key, head); err != nil {
		return h, at(err, key, 0)
	}
	if err := h.readSections(x.in); err != nil {
		return h, at(err, key, 0)
	}
	return h, r.readChunks(key, &h, x, w)
}

// walPart is how much of a segment is written at once. It stays in a processor's own
// cache from the digest to the file. And in parts of a mebibyte a file was seen to take
// three times as long, on a virtual machine that gives free memory back to its host:
// most likely since the kernel takes as many pages that lie together for such a write,
// which nobody used of late.
const walPart = 256 << 10

// readSections passes over block map and carry, checking what is stored.
func (h *WALHeader) readSections(in io.Reader) error {
	off := int64(walHead)
	for _, x := range []*walSection{&h.sections.blockMap, &h.sections.carry} {
		sum := crc32.New(castagnoli)
		if _, err := io.CopyN(sum, in, int64(x.stored)); err != nil {
			return inside(short(err), off, "section")
		}
		if sum.Sum32() != x.sum {
			return damage(off, "checksum of the section is wrong")
		}
		off += int64(x.stored)
	}
	return nil
}

// short makes an early end damage.
func short(err error) error {
	if notEOF(err) == io.ErrUnexpectedEOF {
		return damage(0, "the object ends early")
	}
	return err
}

func (r *Repo) readChunks(key string, h *WALHeader, x *walReader, w io.Writer) error {
	s := &h.sections
	table := make([]byte, chunkEntry*s.chunks)
	if _, err := io.ReadFull(x.in, table); err != nil {
		return at(short(err), key, h.tableOffset())
	}
	if checksum(table) != s.tableSum {
		return at(damage(0, "checksum of the chunk table is wrong"), key, h.tableOffset())
	}
	off, left := h.chunksOffset(), h.contentLength()
	digest := newHasher()
	for len(table) > 0 {
		raw, n, err := x.next(s, table, int(min(left, int64(s.chunkLength))))
		if err != nil {
			return at(err, key, off)
		}
		for part := range slices.Chunk(raw, walPart) {
			digest.Write(part)
			if _, err := w.Write(part); err != nil {
				return fmt.Errorf("write segment %s: %w", h.Name(), err)
			}
		}
		left -= int64(len(raw))
		off += n
		table = table[chunkEntry:]
	}
	if off != h.size() {
		return at(damage(128, "chunks have %d bytes, not %d", off-h.chunksOffset(), s.chunksSize), key, 0)
	}
	if digest.digest() != h.Digest {
		return at(damage(88, "digest of the segment is wrong"), key, 0)
	}
	switch _, err := x.in.Peek(1); {
	case err == nil:
		return at(damage(off, "something follows the last chunk"), key, 0)
	case err != io.EOF:
		return at(err, key, off)
	}
	return writeZeros(w, int64(h.SegmentSize)-h.contentLength())
}

// walReader reads WAL objects, one after the other, into memory that it uses again:
// memory anew for each was a tenth of a prefetch's processor time, since the heap is
// small and each segment brought the collector in.
type walReader struct {
	in         *bufio.Reader
	compressor compressor

	stored, condensed, raw []byte // of a chunk
}

var walReaders = sync.Pool{New: func() any {
	return &walReader{in: bufio.NewReaderSize(nil, 64<<10), compressor: newCompressor()}
}}

func (x *walReader) release() {
	x.in.Reset(nil)
	walReaders.Put(x)
}

// next gives the next chunk, of so many raw bytes, which the entry of the chunk table
// is about, and how many bytes it has in the object. It is good until the next call.
func (x *walReader) next(s *walSections, entry []byte, length int) (raw []byte, n int64, err error) {
	stored, content, sum := le.Uint32(entry), le.Uint32(entry[4:]), le.Uint32(entry[8:])
	condensed := int(content) < length
	if stored < 1 || stored > content || int(content) > length || condensed && s.pageSize == 0 {
		return nil, 0, damage(0, "chunk of %d bytes, condensed to %d, stored as %d", length, content, stored)
	}
	x.stored = sized(x.stored, int(stored))
	if _, err := io.ReadFull(x.in, x.stored); err != nil {
		return nil, 0, short(err)
	}
	if checksum(x.stored) != sum {
		return nil, 0, damage(0, "checksum of the chunk is wrong")
	}
	x.raw = sized(x.raw, length)
	if !condensed {
		return x.raw, int64(stored), expandPart(x.compressor, x.raw, x.stored, s.codec)
	}
	x.condensed = sized(x.condensed, int(content))
	if err := expandPart(x.compressor, x.condensed, x.stored, s.codec); err != nil {
		return nil, 0, err
	}
	if err := wal.Expand(x.raw, x.condensed, int(s.pageSize)); err != nil {
		return nil, 0, damage(0, "chunk: %v", err)
	}
	return x.raw, int64(stored), nil
}

func writeZeros(w io.Writer, n int64) error {
	zeros := make([]byte, min(n, 64<<10))
	for n > 0 {
		m, err := w.Write(zeros[:min(n, int64(len(zeros)))])
		if err != nil {
			return fmt.Errorf("write zeros behind the semantic end: %w", err)
		}
		n -= int64(m)
	}
	return nil
}
