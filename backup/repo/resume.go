package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pgtender/pgtender/backup/storage"
)

// ErrNotResumable means that a backup that was begun cannot be gone on with: it
// is complete, given up or damaged. Another id has to be taken.
var ErrNotResumable = errors.New("the backup cannot be gone on with")

// StoredRun is a frame of contiguous pages that a backup has stored.
type StoredRun struct {
	File  uint32
	Frame Frame
	Bytes int // raw
}

// Resume goes on with a backup that a run began which is dead, and did not
// commit: the packs that it stored are the new writer's too. It also gives the
// runs in them, ascending by file and page; whether they hold what the backup is
// to hold is for the caller to know. Only the indexes are read, for what is
// stored was checked when it was written.
//
// The caller's marker names the backup and is stored already: see Heartbeat. Two
// writers of one id at the same time spoil each other's work, but no backup: all
// puts but the first of a key fail. Where the store cannot promise that, nothing
// is gone on with.
func (r *Repo) Resume(ctx context.Context, id BackupID, opts WriteOptions) (*Writer, []StoredRun, error) {
	if err := r.resumable(ctx, id); err != nil {
		return nil, nil, fmt.Errorf("go on with backup %s: %w", id, err)
	}
	w, err := r.Create(ctx, id, opts)
	if err != nil {
		return nil, nil, err
	}
	runs, err := w.adopt(ctx)
	if err != nil {
		w.Close()
		if errors.Is(err, ErrCorrupt) {
			err = fmt.Errorf("%w: %w", ErrNotResumable, err)
		}
		return nil, nil, fmt.Errorf("go on with backup %s: %w", id, err)
	}
	return w, runs, nil
}

func (r *Repo) resumable(ctx context.Context, id BackupID) error {
	if atomic, err := storage.ConditionalPut(ctx, r.store); err != nil {
		return err
	} else if !atomic {
		return fmt.Errorf("%w: the store cannot put an object only if it is absent", ErrNotResumable)
	}
	if err := r.CheckCondemned(ctx, id); errors.Is(err, ErrCondemned) {
		return fmt.Errorf("%w: %w", ErrNotResumable, err)
	} else if err != nil {
		return err
	}
	for _, kind := range []KeyKind{KeyManifest, KeyPending} { // or a tombstone
		key := r.Key(Key{Kind: kind, ID: id})
		for o, err := range r.store.List(ctx, key, "") {
			if err != nil {
				return fmt.Errorf("list %s: %w", key, err)
			}
			if o.Key == key {
				return fmt.Errorf("%w: %s exists", ErrNotResumable, key)
			}
		}
	}
	return nil
}

// adopt takes over what is stored under the writer's id.
func (w *Writer) adopt(ctx context.Context) (runs []StoredRun, err error) {
	prefix := fmt.Sprintf("%s%s/%s/", w.repo.prefix, KeyPack, w.id)
	last := uint32(0)
	for o, err := range w.repo.store.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		k, err := ParseKey(o.Key)
		if err != nil {
			return nil, &CorruptError{Key: o.Key, Offset: -1, What: err.Error()}
		}
		pack := Pack{PackRef{w.id, k.Number}, o.Size}
		index, err := w.repo.ReadPackIndex(ctx, pack)
		if err == nil && index.BlockSize != w.blockSize {
			err = &CorruptError{Key: o.Key, Offset: -1, What: fmt.Sprintf("block size %d, not %d", index.BlockSize, w.blockSize)}
		}
		if err != nil {
			return nil, err
		}
		for i := range index.Frames {
			f := &index.Frames[i]
			w.raw.Add(int64(f.Raw))
			if f.Kind == FrameRun {
				frame := Frame{Place: Place{Pack: k.Number, Offset: f.Offset, Length: f.Length}, First: f.First, Count: f.Count}
				runs = append(runs, StoredRun{File: f.File, Frame: frame, Bytes: int(f.Raw)})
			}
		}
		w.frames.Add(int64(len(index.Frames)))
		w.packs = append(w.packs, pack) // nobody else has the writer yet
		last = max(last, k.Number)
	}
	w.number.Store(last)
	slices.SortFunc(runs, func(a, b StoredRun) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Frame.First, b.Frame.First))
	})
	return runs, nil
}
