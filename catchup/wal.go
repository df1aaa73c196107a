package catchup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// fetchWAL fills pg_wal: the histories of all timelines that recovery follows,
// so that it cannot wander off, and for a replica the WAL from the backup's
// start to its end, so that its first start does not depend on the archive. A
// start that fails makes Patroni recover the directory as a primary's, which
// would spoil it.
func (r *runner) fetchWAL(ctx context.Context) error {
	dir, err := r.makeWAL()
	if err != nil {
		return err
	}
	if err := r.histories(ctx, dir); err != nil {
		return err
	}
	if r.plan.Purpose != Replica {
		return nil
	}
	b := &r.plan.Backup
	first, last := b.SegmentSize.SegmentOf(b.Start.LSN), b.SegmentSize.SegmentBefore(b.Stop.LSN)
	r.meter.phase(PhaseWAL, int64(last-first+1)*int64(b.SegmentSize))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.opts.Workers)
	for n := first; n <= last; n++ {
		seg := pg.Segment{Timeline: archive.SegmentTimeline(r.plan.Lineage.History, b.SegmentSize, n), Number: n}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if err := r.segment(ctx, filepath.Join(dir, seg.Name(b.SegmentSize))); err != nil {
				return err
			}
			r.meter.add(int64(b.SegmentSize))
			return nil
		})
	}
	r.result.Segments = int(last - first + 1)
	return g.Wait()
}

// makeWAL makes pg_wal, and gives its path: in the stage, or where it leads.
func (r *runner) makeWAL() (string, error) {
	dir := r.at("pg_wal")
	if r.plan.WALLink != "" {
		if err := relink(r.plan.WALLink, dir); err != nil {
			return "", fmt.Errorf("make pg_wal: %w", err)
		}
		dir = r.plan.WALLink
	}
	for _, sub := range []string{"", "archive_status"} {
		if err := r.files.MkdirAll(filepath.Join(dir, sub), r.tree.mode); err != nil {
			return "", fmt.Errorf("make pg_wal: %w", err)
		}
	}
	return dir, nil
}

// segment fetches one segment, unless an earlier run did.
func (r *runner) segment(ctx context.Context, dest string) error {
	b := &r.plan.Backup
	if info, err := os.Stat(dest); err == nil && info.Size() == int64(b.SegmentSize) {
		return r.archived(dest) // it had its name only when it was whole and synced
	}
	name := filepath.Base(dest)
	fetched := filepath.Join(filepath.Dir(dest), "."+name+".fetched.pgtender-tmp") // one that sweep knows
	err := archive.Get(ctx, r.opts.Repo, archive.GetOptions{
		Name: name, Dest: fetched, SegmentSize: b.SegmentSize, Log: r.log,
		Lineage: func(context.Context) (archive.Lineage, error) { return r.plan.Lineage, nil },
	})
	if err != nil {
		return err
	}
	if err := r.files.SyncFile(fetched); err != nil {
		return fmt.Errorf("fetch %s: %w", name, err)
	}
	if err := r.files.Rename(fetched, dest); err != nil {
		return fmt.Errorf("fetch %s: %w", name, err)
	}
	return r.archived(dest)
}

// archived marks a file of pg_wal as archived, so that a primary to be does
// not push it again.
func (r *runner) archived(path string) error {
	mark := filepath.Join(filepath.Dir(path), "archive_status", filepath.Base(path)+".done")
	if err := r.files.WriteFile(mark, nil, 0o600); err != nil {
		return fmt.Errorf("mark as archived: %w", err)
	}
	return nil
}

// histories puts the history files of the timeline to be followed and of its
// ancestors into pg_wal, as they were archived. One that is not archived yet,
// as it may be after a failover, is written as the leader has it.
func (r *runner) histories(ctx context.Context, dir string) error {
	h := r.plan.Lineage.History
	timelines := []pg.Timeline{h.Timeline}
	for _, f := range h.Forks {
		timelines = append(timelines, f.Parent)
	}
	for _, t := range timelines {
		own, ok := archive.Ancestor(h, t)
		if !ok || len(own.Forks) == 0 {
			continue // the first timeline has none
		}
		_, content, err := r.opts.Repo.History(ctx, repo.IncarnationOf(own))
		known := err == nil
		if errors.Is(err, os.ErrNotExist) {
			content, err = own.Encode(), nil
		}
		if err != nil {
			return fmt.Errorf("fetch history of timeline %s: %w", t, err)
		}
		path := filepath.Join(dir, pg.HistoryName(t))
		if err := r.files.WriteFile(path, content, 0o600); err != nil {
			return fmt.Errorf("fetch history of timeline %s: %w", t, err)
		}
		if known {
			if err := r.archived(path); err != nil {
				return err
			}
		}
	}
	return nil
}
