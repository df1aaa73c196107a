package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

// ReadStock takes the snapshot. The order of the readings is part of the
// argument why nothing that is in use is removed:
//
//	packs      a pack that is seen was preceded by its backup's marker
//	markers    one that is not there any more was followed by a manifest
//	pending    one that is not there any more was followed by a manifest
//	manifests
//	events     the newest word about pins and condemnations
//
// A listing that fails is an error: nothing is decided on a part of it. now is
// the store's time.
func ReadStock(ctx context.Context, r *repo.Repo, p Policy, now time.Time, l archive.LineageOptions) (*Stock, error) {
	s := &Stock{Now: now, Policy: p.withDefaults(), Fences: make(map[repo.BackupID]time.Time)}
	var err error
	if s.Packs, err = r.StoredPacks(ctx); err != nil {
		return nil, err
	}
	if err := s.readWAL(ctx, r, l); err != nil {
		return nil, err
	}
	if s.Running, err = r.RunningBackups(ctx); err != nil {
		return nil, err
	}
	s.Gone = make(map[repo.BackupID]bool)
	host, _ := os.Hostname() // unknown it is none of the markers' hosts
	for _, m := range s.Running {
		s.Gone[m.ID] = m.Err == nil && goneFrom(m.Marker, host)
	}
	if s.Readers, err = r.Readers(ctx); err != nil {
		return nil, err
	}
	pending, err := r.Pending(ctx)
	if err != nil {
		return nil, err
	}
	committed, err := r.Backups(ctx)
	if err != nil {
		return nil, err
	}
	fences, err := r.Fences(ctx)
	if err != nil {
		return nil, err
	}
	for id, o := range fences {
		s.Fences[id] = o.Modified
	}
	if err := s.open(ctx, r, pending, committed); err != nil {
		return nil, err
	}
	return s, s.readEvents(ctx, r)
}

// open reads what the manifests lean on. One that is gone since it was listed
// was committed or removed by somebody else; nothing is decided then.
func (s *Stock) open(ctx context.Context, r *repo.Repo, pending, committed []repo.Listed) error {
	add := func(l repo.Listed, pending bool) {
		if l.ID.IsZero() {
			// Not even the key is one: it leans on nothing that could be told,
			// so that it blocks.
			s.Backups = append(s.Backups, StockBackup{Err: l.Err, Stored: l.Object.Modified, Pending: pending})
			return
		}
		s.Backups = append(s.Backups, StockBackup{ID: l.ID, Pending: pending, Stored: l.Object.Modified, Size: l.Object.Size})
	}
	for _, l := range pending {
		add(l, true)
	}
	for _, l := range committed {
		add(l, false)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(headerReads)
	for i := range s.Backups {
		b := &s.Backups[i]
		if b.ID.IsZero() {
			continue
		}
		g.Go(func() error {
			open := r.OpenManifest
			if b.Pending {
				open = r.OpenPending
			}
			m, err := open(gctx, b.ID)
			switch {
			case err == nil:
				b.Backup, b.Packs = &m.Backup, m.Packs
			case errors.Is(err, repo.ErrCorrupt), errors.Is(err, repo.ErrVersion):
				b.Err = err
			default:
				return fmt.Errorf("read the manifest of backup %s: %w", b.ID, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	slices.SortStableFunc(s.Backups, func(a, b StockBackup) int { return cmp.Compare(a.ID, b.ID) })
	return storage.ContextError(ctx)
}

func (s *Stock) readEvents(ctx context.Context, r *repo.Repo) error {
	events, err := r.Events(ctx)
	if err != nil {
		return err
	}
	if s.Marks, err = marks(events); err != nil {
		return err
	}
	for _, e := range events {
		if e.Err == nil && (e.Kind == eventPin || e.Kind == eventAnnotation || e.Kind == eventVerify || e.Kind == repo.EventClock) {
			s.Said = append(s.Said, e)
		}
	}
	if s.Condemned, err = r.Condemnations(ctx); err != nil {
		return err
	}
	if s.Quarantine, err = r.Quarantine(ctx); err != nil {
		return err
	}
	s.Acknowledged = make(map[string]bool)
	for _, a := range archive.AlarmsOf(events) {
		if a.Acknowledged && a.Key != "" {
			s.Acknowledged[a.Key] = true
		}
	}
	return nil
}

// errLeaderUnknown: the cluster has a DCS, and it did not say which history its
// leader is on.
var errLeaderUnknown = errors.New("the leader's history is not known from the DCS")

// readWAL lists the archive.
func (s *Stock) readWAL(ctx context.Context, r *repo.Repo, l archive.LineageOptions) error {
	var err error
	if s.Histories, err = histories(ctx, r); err != nil {
		return err
	}
	if s.SegmentSize, err = archive.SegmentSize(ctx, r); errors.Is(err, fs.ErrNotExist) {
		s.SegmentSize = 0
		return nil
	} else if err != nil {
		return err
	}
	if s.Lineage, err = archive.ResolveLineage(ctx, r, l); err != nil {
		var ambiguous *archive.AmbiguousError
		if !errors.As(err, &ambiguous) && !errors.Is(err, archive.ErrNoHistory) {
			return err
		}
		s.Lineage, s.LineageError = archive.Lineage{}, err
	}
	if l.Leader != nil && s.LineageError == nil && s.Lineage.Source != archive.SourceLeader {
		// Reading may follow what the repository says; what is removed is gone.
		s.Lineage, s.LineageError = archive.Lineage{}, errLeaderUnknown
	}
	incarnations, err := r.Incarnations(ctx)
	if err != nil {
		return err
	}
	for _, i := range incarnations {
		for o, err := range r.Segments(ctx, i, s.SegmentSize, 0) {
			if err != nil {
				return err
			}
			s.addWAL(i, &o)
		}
	}
	streams, err := r.StreamIncarnations(ctx)
	if err != nil {
		return err
	}
	for _, i := range streams {
		chunks, err := r.AllChunks(ctx, i, s.SegmentSize)
		if err != nil {
			return err
		}
		s.Chunks = append(s.Chunks, chunks...)
	}
	return nil
}

// addWAL takes the next object of a listing in order.
func (s *Stock) addWAL(i repo.Incarnation, o *repo.WALObject) {
	n, k := o.Segment.Number, len(s.WAL)
	partial := o.Key.WAL.Partial || o.Key.WAL.Backup
	if k > 0 && s.WAL[k-1].Incarnation == i && s.WAL[k-1].Last == n {
		// A segment comes before what is named after it.
		partial = s.WAL[k-1].Partial
	}
	if k == 0 || s.WAL[k-1].Incarnation != i || s.WAL[k-1].Last+1 < n || s.WAL[k-1].Partial != partial || repo.GroupOf(s.WAL[k-1].Last) != repo.GroupOf(n) {
		s.WAL = append(s.WAL, WALSpan{Incarnation: i, First: n, Partial: partial})
	}
	w := &s.WAL[len(s.WAL)-1]
	w.Last = n
	w.Objects++
	w.Bytes += o.Object.Size
	if o.Object.Modified.After(w.Newest) {
		w.Newest = o.Object.Modified
	}
}

// histories reads every archived history, and adds timeline 1, which has no
// file.
func histories(ctx context.Context, r *repo.Repo) (map[repo.Incarnation]pg.History, error) {
	l := &lineages{repo: r}
	all, err := l.all(ctx)
	if err != nil {
		return nil, err
	}
	out := map[repo.Incarnation]pg.History{repo.IncarnationOf(pg.FirstTimeline()): pg.FirstTimeline()}
	for _, h := range all {
		out[repo.IncarnationOf(h)] = h
	}
	return out, nil
}
