package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

// ExpireOptions say how an expiry is carried out. Repo is required.
type ExpireOptions struct {
	Repo   *repo.Repo
	Policy Policy
	// Lineage says whose history is in force.
	Lineage archive.LineageOptions
	Workers int          // requests at the same time; 0 means 8
	Log     *slog.Logger // nil discards
}

// Expired is what an expiry did.
type Expired struct {
	Expiry
	Removed      int   // objects
	RemovedBytes int64 // about
	Condemned    int   // backups, generations and ranges of WAL
	Pardoned     int
	Swept        int // leftovers of the store itself
}

// Expire removes what earlier runs condemned and nobody needs, and condemns
// what the policy does not keep any more. It may be killed at any point and
// repeated at any time, by several at once: each step leaves a repository in
// which every listed backup can be restored. When ctx ends nothing more is
// removed.
func Expire(ctx context.Context, o ExpireOptions) (Expired, error) {
	o = o.withDefaults()
	now, err := o.Repo.StoreTime(ctx)
	if err != nil {
		return Expired{}, fmt.Errorf("expire: %w", err)
	}
	s, err := o.look(ctx, now)
	if err != nil {
		return Expired{}, fmt.Errorf("expire: nothing was changed, for the repository could not be read whole: %w", err)
	}
	x := &sweeper{ExpireOptions: o, Expired: Expired{Expiry: DecideExpiry(s)}}
	for _, step := range []func(context.Context) error{x.pardon, x.fence, x.manifests, x.packs, x.segments, x.tidy, x.condemn} {
		if err := step(ctx); err != nil {
			return x.Expired, fmt.Errorf("expire: %w", because(ctx, err))
		}
	}
	return x.Expired, nil
}

// PlanExpiry says what Expire would do now. It goes by the store's clock as
// Expire does, for which it stores a small object and removes it; where that is
// refused, by this host's.
func PlanExpiry(ctx context.Context, o ExpireOptions) (Expiry, error) {
	o = o.withDefaults()
	now, err := o.Repo.StoreTime(ctx)
	if err != nil {
		o.Log.WarnContext(ctx, "the store does not tell its time, so that this host's clock is gone by", "error", err)
		now = time.Now()
	}
	s, err := o.look(ctx, now)
	if err != nil {
		return Expiry{}, fmt.Errorf("plan an expiry: %w", err)
	}
	return DecideExpiry(s), nil
}

func (o ExpireOptions) withDefaults() ExpireOptions {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Workers = cmp.Or(o.Workers, 8)
	return o
}

// look reads the stock. A manifest that was committed or removed between two
// readings makes another look necessary.
func (o ExpireOptions) look(ctx context.Context, now time.Time) (s *Stock, err error) {
	for range stockTries {
		if s, err = ReadStock(ctx, o.Repo, o.Policy, now, o.Lineage); !errors.Is(err, storage.ErrNotExist) {
			break
		}
	}
	return s, err
}

// stockTries is how often a repository that changes is looked at.
const stockTries = 3

type sweeper struct {
	ExpireOptions
	Expired
	// changed: a backup was pardoned or committed since the stock was read, so
	// that packs may be needed after all.
	changed bool
}

// each calls f for the items with an action, in order.
func (x *sweeper) each(a Action, f func(*ExpiryItem) error, kinds ...string) error {
	for i := range x.Items {
		if it := &x.Items[i]; it.Action == a && slices.Contains(kinds, it.Kind) {
			if err := f(it); err != nil {
				return err
			}
		}
	}
	return nil
}

// removed counts what is gone.
func (x *sweeper) removed(ctx context.Context, it *ExpiryItem) {
	x.Removed += it.Objects
	x.RemovedBytes += it.Bytes
	x.Log.InfoContext(ctx, "removed", "kind", it.Kind, "name", it.Name, "objects", it.Objects, "reason", it.Reason)
}

// pardon takes condemnations back. Where somebody else was faster with the
// removal, that goes on.
func (x *sweeper) pardon(ctx context.Context) error {
	return x.each(Pardon, func(it *ExpiryItem) error {
		for _, c := range x.stock.Condemned {
			if c.Err != nil || c.Subject != it.id.String() || c.Verdict != repo.Undecided {
				continue
			}
			if _, err := x.Repo.Settle(ctx, c, repo.Pardoned); err != nil {
				return err
			}
		}
		x.Pardoned++
		x.Log.InfoContext(ctx, "condemned before, stays after all", "backup", it.Name, "reason", it.Reason)
		return nil
	}, ItemBackup, ItemPending)
}

// fence ends backups whose process is dead or has been paused for long: it can
// never commit any more. Only then do its markers go.
func (x *sweeper) fence(ctx context.Context) error {
	for _, id := range x.dead {
		if slices.ContainsFunc(x.stock.Backups, func(b StockBackup) bool { return b.ID == id }) {
			continue // its packs are kept by its manifest
		}
		fenced, err := x.Repo.Fence(ctx, id)
		if err != nil {
			return err
		}
		x.changed = x.changed || !fenced
	}
	return x.each(Remove, func(it *ExpiryItem) error {
		kind := repo.KeyRunning
		if it.reader {
			kind = repo.KeyReader
		}
		if err := x.Repo.RemoveMarker(ctx, kind, it.id); err != nil {
			return err
		}
		x.removed(ctx, it)
		return nil
	}, ItemMarker)
}

// manifests removes those of backups, which are no longer listed from then on.
func (x *sweeper) manifests(ctx context.Context) error {
	err := x.each(Remove, func(it *ExpiryItem) error {
		if it.committed {
			return x.Repo.RemovePending(ctx, it.id)
		}
		// A process that has proved the packs may be about to commit it.
		fenced, err := x.Repo.Fence(ctx, it.id)
		switch {
		case err != nil:
			return err
		case !fenced:
			x.changed = true
			return nil // it was committed meanwhile; the next run decides anew
		}
		if ok, err := x.claim(ctx, it.id); err != nil || !ok {
			return err
		}
		if err := x.Repo.RemovePending(ctx, it.id); err != nil {
			return err
		}
		x.removed(ctx, it)
		return nil
	}, ItemPending)
	if err != nil {
		return err
	}
	return x.each(Remove, func(it *ExpiryItem) error {
		if ok, err := x.claim(ctx, it.id); err != nil || !ok {
			return err
		}
		if err := x.Repo.Remove(ctx, repo.Key{Kind: repo.KeyManifest, ID: it.id}); err != nil {
			return err
		}
		x.removed(ctx, it)
		return nil
	}, ItemBackup)
}

// claim settles that a backup is removed, and reports false if somebody
// pardoned it.
func (x *sweeper) claim(ctx context.Context, id repo.BackupID) (bool, error) {
	for _, c := range x.stock.Condemned {
		if c.Err != nil || c.Subject != id.String() || c.Verdict == repo.Pardoned {
			continue
		}
		v, err := x.Repo.Settle(ctx, c, repo.Removing)
		if err != nil {
			return false, err
		}
		if v == repo.Removing {
			return true, nil
		}
	}
	x.changed = true
	return false, nil
}

// packs removes packs that no manifest leans on. All their backups are fenced
// before the first one goes, so that no paused process brings a manifest of
// them.
func (x *sweeper) packs(ctx context.Context) error {
	err := x.each(Remove, func(it *ExpiryItem) error {
		if ok, err := x.claim(ctx, it.id); err != nil || !ok {
			return err
		}
		fenced, err := x.Repo.Fence(ctx, it.id)
		x.changed = x.changed || !fenced
		return err
	}, ItemPacks)
	if err != nil {
		return err
	}
	if x.changed {
		x.Log.InfoContext(ctx, "neither packs nor WAL are removed in this run, for a backup was committed or taken back meanwhile")
		return nil
	}
	return x.each(Remove, func(it *ExpiryItem) error {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(x.Workers)
		for _, p := range it.packs {
			g.Go(func() error { return x.Repo.Remove(gctx, repo.Key{Kind: repo.KeyPack, ID: p.Backup, Number: p.Number}) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		x.removed(ctx, it)
		return nil
	}, ItemPacks, ItemStray)
}

// segments removes WAL, the oldest first, after it has said which. What the
// decision did not count on, a backup that stays after all, may need some of it.
func (x *sweeper) segments(ctx context.Context) error {
	if x.changed {
		return nil
	}
	gone := make(archive.SegmentSet)
	_ = x.each(Remove, func(it *ExpiryItem) error {
		gone.Add(it.wal.Incarnation, archive.SegmentRange{First: it.wal.First, Last: it.wal.Last})
		return nil
	}, ItemWAL)
	if len(gone) > 0 {
		if err := archive.NoteExpired(ctx, x.Repo, gone); err != nil {
			return err
		}
	}
	err := x.each(Remove, func(it *ExpiryItem) error {
		if err := x.removeWAL(ctx, it.wal); err != nil {
			return err
		}
		x.removed(ctx, it)
		return nil
	}, ItemWAL)
	if err != nil {
		return err
	}
	for i, ranges := range gone {
		if err := x.removeIndexes(ctx, i, ranges); err != nil {
			return err
		}
	}
	return x.each(Remove, func(it *ExpiryItem) error {
		for _, c := range it.chunks {
			if err := x.Repo.Remove(ctx, c.Key); err != nil {
				return err
			}
		}
		x.removed(ctx, it)
		return nil
	}, ItemChunks)
}

// removeWAL removes a range a thousand objects at a time, so that what a kill
// leaves is whole from some segment on.
func (x *sweeper) removeWAL(ctx context.Context, w WALRange) error {
	var batch []repo.Key
	flush := func() error {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(x.Workers)
		for _, k := range batch {
			g.Go(func() error { return x.Repo.Remove(gctx, k) })
		}
		batch = batch[:0]
		return g.Wait()
	}
	for o, err := range x.Repo.Segments(ctx, w.Incarnation, x.stock.SegmentSize, w.First) {
		if err != nil {
			return errors.Join(err, flush())
		}
		if o.Segment.Number > w.Last {
			break
		}
		if batch = append(batch, o.Key); len(batch) == 1000 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// removeIndexes removes the index objects of groups of which no segment is left.
// Those are looked at from which something was removed just now, or had been
// before.
func (x *sweeper) removeIndexes(ctx context.Context, i repo.Incarnation, removed []archive.SegmentRange) error {
	there := make(map[uint64]bool) // groups that have segments and lost none
	for _, w := range x.stock.WAL {
		if w.Incarnation == i {
			there[repo.GroupOf(w.First)] = true // a span lies in one group
		}
	}
	for _, r := range removed {
		for g := repo.GroupOf(r.First); g <= repo.GroupOf(r.Last); g++ {
			delete(there, g)
		}
	}
	groups, err := x.Repo.WALIndexGroups(ctx, i)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if there[g] {
			continue
		}
		first, err := x.firstFrom(ctx, i, pg.SegmentNumber(g*repo.GroupSegments))
		if err != nil {
			return err
		}
		if first != endless && repo.GroupOf(first) == g {
			continue
		}
		if err := x.Repo.Remove(ctx, repo.Key{Kind: repo.KeyWALIndex, Incarnation: i, Group: g}); err != nil {
			return err
		}
		x.Removed++
	}
	return nil
}

// firstFrom gives the first archived segment from n on, or the last number there
// is.
func (x *sweeper) firstFrom(ctx context.Context, i repo.Incarnation, n pg.SegmentNumber) (pg.SegmentNumber, error) {
	for o, err := range x.Repo.Segments(ctx, i, x.stock.SegmentSize, n) {
		return o.Segment.Number, err
	}
	return endless, nil
}

// tidy removes what is left of things that are gone.
func (x *sweeper) tidy(ctx context.Context) error {
	err := x.each(Remove, func(it *ExpiryItem) error {
		k := it.key
		if it.Kind == ItemTombstone {
			k = repo.Key{Kind: repo.KeyManifest, ID: it.id}
		}
		if err := x.Repo.Remove(ctx, k); err != nil {
			return err
		}
		x.removed(ctx, it)
		return nil
	}, ItemTombstone, ItemQuarantine, ItemEvent)
	if err != nil {
		return err
	}
	for _, id := range x.done {
		if err := x.Repo.ForgetCondemnation(ctx, id); err != nil {
			return err
		}
	}
	x.Swept, err = x.Repo.SweepStore(ctx)
	return err
}

// condemn says what a later run may remove.
func (x *sweeper) condemn(ctx context.Context) error {
	err := x.each(Condemn, func(it *ExpiryItem) error {
		if err := x.Repo.Condemn(ctx, repo.Condemnation{Subject: it.id.String(), Reason: it.Reason}); err != nil {
			return err
		}
		x.Condemned++
		x.Log.InfoContext(ctx, "condemned", "kind", it.Kind, "name", it.Name, "reason", it.Reason)
		return nil
	}, ItemBackup, ItemPending, ItemPacks)
	if err != nil || len(x.wal) == 0 {
		return err
	}
	x.Condemned += len(x.wal)
	return x.Repo.Condemn(ctx, repo.Condemnation{Subject: subjectWAL, Reason: "no backup that stays needs it, nor the recovery window", Data: walData(x.wal)})
}
