package catchup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// audit proves that no change was overlooked: a page that is kept has not been
// changed since the lower bound, and says so in its header. Nothing has been
// touched yet.
func (r *runner) audit(ctx context.Context) error {
	if r.plan.Choice != ByMaps || !r.opts.Audit {
		return nil
	}
	t, err := openInPlace(r.dir(), "", r.plan.Places, &r.plan.Backup)
	if err != nil {
		return err
	}
	defer t.close()
	d, err := newDelta(t, &r.plan.Backup, r.plan.Local.control.RelSegBlocks, r.plan.converge.changes, nil)
	if err != nil {
		return err
	}
	r.meter.phase(PhaseAudit, r.plan.Dir.Used)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.opts.Workers)
	for e, err := range r.manifest.Entries(ctx) {
		if err != nil {
			if failed := g.Wait(); failed != nil {
				return failed // it ended the listing
			}
			return fmt.Errorf("list backup %s: %w", r.plan.Backup.ID, err)
		}
		if e.Dir || notRestored(e.Path) {
			continue
		}
		if s := d.of(&e); s.kind == stepPages {
			g.Go(func() error { return r.auditFile(ctx, t, d, &e, &s) })
		}
	}
	return g.Wait()
}

func (r *runner) auditFile(ctx context.Context, t *tree, d *delta, e *repo.Entry, s *step) (err error) {
	f, err := t.open(e.Path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, 128*d.blockSize)
	end := min(s.size/d.blockSize, pagesOf(e.Size, d.blockSize))
	for first := int64(0); first < end; first += 128 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		pages := buf[:min(128, end-first)*d.blockSize]
		if _, err := io.ReadFull(io.NewSectionReader(f, first*d.blockSize, int64(len(pages))), pages); err != nil {
			return fmt.Errorf("audit %s: %w", e.Path, err)
		}
		r.meter.add(int64(len(pages)))
		for i := int64(0); i*d.blockSize < int64(len(pages)); i++ {
			page := pg.Page(pages[i*d.blockSize:][:d.blockSize])
			if !s.wanted(uint32(first+i)) && changedSince(page, r.plan.Lower) {
				return doubt(fmt.Errorf("page %d of %s was changed at %s, which the block maps from %s on do not tell", first+i, e.Path, page.LSN(), r.plan.Lower))
			}
		}
	}
	return nil
}

// changedSince reports whether a page says that a record changed it which began
// at the lower bound or later.
//
// A page's LSN is the end of the last record about it. The record that ends
// where the bound lies began before it, as to a server that decides by the same
// comparison whether a page is unchanged since its redo point
// (XLogCheckBufferNeedsBackup, xloginsert.c).
//
// Low numbers that are no position are old as well: a page has 0 that was
// initialised and never logged (lazy_scan_new_or_empty, vacuumlazy.c), or filled
// while wal_level was minimal, and 1 if an index build filled it then
// (GistBuildLSN, gist.h). Neither is done without a record while WAL is complete,
// and where it was not the block maps are closed.
func changedSince(page pg.Page, lower pg.LSN) bool { return !page.Zero() && page.LSN() > lower }
