package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/pgtender/pgtender/backup/storage"
)

// WALData is an encoded WAL object, ready to be put any number of times.
type WALData struct {
	Header WALHeader // complete
	object *joined
	chunks *spool
}

// Size gives the size of the object in bytes.
func (d *WALData) Size() int64 { return d.object.size() }

// ReadAt implements io.ReaderAt.
func (d *WALData) ReadAt(p []byte, off int64) (int, error) { return d.object.ReadAt(p, off) }

// Close gives back the memory, or the temporary file of a large segment.
func (d *WALData) Close() error { return d.chunks.Close() }

// walMemory is how much of an encoded segment is kept in memory; what is
// larger goes to an unlinked temporary file.
const walMemory = 64 << 20

// EncodeWAL encodes one segment. h is filled in by the caller up to LastRecord;
// segment holds at least the bytes up to h.End. blockMap and carry may be empty.
// Chunks are compressed on up to four processors; memory is the compressed
// segment, at most 64 MiB of it, and 2 MiB per processor.
func (r *Repo) EncodeWAL(h WALHeader, blockMap, carry []byte, segment io.ReaderAt) (_ *WALData, err error) {
	h.Flags &^= WALBlockMap
	if len(blockMap) > 0 {
		h.Flags |= WALBlockMap
	}
	if err := h.validate(); err != nil {
		return nil, fmt.Errorf("encode WAL segment: %w", asUsage(err))
	}
	if h.SystemID != r.cluster.SystemID {
		return nil, fmt.Errorf("encode WAL segment %s: system identifier is %s, not %s", h.Name(), h.SystemID, r.cluster.SystemID)
	}
	if max(len(blockMap), len(carry)) > maxWALSection {
		return nil, fmt.Errorf("encode WAL segment %s: block map of %d bytes, carry of %d", h.Name(), len(blockMap), len(carry))
	}
	s := &h.sections
	*s = walSections{codec: r.codec(), chunkLength: walChunk}
	head := make([]byte, walHead)
	for _, x := range []struct {
		to  *walSection
		raw []byte
	}{{&s.blockMap, blockMap}, {&s.carry, carry}} {
		stored, _, err := compressNew(x.raw, s.codec, r.opts.Level)
		if err != nil {
			return nil, err
		}
		*x.to = walSection{raw: uint32(len(x.raw)), stored: uint32(len(stored)), sum: checksum(stored), digest: DigestOf(x.raw)}
		head = append(head, stored...)
	}
	// Room for a segment that does not shrink, once: a buffer that grows is
	// copied again and again, and memory never written to costs nothing.
	room := make([]byte, 0, min(walMemory, h.contentLength()))
	d := &WALData{chunks: &spool{dir: r.opts.TempDir, limit: walMemory, mem: room}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	table, err := r.encodeChunks(&h, d.chunks, segment)
	if err != nil {
		return nil, fmt.Errorf("encode WAL segment %s: %w", h.Name(), err)
	}
	s.chunks, s.tableSum, s.chunksSize = uint32(len(table)/8), checksum(table), uint64(d.chunks.size)
	head = append(head, table...)
	copy(head, h.encode())
	d.Header = h
	d.object = join(section{bytes.NewReader(head), int64(len(head))}, section{d.chunks, d.chunks.size})
	return d, nil
}

// encodeChunks compresses the segment into out, several chunks at a time, and
// sets h's digest.
func (r *Repo) encodeChunks(h *WALHeader, out io.Writer, segment io.ReaderAt) (table []byte, err error) {
	type chunk struct {
		raw, stored []byte
		err         error
	}
	batch := make([]chunk, min(4, runtime.GOMAXPROCS(0)))
	for i := range batch {
		batch[i].raw = make([]byte, walChunk)
	}
	digest := newHasher()
	length := h.contentLength()
	for off := int64(0); off < length; {
		n := 0
		for ; n < len(batch) && off < length; n++ {
			c := &batch[n]
			c.raw = c.raw[:min(walChunk, length-off)]
			if got, err := segment.ReadAt(c.raw, off); got < len(c.raw) {
				return nil, fmt.Errorf("read segment at %d: %w", off, storage.NotAbsence(notEOF(err)))
			}
			digest.Write(c.raw)
			off += int64(len(c.raw))
		}
		each(n, n, func(i int) {
			c := &batch[i]
			c.err = withCompressor(func(z compressor) (err error) {
				c.stored = sized(c.stored, z.bound(len(c.raw)))
				c.stored, _, err = compressTo(z, c.stored[:0], c.raw, r.codec(), r.opts.Level, false)
				return err
			})
		})
		for i := range n {
			c := &batch[i]
			if c.err != nil {
				return nil, c.err
			}
			if _, err := out.Write(c.stored); err != nil {
				return nil, err
			}
			table = le.AppendUint32(table, uint32(len(c.stored)))
			table = le.AppendUint32(table, checksum(c.stored))
		}
	}
	h.Digest = digest.digest()
	return table, nil
}

// WALConflictError means that a segment's key is taken by another segment. It
// matches [ErrConflict].
type WALConflictError struct {
	Key      string
	Existing WALHeader
}

func (e *WALConflictError) Error() string {
	return fmt.Sprintf("%s is taken by another segment (digest %s, ends at %s)", e.Key, e.Existing.Digest, e.Existing.End)
}

// Is reports true for ErrConflict.
func (e *WALConflictError) Is(target error) bool { return target == ErrConflict }

// PutWAL stores an encoded segment under one of its keys (WALKey,
// WALConflictKey, WALQuarantineKey) unless that is taken. A key taken by an
// equal segment is success, by another a [WALConflictError].
func (r *Repo) PutWAL(ctx context.Context, key string, d *WALData) error {
	_, err := r.CreateWAL(ctx, key, d)
	return err
}

// CreateWAL is PutWAL that also reports whether it created the object, in
// which case nothing was read. False with no error: an equal segment is there,
// which may be this one, put by an attempt whose answer was lost.
func (r *Repo) CreateWAL(ctx context.Context, key string, d *WALData) (created bool, err error) {
	k, err := ParseKey(key)
	if err == nil {
		err = checkWALKey(&d.Header, k)
	}
	if err != nil {
		return false, fmt.Errorf("put %s: %w", key, asUsage(err))
	}
	err = r.store.Put(ctx, key, d, d.Size(), storage.PutOptions{IfAbsent: true})
	if !errors.Is(err, storage.ErrExists) {
		return err == nil, wrapPut(key, err)
	}
	existing, err := r.ReadWALHeader(ctx, key)
	if err != nil {
		return false, fmt.Errorf("compare with what is stored: %w", err)
	}
	if !existing.Equal(&d.Header) {
		return false, &WALConflictError{Key: key, Existing: existing}
	}
	return false, nil
}
