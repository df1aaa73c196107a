package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

const (
	chunkHead  = 128
	chunkMagic = "PGTCHNK\x00"

	// MaxChunk is the most raw bytes that a stream chunk holds.
	MaxChunk = 16 << 20
)

// Chunk describes a part of a segment that is not complete yet, stored while
// it was streamed. Chunks of one segment may overlap: several small ones are
// replaced by a larger one. What they hold together is proved by Prefix.
type Chunk struct {
	SystemID    pg.SystemID
	Incarnation Incarnation
	Segment     pg.SegmentNumber
	SegmentSize pg.SegmentSize
	Offset      uint32 // of the first byte in the segment
	Length      uint32 // raw bytes
	Digest      Digest // of the raw bytes
	// Prefix is the digest of the segment's bytes from its start to the
	// chunk's end. So two chunks that follow one another were written from one
	// and the same WAL, or it shows.
	Prefix Digest

	codec       Codec
	stored, sum uint32
}

func (c *Chunk) name() WALName {
	return WALName{Segment: pg.Segment{Timeline: c.Incarnation.Timeline, Number: c.Segment}.Name(c.SegmentSize)}
}

// Key gives the chunk's key, but for the cluster.
func (c *Chunk) Key() Key {
	return Key{Kind: KeyStream, Incarnation: c.Incarnation, Group: walGroup(c.Segment), WAL: c.name(), Offset: c.Offset, Length: c.Length}
}

// ChunkKey gives the key of a chunk.
func (r *Repo) ChunkKey(c *Chunk) string { return r.Key(c.Key()) }

func (c *Chunk) validate() error {
	switch {
	case !c.SegmentSize.Valid():
		return damage(12, "segment size %d", c.SegmentSize)
	case c.SystemID == 0:
		return damage(16, "system identifier 0")
	case c.Incarnation.Timeline == 0:
		return damage(24, "timeline 0")
	case uint64(c.Segment) >= 1<<32*(1<<32/uint64(c.SegmentSize))-1:
		return damage(32, "segment number %d", c.Segment)
	case c.Length < 1 || c.Length > MaxChunk || uint64(c.Offset)+uint64(c.Length) > uint64(c.SegmentSize):
		return damage(48, "chunk of %d bytes at %d in a segment of %d", c.Length, c.Offset, c.SegmentSize)
	}
	return nil
}

func (c *Chunk) encode() []byte {
	b := make([]byte, chunkHead)
	copy(b, chunkMagic)
	le.PutUint16(b[8:], formatVersion)
	b[10] = byte(c.codec)
	le.PutUint32(b[12:], uint32(c.SegmentSize))
	le.PutUint64(b[16:], uint64(c.SystemID))
	le.PutUint32(b[24:], uint32(c.Incarnation.Timeline))
	le.PutUint32(b[28:], c.Offset)
	le.PutUint64(b[32:], uint64(c.Segment))
	copy(b[40:], c.Incarnation.Ancestry[:])
	le.PutUint32(b[48:], c.Length)
	le.PutUint32(b[52:], c.stored)
	copy(b[56:], c.Digest[:])
	copy(b[72:], c.Prefix[:])
	le.PutUint32(b[88:], c.sum)
	le.PutUint32(b[124:], checksum(b[:124]))
	return b
}

func parseChunkHeader(b []byte) (c Chunk, err error) {
	if err := checkHead(b, chunkHead, chunkMagic); err != nil {
		return c, err
	}
	c = Chunk{
		codec: Codec(b[10]), SegmentSize: pg.SegmentSize(le.Uint32(b[12:])), SystemID: pg.SystemID(le.Uint64(b[16:])),
		Incarnation: Incarnation{Timeline: pg.Timeline(le.Uint32(b[24:])), Ancestry: [8]byte(b[40:48])},
		Offset:      le.Uint32(b[28:]), Segment: pg.SegmentNumber(le.Uint64(b[32:])), Length: le.Uint32(b[48:]),
		stored: le.Uint32(b[52:]), Digest: Digest(b[56:72]), Prefix: Digest(b[72:88]), sum: le.Uint32(b[88:]),
	}
	if b[11] != 0 {
		return c, unknownVersion("cipher", int(b[11]))
	}
	if c.codec > CodecZstd {
		return c, unknownVersion("codec", int(c.codec))
	}
	if err := reserved(b[92:124], 92); err != nil {
		return c, err
	}
	if err := c.validate(); err != nil {
		return c, err
	}
	if c.stored < 1 || c.stored > c.Length || (c.stored == c.Length) != (c.codec == CodecNone) {
		return c, damage(52, "chunk of %d bytes stored as %d with codec %s", c.Length, c.stored, c.codec)
	}
	return c, nil
}

// encodeChunk makes a chunk object.
func (r *Repo) encodeChunk(c Chunk, raw []byte) (Chunk, []byte, error) {
	c.Length, c.Digest = uint32(len(raw)), DigestOf(raw)
	if len(raw) > MaxChunk {
		return c, nil, fmt.Errorf("encode chunk of %s: %d bytes", c.name(), len(raw))
	}
	if err := c.validate(); err != nil {
		return c, nil, fmt.Errorf("encode chunk: %w", asUsage(err))
	}
	stored, codec, err := compressNew(raw, r.codec(), r.opts.Level)
	if err != nil {
		return c, nil, err
	}
	c.codec, c.stored, c.sum = codec, uint32(len(stored)), checksum(stored)
	return c, append(c.encode(), stored...), nil
}

// parseChunk decodes a whole chunk object.
func parseChunk(b []byte) (c Chunk, raw []byte, err error) {
	if len(b) < chunkHead {
		return c, nil, damage(0, "the object ends early")
	}
	if c, err = parseChunkHeader(b[:chunkHead]); err != nil {
		return c, nil, err
	}
	stored := b[chunkHead:]
	if uint64(len(stored)) != uint64(c.stored) {
		return c, nil, damage(52, "payload of %d bytes, but %d are there", c.stored, len(stored))
	}
	if checksum(stored) != c.sum {
		return c, nil, damage(chunkHead, "checksum of the payload is wrong")
	}
	raw = make([]byte, c.Length)
	if err := withCompressor(func(z compressor) error { return expand(z, raw, stored, c.codec) }); err != nil {
		return c, nil, inside(err, chunkHead, "payload")
	}
	switch d := DigestOf(raw); {
	case d != c.Digest:
		return c, nil, damage(56, "digest of the payload is wrong")
	case c.Offset == 0 && d != c.Prefix:
		return c, nil, damage(72, "digest of the segment up to the chunk's end is wrong")
	}
	return c, raw, nil
}

// PutChunk stores raw, which begins at c.Offset of its segment, unless its key
// is taken. Length and Digest are set here, Prefix is the caller's. A key taken
// by the same bytes after the same ones is success, else ErrConflict.
func (r *Repo) PutChunk(ctx context.Context, c Chunk, raw []byte) (Chunk, error) {
	c.SystemID = r.cluster.SystemID
	c, b, err := r.encodeChunk(c, raw)
	if err != nil {
		return c, err
	}
	key := r.ChunkKey(&c)
	err = r.store.Put(ctx, key, bytes.NewReader(b), int64(len(b)), storage.PutOptions{IfAbsent: true})
	if !errors.Is(err, storage.ErrExists) {
		return c, wrapPut(key, err)
	}
	there, err := r.ReadChunkHeader(ctx, key)
	if err != nil {
		return c, fmt.Errorf("compare with what is stored: %w", err)
	}
	if there.Digest != c.Digest || there.Prefix != c.Prefix {
		return c, fmt.Errorf("put %s: %w", key, ErrConflict)
	}
	return c, nil
}

// ReadChunkHeader reads and verifies the header of one chunk by one small
// request.
func (r *Repo) ReadChunkHeader(ctx context.Context, key string) (Chunk, error) {
	b, err := r.readRange(ctx, key, 0, chunkHead)
	if err != nil {
		return Chunk{}, err
	}
	c, err := parseChunkHeader(b)
	if err == nil {
		err = checkChunkKey(&c, key)
	}
	return c, at(err, key, 0)
}

// ReadChunk reads and verifies a chunk, with its bytes. That these follow what
// lies before them is for the caller to prove, by Prefix.
func (r *Repo) ReadChunk(ctx context.Context, key string) (Chunk, []byte, error) {
	b, err := r.readObject(ctx, key, chunkHead+MaxChunk)
	if err != nil {
		return Chunk{}, nil, err
	}
	c, raw, err := parseChunk(b)
	if err == nil {
		err = checkChunkKey(&c, key)
	}
	if err != nil {
		return c, nil, at(err, key, 0)
	}
	return c, raw, nil
}

// checkChunkKey reports damage if a chunk does not belong under a key.
func checkChunkKey(c *Chunk, key string) error {
	k, err := ParseKey(key)
	if err != nil {
		return err
	}
	want := c.Key()
	want.Cluster = k.Cluster
	switch {
	case c.SystemID != k.Cluster.SystemID:
		return damage(16, "it is of the cluster with system identifier %s", c.SystemID)
	case k != want:
		return damage(24, "it belongs under %s", want.Name())
	}
	return nil
}

// ChunkObject is one stored chunk, as a listing tells it.
type ChunkObject struct {
	Key     Key
	Segment pg.Segment
	Object  storage.Object
}

// Offset gives where the chunk begins in its segment.
func (o *ChunkObject) Offset() int64 { return int64(o.Key.Offset) }

// End gives where the chunk ends in its segment.
func (o *ChunkObject) End() int64 { return int64(o.Key.Offset) + int64(o.Key.Length) }

// Chunks lists the chunks of one segment, ascending by offset, then by length.
// It is one request.
func (r *Repo) Chunks(ctx context.Context, i Incarnation, size pg.SegmentSize, n pg.SegmentNumber) ([]ChunkObject, error) {
	name := pg.Segment{Timeline: i.Timeline, Number: n}.Name(size)
	return r.chunks(ctx, fmt.Sprintf("%sstream/%s/%014X/%s/", r.prefix, i, walGroup(n), name), size)
}

// AllChunks lists the chunks of one incarnation, ascending by segment. They
// are few: those of a segment go once it is archived.
func (r *Repo) AllChunks(ctx context.Context, i Incarnation, size pg.SegmentSize) ([]ChunkObject, error) {
	return r.chunks(ctx, r.prefix+"stream/"+i.String()+"/", size)
}

func (r *Repo) chunks(ctx context.Context, prefix string, size pg.SegmentSize) ([]ChunkObject, error) {
	var out []ChunkObject
	for o, err := range r.store.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		k, err := ParseKey(o.Key)
		var seg pg.Segment
		if err == nil {
			seg, err = pg.ParseSegment(k.WAL.Segment, size)
		}
		if err == nil && walGroup(seg.Number) != k.Group {
			err = fmt.Errorf("segment %d is not of group %014X", seg.Number, k.Group)
		}
		if err != nil {
			return nil, &CorruptError{Key: o.Key, Offset: -1, What: err.Error()}
		}
		out = append(out, ChunkObject{k, seg, o})
	}
	return out, nil
}

// StreamIncarnations lists the timeline incarnations that have chunks,
// ascending by timeline, at one request each.
func (r *Repo) StreamIncarnations(ctx context.Context) ([]Incarnation, error) {
	var out []Incarnation
	prefix := r.prefix + "stream/"
	for name, err := range skipScan(ctx, r.store, prefix, strings.Count(prefix, "/")+1) {
		if err != nil {
			return nil, fmt.Errorf("list streamed timelines of %s: %w", r.cluster, err)
		}
		i, err := ParseIncarnation(strings.TrimPrefix(name, prefix))
		if err != nil {
			return nil, &CorruptError{Key: name, Offset: -1, What: err.Error()}
		}
		out = append(out, i)
	}
	return out, nil
}
