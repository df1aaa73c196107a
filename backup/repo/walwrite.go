package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/pgtender/pgtender/backup/storage"
)

// WALData is an encoded WAL object, ready to be put any number of times until it
// is closed.
type WALData struct {
	WALMeta // complete
	object  *joined

	mu     sync.RWMutex
	chunks *spool
	memory *walMemory // lent; nil: closed
}

// Size gives the size of the object in bytes.
func (d *WALData) Size() int64 { return d.object.size() }

// ReadAt implements io.ReaderAt. After Close it fails: an HTTP client may go on
// reading what it was to send for a moment after the request was given up.
func (d *WALData) ReadAt(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.memory == nil {
		return 0, fs.ErrClosed
	}
	return d.object.ReadAt(p, off)
}

// Close gives back the memory, or the temporary file of a large segment. It waits
// for a ReadAt under way.
func (d *WALData) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.memory == nil {
		return nil
	}
	d.memory.give(d.chunks)
	d.memory = nil
	return d.chunks.Close()
}

// EncodeWAL encodes one segment, see [WALIntake.Encode]. segment holds at least the
// bytes up to h.End. Memory is that of [Repo.TakeWAL].
func (r *Repo) EncodeWAL(h WALHeader, blockMap, carry []byte, segment io.ReaderAt) (*WALData, error) {
	if err := r.checkWAL(&h, blockMap, carry); err != nil {
		return nil, err
	}
	in := r.TakeWAL(segment, h.contentLength())
	d, err := in.encode(h, blockMap, carry)
	return d, errors.Join(err, in.Close())
}

// checkWAL judges what is said about a segment, and says whether it has a map.
func (r *Repo) checkWAL(h *WALHeader, blockMap, carry []byte) error {
	h.Flags &^= WALBlockMap
	if len(blockMap) > 0 {
		h.Flags |= WALBlockMap
	}
	if err := h.validate(); err != nil {
		return fmt.Errorf("encode WAL segment: %w", asUsage(err))
	}
	if h.SystemID != r.cluster.SystemID {
		return fmt.Errorf("encode WAL segment %s: system identifier is %s, not %s", h.Name(), h.SystemID, r.cluster.SystemID)
	}
	if max(len(blockMap), len(carry)) > maxWALSection {
		return fmt.Errorf("encode WAL segment %s: block map of %d bytes, carry of %d", h.Name(), len(blockMap), len(carry))
	}
	return nil
}

// Encode encodes the segment, up to h.End, when it has been judged. h is filled in by
// the caller up to LastRecord; blockMap and carry may be empty. Where the content ends
// before what was judged last, as it does where the end of a timeline was looked for,
// the segment is read once more. Of a WALIntake nothing but Close is of use after it.
func (in *WALIntake) Encode(h WALHeader, blockMap, carry []byte) (*WALData, error) {
	if err := in.repo.checkWAL(&h, blockMap, carry); err != nil {
		return nil, err
	}
	return in.encode(h, blockMap, carry)
}

// encode is Encode of what was checked.
func (in *WALIntake) encode(h WALHeader, blockMap, carry []byte) (*WALData, error) {
	r := in.repo
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
	ok, err := in.finish(h.contentLength())
	if err != nil {
		return nil, fmt.Errorf("encode WAL segment %s: %w", h.Name(), err)
	}
	if !ok {
		if err := in.Close(); err != nil {
			return nil, err
		}
		return r.EncodeWAL(h, blockMap, carry, in.segment)
	}
	h.Digest = in.digest.digest()
	chunks, table := in.encoder.out, in.encoder.table
	s.chunks, s.tableSum, s.chunksSize = uint32(len(table)/chunkEntry), checksum(table), uint64(chunks.size)
	s.pageSize = in.encoder.pageSize
	head = append(head, table...)
	copy(head, h.encode())
	return &WALData{
		WALMeta: WALMeta{Header: h, BlockMap: blockMap, Carry: carry}, object: join(section{bytes.NewReader(head), int64(len(head))}, section{chunks, chunks.size}),
		chunks: chunks, memory: in.giveOn(),
	}, nil
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
