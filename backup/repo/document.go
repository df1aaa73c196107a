package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pgtender/pgtender/internal/pg"
)

const (
	docHead  = 64
	docMagic = "PGTDOC\x00\x00"
	maxDoc   = 1 << 20
)

type docKind string

const (
	docOwner   docKind = "OWNR"
	docRunning docKind = "RUNN"
	docReader  docKind = "READ"
	docEvent   docKind = "EVNT"
	docBackup  docKind = "BKHF"
	// docTombstone lies under the key of a manifest.
	docTombstone docKind = "TOMB"
)

// encodeDoc wraps a payload in the envelope of format.md §3.
func (r *Repo) encodeDoc(kind docKind, name string, raw []byte) ([]byte, error) {
	if len(raw) > maxDoc {
		return nil, fmt.Errorf("encode %s: %d bytes, more than a document holds", name, len(raw))
	}
	stored, codec, err := compressNew(raw, r.codec(), r.opts.Level)
	if err != nil {
		return nil, err
	}
	b := make([]byte, docHead, docHead+len(name)+len(stored))
	copy(b, docMagic)
	le.PutUint16(b[8:], formatVersion)
	b[10] = byte(codec)
	le.PutUint32(b[12:], uint32(len(raw)))
	le.PutUint32(b[16:], uint32(len(stored)))
	copy(b[20:], kind)
	d := DigestOf(raw)
	copy(b[24:], d[:])
	le.PutUint32(b[40:], checksum(stored))
	le.PutUint16(b[44:], uint16(len(name)))
	le.PutUint64(b[48:], uint64(r.cluster.SystemID))
	le.PutUint32(b[60:], checksum2(b[:60], []byte(name)))
	return append(append(b, name...), stored...), nil
}

type document struct {
	kind   docKind
	system pg.SystemID
	name   string
	raw    []byte
}

// parseDoc decodes an envelope.
func parseDoc(b []byte) (d document, err error) {
	if len(b) < docHead || string(b[:8]) != docMagic {
		return d, damage(0, "no document begins here")
	}
	n := docHead + int(le.Uint16(b[44:]))
	if len(b) < n || checksum2(b[:60], b[docHead:n]) != le.Uint32(b[60:]) {
		return d, damage(0, "checksum of the header is wrong")
	}
	if err := checkVersion(b); err != nil {
		return d, err
	}
	if b[11] != 0 {
		return d, unknownVersion("cipher", int(b[11]))
	}
	if err := errors.Join(reserved(b[46:48], 46), reserved(b[56:60], 56)); err != nil {
		return d, err
	}
	d = document{kind: docKind(b[20:24]), system: pg.SystemID(le.Uint64(b[48:])), name: string(b[docHead:n])}
	raw, stored := le.Uint32(b[12:]), b[n:]
	if raw > maxDoc || uint64(le.Uint32(b[16:])) != uint64(len(stored)) {
		return d, damage(12, "payload of %d bytes, stored as %d, but %d are there", raw, le.Uint32(b[16:]), len(stored))
	}
	if checksum(stored) != le.Uint32(b[40:]) {
		return d, damage(int64(n), "checksum of the payload is wrong")
	}
	d.raw = make([]byte, raw)
	if err := withCompressor(func(c compressor) error { return expand(c, d.raw, stored, Codec(b[10])) }); err != nil {
		return d, inside(err, int64(n), "payload")
	}
	if DigestOf(d.raw) != Digest(b[24:40]) {
		return d, damage(int64(n), "digest of the payload is wrong")
	}
	return d, nil
}

// putDoc stores a document of text; see [Repo.put] for a key that is taken.
func (r *Repo) putDoc(ctx context.Context, k Key, kind docKind, raw []byte) error {
	b, err := r.encodeDoc(kind, k.Name(), raw)
	if err != nil {
		return err
	}
	return r.putBytes(ctx, r.Key(k), b)
}

func (r *Repo) putJSON(ctx context.Context, k Key, kind docKind, v any) error {
	raw, err := encodeJSON(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", k.Name(), err)
	}
	return r.putDoc(ctx, k, kind, raw)
}

// readDoc reads the document under a key.
func (r *Repo) readDoc(ctx context.Context, key string, kind docKind) ([]byte, error) {
	b, err := r.readObject(ctx, key, docHead+1<<16+maxDoc)
	if err != nil {
		return nil, err
	}
	d, err := parseDoc(b)
	switch {
	case err != nil:
	case d.kind != kind:
		err = damage(20, "document of kind %q, not %q", string(d.kind), string(kind))
	case d.system != r.cluster.SystemID:
		err = damage(48, "it is of the cluster with system identifier %s", d.system)
	case d.name != strings.TrimPrefix(key, r.prefix):
		err = damage(docHead, "it belongs under %s", d.name)
	}
	if err != nil {
		return nil, at(err, key, 0)
	}
	return d.raw, nil
}

func (r *Repo) readJSON(ctx context.Context, key string, kind docKind, v any) error {
	raw, err := r.readDoc(ctx, key, kind)
	if err != nil {
		return err
	}
	return at(decodeJSON(raw, v), key, docHead)
}

// BackupHistoryKey gives the key of a backup history file.
func (r *Repo) BackupHistoryKey(i Incarnation, name WALName, size pg.SegmentSize) (string, error) {
	seg, err := pg.ParseSegment(name.Segment, size)
	if err != nil || !name.Backup {
		return "", fmt.Errorf("%s is no backup history file", name)
	}
	return r.Key(Key{Kind: KeyWAL, Incarnation: i, Group: walGroup(seg.Number), WAL: name}), nil
}

// PutBackupHistory archives a backup history file under a key of
// BackupHistoryKey. The same bytes being there already is success, others are
// ErrConflict.
func (r *Repo) PutBackupHistory(ctx context.Context, key string, content []byte) error {
	k, err := ParseKey(key)
	if err != nil || !k.WAL.Backup {
		return fmt.Errorf("put %s: not the key of a backup history file", key)
	}
	return r.putDoc(ctx, k, docBackup, content)
}

// QuarantineBackupHistory stores a backup history file that conflicts with the
// archived one under key.
func (r *Repo) QuarantineBackupHistory(ctx context.Context, key string, content []byte) error {
	k, err := ParseKey(key)
	if err != nil || !k.WAL.Backup {
		return fmt.Errorf("quarantine %s: not the key of a backup history file", key)
	}
	k.Kind, k.Conflict = KeyQuarantine, DigestOf(content)
	return r.putDoc(ctx, k, docBackup, content)
}

// BackupHistory reads a backup history file.
func (r *Repo) BackupHistory(ctx context.Context, key string) ([]byte, error) {
	raw, err := r.readDoc(ctx, key, docBackup)
	if err != nil {
		return nil, err
	}
	if k, err := ParseKey(key); err == nil && !k.Conflict.IsZero() && k.Conflict != DigestOf(raw) {
		return nil, &CorruptError{Key: key, Offset: docHead, What: "its digest is " + DigestOf(raw).String()}
	}
	return raw, nil
}
