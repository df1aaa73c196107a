package repo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/pgtender/pgtender/backup/storage"
)

// Manifest is an opened backup: its description, generations and packs are in
// memory, its entries are streamed. It is safe for concurrent use.
type Manifest struct {
	Backup      Backup
	Generations []BackupID // by index; the first is the backup itself
	Packs       []Pack     // all that the backup leans on, its own included

	repo  *Repo
	key   string
	index *packIndex
	off   int64 // of the first block behind the packs
	last  blockType
	hash  *hasher // state at off; never written to
	lastG int     // generation index of the last of Packs, while they are read
}

// manifestBuffer is read ahead from a manifest.
const manifestBuffer = 64 << 10

// OpenManifest reads a manifest up to its entries.
func (r *Repo) OpenManifest(ctx context.Context, id BackupID) (*Manifest, error) {
	return r.openManifest(ctx, KeyManifest, id)
}

func (r *Repo) openManifest(ctx context.Context, kind KeyKind, id BackupID) (_ *Manifest, err error) {
	key := r.Key(Key{Kind: kind, ID: id})
	src, err := r.store.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, at(err, key, 0)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	m := &Manifest{repo: r, key: key, hash: newHasher()}
	if err := m.readHead(bufio.NewReaderSize(src, manifestBuffer), id); err != nil {
		return nil, at(err, key, 0)
	}
	return m, nil
}

// startBlocks reads the header and gives a reader of the blocks.
func (r *Repo) startBlocks(src *bufio.Reader, id BackupID) (*blockReader, error) {
	var head [manifestHead]byte
	if _, err := io.ReadFull(src, head[:]); err != nil {
		return nil, notEOF(err)
	}
	if isTombstone(head[:]) {
		return nil, errFenced
	}
	if err := checkManifestHeader(head[:], id, r.cluster.SystemID); err != nil {
		return nil, err
	}
	blocks := &blockReader{r: src, off: manifestHead, hash: newHasher()}
	blocks.hash.Write(head[:])
	return blocks, nil
}

func (r *Repo) readBackup(blocks *blockReader, id BackupID) (b Backup, err error) {
	off := blocks.off + blockHead
	_, raw, err := blocks.next() // type 1: none other may come first
	if err != nil {
		return b, err
	}
	if err := decodeJSON(raw, &b); err != nil {
		return b, inside(err, off, "backup block")
	}
	if err := b.Validate(); err != nil {
		return b, damage(off, "%v", err)
	}
	if b.ID != id || b.Cluster() != r.cluster {
		return b, damage(off, "it describes backup %s of %s", b.ID, b.Cluster())
	}
	return b, nil
}

func (m *Manifest) readHead(src *bufio.Reader, id BackupID) error {
	blocks, err := m.repo.startBlocks(src, id)
	if err != nil {
		return err
	}
	if m.Backup, err = m.repo.readBackup(blocks, id); err != nil {
		return err
	}
	for {
		typ, err := blocks.peek()
		if err != nil {
			return err
		}
		if typ >= blockFiles {
			break
		}
		off := blocks.off + blockHead
		typ, raw, err := blocks.next()
		if err != nil {
			return err
		}
		if err := lines(raw, func(l []byte) error { return m.addLine(typ, l) }); err != nil {
			return inside(err, off, "block of type %d", typ)
		}
	}
	if len(m.Generations) == 0 || m.Generations[0] != id {
		return damage(blocks.off, "the first generation is not the backup itself")
	}
	if m.index, err = newPackIndex(m.Generations, m.Packs); err != nil {
		return damage(blocks.off, "%v", err)
	}
	m.off, m.last, m.hash = blocks.off, blocks.last, blocks.hash
	return nil
}

func (m *Manifest) addLine(typ blockType, b []byte) error {
	if typ == blockGenerations {
		var l generationLine
		if err := decodeLine(b, &l); err != nil {
			return err
		}
		m.Generations = append(m.Generations, l.ID)
		return nil
	}
	var l packLine
	if err := decodeLine(b, &l); err != nil {
		return err
	}
	if l.G < 0 || l.G >= len(m.Generations) {
		return damage(0, "generation index %d of %d", l.G, len(m.Generations))
	}
	p := Pack{PackRef{m.Generations[l.G], l.N}, l.S}
	if n := len(m.Packs); n > 0 {
		if l.G < m.lastG || l.G == m.lastG && l.N <= m.Packs[n-1].Number {
			return damage(0, "pack %s follows %s", p, m.Packs[n-1])
		}
	}
	m.Packs, m.lastG = append(m.Packs, p), l.G
	return nil
}

// ID gives the backup's id.
func (m *Manifest) ID() BackupID { return m.Backup.ID }

// Entries streams the files and directories in order of their paths. It may
// be called again, and each time reads them anew. An error ends the sequence;
// the entries count only once it has ended without one, for the end block tells
// whether all of them were seen.
func (m *Manifest) Entries(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		err := m.read(ctx, yield)
		if err != nil && err != errStopped {
			yield(Entry{}, at(err, m.key, 0))
		}
	}
}

// errStopped means that the consumer wants no more.
var errStopped = errors.New("stopped")

func (m *Manifest) read(ctx context.Context, yield func(Entry, error) bool) (err error) {
	src, err := m.repo.store.Get(ctx, m.key, m.off, -1)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := src.Close(); err == nil {
			err = closeErr
		}
	}()
	return m.entries(src, yield)
}

// entries reads what follows the packs, from src on.
func (m *Manifest) entries(src io.Reader, yield func(Entry, error) bool) error {
	blocks := &blockReader{r: bufio.NewReaderSize(src, manifestBuffer), off: m.off, last: m.last, hash: m.hash.clone()}
	check := entryCheck{index: m.index}
	held := heldPacks{index: m.index}
	var scratch []byte
	for {
		off := blocks.off + blockHead
		typ, raw, err := blocks.next()
		if err != nil {
			return err
		}
		if typ == blockEnd {
			return inside(m.checkEnd(raw, blocks, &check), off, "end block")
		}
		err = lines(raw, func(l []byte) error {
			e, s, err := parseEntry(l, scratch)
			if scratch = s; err != nil {
				return err
			}
			if err := errors.Join(check.add(&e), held.resolve(&e)); err != nil {
				return damage(0, "%v", err)
			}
			if !yield(e, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil {
			return inside(err, off, "block of files")
		}
	}
}

func (m *Manifest) checkEnd(raw []byte, blocks *blockReader, check *entryCheck) error {
	var end endLine
	if err := decodeJSON(raw, &end); err != nil {
		return err
	}
	switch _, err := blocks.r.Peek(1); {
	case end.Digest != blocks.hash.digest():
		return damage(0, "digest of the manifest is wrong")
	case end.Files != check.files || end.Bytes != check.bytes || end.Files != m.Backup.Files || end.Bytes != m.Backup.Bytes:
		return damage(0, "%d files of %d bytes, but %d of %d are announced", check.files, check.bytes, m.Backup.Files, m.Backup.Bytes)
	case err == nil:
		return damage(int64(len(raw)), "something follows the end")
	case err != io.EOF:
		return err
	}
	return nil
}

// Listed is one backup in a listing, or what is left of it.
type Listed struct {
	ID     BackupID // zero if the key's name is no id
	Backup Backup   // without value if Err is set, except to ErrCondemned
	Object storage.Object
	Err    error // why the backup cannot be used
}

// listWorkers is how many manifests a listing reads at the same time.
const listWorkers = 8

// Backups lists the backups, oldest first, by reading the beginning of each
// manifest. A manifest that cannot be read is listed with its error, never left
// out. A condemned backup has both: its Err is an [ErrCondemned], for nobody may
// begin to use it. The error given back is one of the listing itself, or ctx's.
func (r *Repo) Backups(ctx context.Context) ([]Listed, error) {
	list, err := r.manifests(ctx, KeyManifest)
	if err != nil {
		return nil, err
	}
	condemned, err := r.Condemnations(ctx)
	if err != nil {
		return nil, err
	}
	for i := range list {
		l := &list[i]
		for _, c := range condemned {
			if l.Err == nil && c.Err == nil && c.Verdict != Pardoned && c.Subject == l.ID.String() {
				l.Err = fmt.Errorf("%w: %s", ErrCondemned, c.Reason)
			}
		}
	}
	return list, nil
}

// NewestID gives the highest id of the backups, pending and condemned ones and
// tombstones included, 0 if there is none. No manifest is read.
func (r *Repo) NewestID(ctx context.Context) (BackupID, error) {
	newest := BackupID(0)
	for _, kind := range []KeyKind{KeyManifest, KeyPending} {
		for o, err := range r.store.List(ctx, r.prefix+string(kind)+"/", "") {
			if err != nil {
				return 0, fmt.Errorf("list backups of %s: %w", r.cluster, err)
			}
			if k, err := ParseKey(o.Key); err == nil {
				newest = max(newest, k.ID)
			}
		}
	}
	return newest, nil
}

func (r *Repo) manifests(ctx context.Context, kind KeyKind) ([]Listed, error) {
	var out []Listed
	for o, err := range r.store.List(ctx, r.prefix+string(kind)+"/", "") {
		if err != nil {
			return nil, fmt.Errorf("list backups of %s: %w", r.cluster, err)
		}
		out = append(out, Listed{Object: o})
	}
	each(listWorkers, len(out), func(i int) {
		l := &out[i]
		k, err := ParseKey(l.Object.Key)
		if err != nil {
			l.Err = &CorruptError{Key: l.Object.Key, Offset: -1, What: err.Error()}
			return
		}
		l.ID = k.ID
		l.Backup, l.Err = r.peekBackup(ctx, l.Object, k.ID)
	})
	if err := storage.ContextError(ctx); err != nil {
		return nil, fmt.Errorf("list backups of %s: %w", r.cluster, err)
	}
	return slices.DeleteFunc(out, func(l Listed) bool { return errors.Is(l.Err, errFenced) }), nil
}

// peekBackup reads block 1 of a manifest.
func (r *Repo) peekBackup(ctx context.Context, o storage.Object, id BackupID) (Backup, error) {
	// The second length is for a description that compresses badly.
	for _, limit := range []int64{manifestBuffer, manifestHead + blockHead + maxBlock} {
		b, err := r.readRange(ctx, o.Key, 0, min(o.Size, limit))
		if err != nil {
			return Backup{}, err
		}
		if len(b) >= manifestHead+blockHead && int64(len(b)) < o.Size {
			if need := manifestHead + blockHead + int64(le.Uint32(b[manifestHead+8:])); need > limit && limit == manifestBuffer {
				continue
			}
		}
		blocks, err := r.startBlocks(bufio.NewReader(bytes.NewReader(b)), id)
		if err != nil {
			return Backup{}, at(err, o.Key, 0)
		}
		backup, err := r.readBackup(blocks, id)
		if err != nil {
			return Backup{}, at(err, o.Key, 0)
		}
		return backup, nil
	}
	return Backup{}, &CorruptError{Key: o.Key, Offset: manifestHead, What: "backup block is too long"}
}
