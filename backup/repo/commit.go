package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/pgtender/pgtender/backup/storage"
)

// Contents is what a manifest is made of.
type Contents struct {
	Backup Backup
	// Generations are the older backups whose packs may be leaned on; their
	// indexes in references are 1, 2, …: 0 is the backup itself.
	Generations []BackupID
	// Packs are the older packs that may be leaned on; the manifest names those
	// that an entry needs. The backup's own are known to the Writer.
	Packs []Pack
	// Entries come in ascending order of paths. They are gone through twice. The
	// first error stops the commit.
	Entries iter.Seq2[Entry, error]
}

// spoolMemory is how much of a manifest is kept in memory before it goes to a
// file: that of a cluster of some ten thousand files.
const spoolMemory = 4 << 20

// Commit finishes the packs, proves that they and the older ones exist, and
// puts the manifest. The backup exists if and only if that put had effect: an error may
// come back although it had, where the store's answer was lost and it could
// not be read back. The result is c.Backup with the counts filled in. Memory
// is bounded, however many entries there are.
func (w *Writer) Commit(ctx context.Context, c Contents) (Backup, error) {
	b, err := w.commit(ctx, c, KeyManifest)
	if err != nil {
		return Backup{}, fmt.Errorf("commit backup %s: %w", w.id, err)
	}
	return b, nil
}

// commit puts the manifest under a key of the given kind.
func (w *Writer) commit(ctx context.Context, c Contents, kind KeyKind) (_ Backup, err error) {
	if err := w.finish(ctx); err != nil {
		return Backup{}, err
	}
	b := c.Backup
	b.normal()
	if b.ID != w.id || b.Cluster() != w.repo.cluster || b.BlockSize != w.blockSize {
		return Backup{}, fmt.Errorf("description is of backup %s of %s with block size %d, not of what was written", b.ID, b.Cluster(), b.BlockSize)
	}
	own := w.stored()
	b.RawBytes, b.Frames, b.Packs, b.StoredBytes = w.raw.Load(), w.frames.Load(), int64(len(own)), 0
	for _, p := range own {
		b.StoredBytes += p.Size
	}
	l, err := w.leaning(own, &c)
	if err != nil {
		return Backup{}, err
	}
	index := l.index

	files := &spool{dir: w.repo.opts.TempDir, limit: spoolMemory}
	defer func() { err = errors.Join(err, files.Close()) }()
	if b.Files, b.Bytes, err = w.spoolEntries(files, l, c.Entries); err != nil {
		return Backup{}, err
	}
	if err := b.Validate(); err != nil {
		return Backup{}, err
	}
	object, err := w.assemble(b, index, files)
	if err != nil {
		return Backup{}, err
	}
	if err := w.repo.provePacks(ctx, index.packs); err != nil {
		return Backup{}, err
	}
	if w.opts.BeforeCommit != nil && kind == KeyManifest {
		if err := w.opts.BeforeCommit(ctx); err != nil {
			return Backup{}, err
		}
	}
	if err := w.usable(ctx); err != nil {
		return Backup{}, err
	}
	return b, w.repo.putManifest(ctx, w.repo.Key(Key{Kind: kind, ID: w.id}), object)
}

// spoolEntries writes the blocks of files.
func (w *Writer) spoolEntries(out io.Writer, l *leaning, entries iter.Seq2[Entry, error]) (files, size int64, err error) {
	blocks := w.repo.lineBlocks(out, blockFiles)
	check := entryCheck{index: l.index}
	var line []byte
	for e, err := range entries {
		if err != nil {
			return 0, 0, err
		}
		if err := e.Validate(); err != nil {
			return 0, 0, err
		}
		if err := l.settle(&e); err != nil {
			return 0, 0, err
		}
		if err := check.add(&e); err != nil {
			return 0, 0, err
		}
		line = e.append(line[:0])
		if err := blocks.add(line); err != nil {
			return 0, 0, err
		}
	}
	return check.files, check.bytes, blocks.flush()
}

// entryCheck holds what must be true of all entries together, for writing and
// for reading.
type entryCheck struct {
	index        *packIndex
	last         string
	seen         numbers
	files, bytes int64
}

func (c *entryCheck) add(e *Entry) error {
	if c.files > 0 && e.Path <= c.last {
		return fmt.Errorf("entry %q follows %q", e.Path, c.last)
	}
	if !e.Dir && !c.seen.add(e.File) {
		return fmt.Errorf("entry %q: file number %d is taken", e.Path, e.File)
	}
	if r := e.Bundle; r != nil {
		if err := c.index.holds(r.Generation, r.Place); err != nil {
			return fmt.Errorf("entry %q: %w", e.Path, err)
		}
	}
	if r := e.Map; r != nil {
		if err := c.index.holds(r.Generation, r.Place); err != nil {
			return fmt.Errorf("entry %q: %w", e.Path, err)
		}
	}
	c.last = e.Path
	c.files++
	c.bytes += e.Size
	return nil
}

// lineBlocks collects lines into blocks of one type.
type lineBlocks struct {
	out   io.Writer
	typ   blockType
	repo  *Repo
	raw   []byte
	block []byte
}

func (r *Repo) lineBlocks(out io.Writer, typ blockType) *lineBlocks {
	return &lineBlocks{out: out, typ: typ, repo: r}
}

func (l *lineBlocks) add(line []byte) error {
	if len(l.raw)+len(line) > blockTarget {
		if err := l.flush(); err != nil {
			return err
		}
	}
	l.raw = append(l.raw, line...)
	return nil
}

func (l *lineBlocks) flush() (err error) {
	if len(l.raw) == 0 {
		return nil
	}
	if l.block, err = appendBlock(l.block[:0], l.typ, l.raw, l.repo.codec(), l.repo.opts.Level); err != nil {
		return err
	}
	l.raw = l.raw[:0]
	_, err = l.out.Write(l.block)
	return err
}

// assemble puts a manifest's parts together.
func (w *Writer) assemble(b Backup, index *packIndex, files *spool) (*joined, error) {
	codec, level := w.repo.codec(), w.repo.opts.Level
	text, err := encodeJSON(&b)
	if err != nil {
		return nil, err
	}
	if len(text) > maxBlock {
		return nil, fmt.Errorf("description has %d bytes, more than a block holds", len(text))
	}
	head, err := appendBlock(manifestHeader(w.id, w.repo.cluster.SystemID), blockBackup, text, codec, level)
	if err != nil {
		return nil, err
	}
	var lists bytes.Buffer
	if err := w.writeLists(&lists, index); err != nil {
		return nil, err
	}
	head = append(head, lists.Bytes()...)
	before := join(section{bytes.NewReader(head), int64(len(head))}, section{files, files.size})
	h := newHasher()
	if _, err := io.Copy(h, io.NewSectionReader(before, 0, before.size())); err != nil {
		return nil, fmt.Errorf("read spooled manifest: %w", storage.NotAbsence(err))
	}
	if text, err = encodeJSON(endLine{Files: b.Files, Bytes: b.Bytes, Digest: h.digest()}); err != nil {
		return nil, err
	}
	end, err := appendBlock(nil, blockEnd, text, codec, level)
	if err != nil {
		return nil, err
	}
	return join(append(before.parts, section{bytes.NewReader(end), int64(len(end))})...), nil
}

func (w *Writer) writeLists(out io.Writer, index *packIndex) error {
	add := func(l *lineBlocks, v any) error {
		text, err := encodeJSON(v)
		if err != nil {
			return err
		}
		return l.add(append(text, '\n'))
	}
	generations := w.repo.lineBlocks(out, blockGenerations)
	for _, id := range index.generations {
		if err := add(generations, generationLine{id}); err != nil {
			return err
		}
	}
	if err := generations.flush(); err != nil {
		return err
	}
	packs := w.repo.lineBlocks(out, blockPacks)
	for _, p := range index.packs {
		if err := add(packs, packLine{index.of[p.Backup], p.Number, p.Size}); err != nil {
			return err
		}
	}
	return packs.flush()
}

// putManifest makes the backup exist. Any failure may hide a success, so what
// is there afterwards is read back.
func (r *Repo) putManifest(ctx context.Context, key string, object *joined) error {
	err := r.store.Put(ctx, key, object, object.size(), storage.PutOptions{IfAbsent: true})
	if err == nil {
		// The last chance to notice a store that only says it did.
		return r.proveObject(ctx, key, object.size())
	}
	same, readErr := storage.Same(ctx, r.store, key, object, object.size())
	switch {
	case readErr == nil && same:
		return nil
	case readErr == nil && errors.Is(err, storage.ErrExists):
		return fmt.Errorf("put %s: %w", key, ErrConflict)
	case readErr != nil && !errors.Is(readErr, storage.ErrNotExist):
		return fmt.Errorf("put %s: %w (whether it is stored could not be read back: %v)", key, err, readErr)
	}
	return wrapPut(key, err)
}

// provePacks checks by listing that packs exist with their sizes.
func (r *Repo) provePacks(ctx context.Context, packs []Pack) error {
	packs = slices.Clone(packs)
	slices.SortFunc(packs, comparePacks)
	for len(packs) > 0 {
		id := packs[0].Backup
		n := slices.IndexFunc(packs, func(p Pack) bool { return p.Backup != id })
		if n < 0 {
			n = len(packs)
		}
		if err := r.proveGeneration(ctx, id, packs[:n]); err != nil {
			return err
		}
		packs = packs[n:]
	}
	return nil
}

func (r *Repo) proveGeneration(ctx context.Context, id BackupID, packs []Pack) error {
	prefix := r.prefix + "pack/" + id.String() + "/"
	for o, err := range r.store.List(ctx, prefix, "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		key := r.packKey(packs[0].PackRef)
		if o.Key > key {
			return missing(key)
		}
		if o.Key != key {
			continue
		}
		if o.Size != packs[0].Size {
			return &CorruptError{Key: key, Offset: -1, What: fmt.Sprintf("it has %d bytes, not %d", o.Size, packs[0].Size)}
		}
		if packs = packs[1:]; len(packs) == 0 {
			return nil
		}
	}
	return missing(r.packKey(packs[0].PackRef))
}

func (r *Repo) proveObject(ctx context.Context, key string, size int64) error {
	for o, err := range r.store.List(ctx, key, "") {
		switch {
		case err != nil:
			return fmt.Errorf("%s is stored, but could not be listed: %w", key, err)
		case o.Key == key && o.Size == size:
			return nil
		}
		break
	}
	return missing(key)
}

func missing(key string) error {
	return fmt.Errorf("prove that %s is stored, on which the backup leans: %w", key, storage.ErrNotExist)
}
