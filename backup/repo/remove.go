package repo

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
)

// OpenPending is [Repo.OpenManifest] of a pending backup.
func (r *Repo) OpenPending(ctx context.Context, id BackupID) (*Manifest, error) {
	return r.openManifest(ctx, KeyPending, id)
}

// StoredPacks lists all packs by the backup that wrote them, ascending by
// number, whether a manifest names them or not. Memory: 24 bytes a pack.
func (r *Repo) StoredPacks(ctx context.Context) (map[BackupID][]Pack, error) {
	out := make(map[BackupID][]Pack)
	for o, err := range r.store.List(ctx, r.prefix+"pack/", "") {
		if err != nil {
			return nil, fmt.Errorf("list packs of %s: %w", r.cluster, err)
		}
		k, err := ParseKey(o.Key)
		if err != nil {
			return nil, &CorruptError{Key: o.Key, Offset: -1, What: err.Error()}
		}
		out[k.ID] = append(out[k.ID], Pack{PackRef{k.ID, k.Number}, o.Size})
	}
	return out, nil
}

// Remove removes one object for good. Whether it may go is the caller's to
// know: see docs/architecture.md for what has to be true. One that is not there
// is not an error.
func (r *Repo) Remove(ctx context.Context, k Key) error {
	if err := storage.ContextError(ctx); err != nil {
		return err
	}
	key := r.Key(k)
	if err := r.store.Delete(ctx, key); err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	return nil
}

// WALIndexGroups lists the groups of an incarnation that have an index,
// ascending.
func (r *Repo) WALIndexGroups(ctx context.Context, i Incarnation) ([]uint64, error) {
	var out []uint64
	prefix := r.prefix + "walindex/" + i.String() + "/"
	for o, err := range r.store.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		g, err := strconv.ParseUint(strings.TrimPrefix(o.Key, prefix), 16, 56)
		if err != nil {
			return nil, &CorruptError{Key: o.Key, Offset: -1, What: err.Error()}
		}
		out = append(out, g)
	}
	return out, nil
}

// SweepStore removes what killed writers left behind in the store itself, older
// than a day, and says how many there were.
func (r *Repo) SweepStore(ctx context.Context) (int, error) {
	n, err := storage.Sweep(ctx, r.store, sweepAge)
	if err != nil {
		return n, fmt.Errorf("remove unfinished uploads: %w", err)
	}
	return n, nil
}

// Persist makes sure that an object which was found in the store is there for good:
// see [storage.Persist].
func (r *Repo) Persist(ctx context.Context, key string) error {
	if err := storage.Persist(ctx, r.store, key); err != nil {
		return fmt.Errorf("make sure that it stays: %w", err)
	}
	return nil
}

// sweepAge is longer than any upload takes.
const sweepAge = 24 * time.Hour
