package catchup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"
)

// removers is how many files of WAL are removed at a time: a kernel needs a while
// to let go of what it has cached of each.
const removers = 4

// besideWAL brings the files of the backup. Old WAL is saved and removed meanwhile,
// if there is room for both.
func (r *runner) besideWAL(ctx context.Context, bring func(context.Context) error) error {
	wal := filepath.Join(r.dir(), "pg_wal")
	if to, err := filepath.EvalSymlinks(wal); err == nil {
		wal = to
	}
	free, _ := room(wal)
	if need := r.plan.rung(r.plan.Choice).Write; need == 0 || free < need+size(wal) {
		if err := r.leaveWAL(ctx); err != nil {
			return err
		}
		return bring(ctx)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.leaveWAL(ctx) })
	g.Go(func() error { return bring(ctx) })
	return g.Wait()
}

// leaveWAL saves the WAL that only old data has, and then removes all of it, with
// the directories that are not the cluster's any more.
func (r *runner) leaveWAL(ctx context.Context) error {
	if err := r.saveWAL(ctx); err != nil {
		return err
	}
	r.step("saved")
	dirs := []string{filepath.Join(r.dir(), "pg_wal")}
	if info, err := os.Lstat(dirs[0]); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		dirs = nil // where it leads is a place of its own
	}
	for _, p := range r.plan.Places {
		if p.OID == 0 {
			dirs = append(dirs, p.Path)
		}
	}
	for _, dir := range dirs {
		if err := r.emptyWAL(ctx, dir); err != nil {
			return fmt.Errorf("remove old WAL: %w", err)
		}
	}
	if err := r.leavePlaces(r.state.Old); err != nil {
		return err
	}
	r.step("left")
	return nil
}

// emptyWAL removes all from a directory of WAL but the directories that a backup
// has too. The marks go after the files that they are about: a segment without one
// would seem to be what was being written when the server stopped.
func (r *runner) emptyWAL(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	g := errgroup.Group{}
	g.SetLimit(removers)
	var last []string
	for _, e := range entries {
		own := filepath.Join(dir, e.Name())
		switch {
		case e.Name() == markerName:
		case e.IsDir() && slices.Contains(walDirs, e.Name()):
			last = append(last, own)
		default:
			g.Go(func() error {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return os.RemoveAll(own)
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, own := range last {
		if err := removeBelow(own); err != nil {
			return err
		}
	}
	return r.files.SyncDir(dir)
}

// walDirs are the directories in pg_wal that a server makes (xlogarchive.c,
// walsummarizer.c).
var walDirs = []string{"archive_status", "summaries"}

// leavePlaces empties the directories that old data had and that are not coming
// back: those of tablespaces, and where pg_wal led to. The latter itself stays,
// for somebody has made it for the server.
func (r *runner) leavePlaces(old []Place) error {
	for _, p := range old {
		if slices.ContainsFunc(r.plan.Places, func(n Place) bool { return n.Path == p.Path }) {
			continue
		}
		if err := removeBelow(p.Path); err != nil {
			return fmt.Errorf("empty %s: %w", p.Path, err)
		}
		if p.OID == 0 {
			continue
		}
		if err := r.files.Remove(p.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove tablespace directory: %w", err)
		}
	}
	return nil
}
