package repo

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/pgtender/pgtender/backup/storage"
)

// Check reads a whole repository, every byte of every object of every cluster,
// and reports all that is wrong: keys that are none, damaged objects, backups
// that do not read back whole. Packs without a manifest are not wrong. It is
// meant for tests and small repositories: it reads one object after the other
// and keeps files that have a digest and a page map in memory.
func Check(ctx context.Context, store storage.Store) error {
	var errs []error
	for o, err := range store.List(ctx, "", "") {
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("list repository: %w", err))...)
		}
		k, err := ParseKey(o.Key)
		if err == nil {
			err = Open(store, k.Cluster, Options{}).checkObject(ctx, k, o)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (r *Repo) checkObject(ctx context.Context, k Key, o storage.Object) error {
	switch k.Kind {
	case KeyOwner:
		return r.readJSON(ctx, o.Key, docOwner, new(Owner))
	case KeyRunning:
		return r.readJSON(ctx, o.Key, docRunning, new(Running))
	case KeyReader:
		return r.readJSON(ctx, o.Key, docReader, new(Reader))
	case KeyEvent:
		return r.readJSON(ctx, o.Key, docEvent, new(Event))
	case KeyManifest, KeyPending:
		m, err := r.openManifest(ctx, k.Kind, k.ID)
		if errors.Is(err, errFenced) {
			return r.readJSON(ctx, o.Key, docTombstone, new(tombstone))
		}
		if err != nil {
			return err
		}
		return m.Check(ctx)
	case KeyPack:
		return r.VerifyPack(ctx, Pack{PackRef{k.ID, k.Number}, o.Size}, nil)
	case KeyHistory:
		_, _, err := r.readHistory(ctx, k)
		return err
	case KeyStream:
		_, _, err := r.ReadChunk(ctx, o.Key)
		return err
	case KeyWALIndex:
		_, err := r.ReadWALIndex(ctx, k.Incarnation, k.Group)
		return err
	}
	switch {
	case k.WAL.Backup:
		_, err := r.BackupHistory(ctx, o.Key)
		return err
	case k.WAL.Segment == "":
		_, _, err := r.readHistory(ctx, k)
		return err
	}
	_, metaErr := r.ReadWALMeta(ctx, o.Key, o.Size)
	_, err := r.ReadWAL(ctx, o.Key, io.Discard)
	return errors.Join(metaErr, err)
}

// Check reads a backup as a restore would and reports the first thing that
// keeps it from being whole. What it keeps in memory: see the function Check.
func (m *Manifest) Check(ctx context.Context) error {
	if err := m.repo.provePacks(ctx, m.Packs); err != nil {
		return err
	}
	var batch []Want
	for e, err := range m.Entries(ctx) {
		if err != nil {
			return err
		}
		if e.Map == nil && e.Bundle == nil {
			continue
		}
		batch = append(batch, Want{Tag: int64(len(batch)), Entry: e})
		if len(batch) == 256 {
			if err := m.checkBatch(ctx, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return m.checkBatch(ctx, batch)
}

// checkBatch reads files whole and compares their digests.
func (m *Manifest) checkBatch(ctx context.Context, batch []Want) error {
	type state struct {
		pages uint32 // still to come
		data  []byte // content, if there is a digest to compare
	}
	files := make([]state, len(batch))
	for i := range batch {
		e := &batch[i].Entry
		if e.Map != nil {
			files[i].pages = m.pages(e)
			if !e.Digest.IsZero() {
				files[i].data = make([]byte, e.Size)
			}
		} else {
			files[i].pages = 1
		}
	}
	// One worker: the states need no lock.
	err := m.Fetch(ctx, m.Locate(ctx, Values(batch)), FetchOptions{Workers: 1}, func(_ context.Context, r Read, raw []byte) error {
		f := &files[r.Tag]
		if r.Kind == FrameBundle {
			f.pages--
			return nil
		}
		bs := m.Backup.BlockSize
		for first, b := range r.Runs(raw, bs) {
			f.pages -= uint32(pagesOf(len(b), bs))
			if f.data != nil {
				copy(f.data[int64(first)*int64(bs):], b)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range files {
		e := &batch[i].Entry
		if files[i].pages != 0 {
			return &CorruptError{Key: m.key, Offset: -1, What: fmt.Sprintf("%d pages of %q did not come", files[i].pages, e.Path)}
		}
		if files[i].data != nil && DigestOf(files[i].data) != e.Digest {
			return &CorruptError{Key: m.key, Offset: -1, What: fmt.Sprintf("the content of %q has another digest", e.Path)}
		}
	}
	return nil
}
