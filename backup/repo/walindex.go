package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

// GroupSegments is how many segments one index describes at most, and a folder
// of the archive holds.
const GroupSegments = 256

// GroupOf gives the group of a segment.
func GroupOf(n pg.SegmentNumber) uint64 { return walGroup(n) }

// WALIndex describes a group of archived segments of one incarnation: from the
// group's first, or the timeline's first within the group, to the group's last.
// It is made when all of them are archived, and says that they are one unbroken
// log of which the map names all changes.
type WALIndex struct {
	// Headers are those of the segments, in order.
	Headers []WALHeader
	// BlockMap and Carry are encodings of internal/pg/wal: the changes of all
	// records that start in the group and are not left to Carry.
	BlockMap, Carry []byte
}

// First gives the number of the first segment.
func (x *WALIndex) First() pg.SegmentNumber { return x.Headers[0].Segment }

const (
	indexHead  = 160
	indexMagic = "PGTWIDX\x00"
	// maxWALIndex is more than an index can become.
	maxWALIndex = indexHead + GroupSegments*walHead + 2*maxWALSection
)

// WALIndexKey gives the key of a group's index.
func (r *Repo) WALIndexKey(i Incarnation, group uint64) string {
	return r.Key(Key{Kind: KeyWALIndex, Incarnation: i, Group: group})
}

// StoredSize gives the size in bytes of the object that holds the segment, once
// it is encoded.
func (h *WALHeader) StoredSize() int64 { return h.size() }

// validate checks what one header cannot know.
func (x *WALIndex) validate() error {
	n := len(x.Headers)
	if n < 1 || n > GroupSegments {
		return damage(12, "%d segments", n)
	}
	first := &x.Headers[0]
	if uint64(first.Segment)%GroupSegments+uint64(n) != GroupSegments {
		return damage(32, "%d segments from number %d on do not end a group", n, first.Segment)
	}
	if max(len(x.BlockMap), len(x.Carry)) > maxWALSection {
		return damage(76, "block map of %d bytes, carry of %d", len(x.BlockMap), len(x.Carry))
	}
	for i := range x.Headers {
		h := &x.Headers[i]
		switch {
		case h.SystemID != first.SystemID || h.Incarnation != first.Incarnation || h.SegmentSize != first.SegmentSize:
			return damage(indexHead, "segment %s is not of the same cluster, timeline and size as the first", h.Name())
		case h.Segment != first.Segment+pg.SegmentNumber(i):
			return damage(indexHead, "segment number %d in place of %d", h.Segment, first.Segment+pg.SegmentNumber(i))
		case h.Flags&(WALPartial|WALChainBreak) != 0 || h.BlockSize == 0:
			return damage(indexHead, "segment %s can have no part in an index, its flags are %#x", h.Name(), uint32(h.Flags))
		}
	}
	return nil
}

// encode gives the object.
func (x *WALIndex) encode(codec Codec, level int) ([]byte, error) {
	first := &x.Headers[0]
	b := make([]byte, indexHead)
	copy(b, indexMagic)
	le.PutUint16(b[8:], formatVersion)
	b[10] = byte(codec)
	le.PutUint32(b[12:], uint32(len(x.Headers)))
	le.PutUint64(b[16:], uint64(first.SystemID))
	le.PutUint32(b[24:], uint32(first.Incarnation.Timeline))
	le.PutUint32(b[28:], uint32(first.SegmentSize))
	le.PutUint64(b[32:], uint64(first.Segment))
	copy(b[40:], first.Incarnation.Ancestry[:])
	var headers []byte
	for i := range x.Headers {
		headers = append(headers, x.Headers[i].encode()...)
	}
	for i, raw := range [...][]byte{headers, x.BlockMap, x.Carry} {
		stored, _, err := compressNew(raw, codec, level)
		if err != nil {
			return nil, err
		}
		s := walSection{raw: uint32(len(raw)), stored: uint32(len(stored)), sum: checksum(stored), digest: DigestOf(raw)}
		s.put(b[48+28*i:])
		b = append(b, stored...)
	}
	le.PutUint32(b[156:], checksum(b[:156]))
	return b, nil
}

// put writes the section's place in an index's header, 28 bytes.
func (s *walSection) put(b []byte) {
	le.PutUint32(b, s.raw)
	le.PutUint32(b[4:], s.stored)
	le.PutUint32(b[8:], s.sum)
	copy(b[12:28], s.digest[:])
}

func parseSection(b []byte) walSection {
	return walSection{raw: le.Uint32(b), stored: le.Uint32(b[4:]), sum: le.Uint32(b[8:]), digest: Digest(b[12:28])}
}

// parseWALIndex decodes an index object.
func parseWALIndex(b []byte) (x WALIndex, err error) {
	if err := checkHead(b, indexHead, indexMagic); err != nil {
		return x, err
	}
	if b[11] != 0 {
		return x, unknownVersion("cipher", int(b[11]))
	}
	codec := Codec(b[10])
	if codec > CodecZstd {
		return x, unknownVersion("codec", int(codec))
	}
	if err := reserved(b[132:156], 132); err != nil {
		return x, err
	}
	var raw [3][]byte
	rest, off := b[indexHead:], int64(indexHead)
	for i, most := range [...]uint32{GroupSegments * walHead, maxWALSection, maxWALSection} {
		s := parseSection(b[48+28*i:])
		if s.raw > most || s.stored > s.raw || (s.stored == 0) != (s.raw == 0) || int64(s.stored) > int64(len(rest)) {
			return x, damage(int64(48+28*i), "section of %d bytes, stored as %d, with %d left", s.raw, s.stored, len(rest))
		}
		if raw[i], err = s.open(rest[:s.stored], codec); err != nil {
			return x, inside(err, off, "section %d", i+1)
		}
		rest, off = rest[s.stored:], off+int64(s.stored)
	}
	if len(rest) > 0 {
		return x, damage(off, "something follows the last section")
	}
	x.BlockMap, x.Carry = raw[1], raw[2]
	if count := int64(le.Uint32(b[12:])); count*walHead != int64(len(raw[0])) {
		return x, damage(12, "%d segments, with headers of %d bytes", count, len(raw[0]))
	}
	for h := raw[0]; len(h) > 0; h = h[walHead:] {
		header, err := parseWALHeader(h[:walHead])
		if err != nil {
			return x, inside(err, indexHead, "header of segment %d", len(x.Headers)+1)
		}
		x.Headers = append(x.Headers, header)
	}
	if err := x.validate(); err != nil {
		return x, err
	}
	first := &x.Headers[0]
	if uint64(first.SystemID) != le.Uint64(b[16:]) || uint32(first.Incarnation.Timeline) != le.Uint32(b[24:]) || uint32(first.SegmentSize) != le.Uint32(b[28:]) ||
		uint64(first.Segment) != le.Uint64(b[32:]) || first.Incarnation.Ancestry != [8]byte(b[40:48]) {
		return x, damage(16, "the index is not that of its first segment, %s", first.Name())
	}
	return x, nil
}

// PutWALIndex stores a group's index unless there is one: then that one stays,
// since both describe the same segments. The headers must be those of encoded or
// archived segments.
func (r *Repo) PutWALIndex(ctx context.Context, x WALIndex) error {
	if err := x.validate(); err != nil {
		return fmt.Errorf("put WAL index: %w", asUsage(err))
	}
	first := &x.Headers[0]
	if first.SystemID != r.cluster.SystemID {
		return fmt.Errorf("put WAL index: system identifier is %s, not %s", first.SystemID, r.cluster.SystemID)
	}
	b, err := x.encode(r.codec(), r.opts.Level)
	if err != nil {
		return err
	}
	key := r.WALIndexKey(first.Incarnation, walGroup(first.Segment))
	err = r.store.Put(ctx, key, bytes.NewReader(b), int64(len(b)), storage.PutOptions{IfAbsent: true})
	if errors.Is(err, storage.ErrExists) {
		return nil
	}
	return wrapPut(key, err)
}

// ReadWALIndex reads and verifies the index of a group, by one request. It is a
// storage.ErrNotExist if there is none. That the segments are still the ones it
// describes is for the caller to compare with a listing: see
// [WALIndex.Describes].
func (r *Repo) ReadWALIndex(ctx context.Context, i Incarnation, group uint64) (WALIndex, error) {
	key := r.WALIndexKey(i, group)
	b, err := r.readObject(ctx, key, maxWALIndex)
	if err != nil {
		return WALIndex{}, err
	}
	x, err := parseWALIndex(b)
	if err == nil {
		first := &x.Headers[0]
		switch {
		case first.SystemID != r.cluster.SystemID:
			err = damage(16, "it is of the cluster with system identifier %s", first.SystemID)
		case first.Incarnation != i:
			err = damage(24, "it is of timeline incarnation %s", first.Incarnation)
		case walGroup(first.Segment) != group:
			err = damage(32, "it is of group %014X", walGroup(first.Segment))
		}
	}
	if err != nil {
		return WALIndex{}, at(err, key, 0)
	}
	return x, nil
}

// Describes reports whether the index was made from the object that is listed
// for one of its segments: a proved leader's that came later has another
// digest, and makes the index useless.
func (x *WALIndex) Describes(o WALObject) bool {
	n := o.Segment.Number - x.First()
	if o.Segment.Number < x.First() || n >= pg.SegmentNumber(len(x.Headers)) {
		return false
	}
	h := &x.Headers[n]
	return o.Key.Incarnation == h.Incarnation && o.Object.Size == h.size() && (!o.Conflicting() || o.Key.Conflict == h.Digest)
}

// HasWALIndex reports whether a group has an index, by one small request.
func (r *Repo) HasWALIndex(ctx context.Context, i Incarnation, group uint64) (bool, error) {
	key := r.WALIndexKey(i, group)
	found, err := firstKey(ctx, r.store, key, "")
	if err != nil {
		return false, fmt.Errorf("list %s: %w", key, err)
	}
	return found == key, nil
}
