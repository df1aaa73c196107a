package catchup

import (
	"context"
	"fmt"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// Convergence is what making the directory one backup's image takes, by block
// maps.
type Convergence struct {
	Closed string `json:"closed,omitempty"` // why it cannot be done
	// Lower is the position from which on changes of both branches count.
	Lower pg.LSN `json:"lower,omitzero"`
	Cost  Cost   `json:"cost,omitzero"`

	changes *wal.BlockMap // of both branches
}

// Cost is what is read from the repository and written.
type Cost struct {
	Fetch    int64 `json:"fetch_bytes"` // as stored
	Requests int64 `json:"requests"`
	Write    int64 `json:"write_bytes"`
	Pages    int64 `json:"pages"` // of relations
}

// convergence finds out what it takes to converge the directory to a candidate.
func (f *Facts) convergence(ctx context.Context, r *repo.Repo, c *Candidate) (*Convergence, error) {
	l := f.Local
	out := &Convergence{}
	if out.Lower, out.Closed = l.lowerBound(c.Backup.Start.LSN); out.Closed != "" {
		return out, nil
	}
	if out.Closed = mismatch(&l.control, &c.Backup); out.Closed != "" {
		return out, nil
	}
	if out.Closed = f.NoMaps; out.Closed != "" {
		return out, nil
	}
	var err error
	if out.changes, out.Closed, err = f.changed(ctx, r, c, out.Lower); err != nil || out.Closed != "" {
		return out, err
	}
	out.Cost, err = f.cost(ctx, r, c, out.changes)
	return out, err
}

// mismatch says why the pages of a directory and those of a backup are not of
// one kind.
func mismatch(c *pg.Control, b *repo.Backup) string {
	switch {
	case c.CatalogVersion != b.CatalogVersion || c.ControlVersion != b.ControlVersion:
		return fmt.Sprintf("the directory has catalog version %d, the backup %d", c.CatalogVersion, b.CatalogVersion)
	case c.SegmentSize != b.SegmentSize || int(c.BlockSize) != b.BlockSize:
		return "the directory has other block or WAL segment sizes than the backup"
	case c.DataChecksumVersion != b.ChecksumVersion:
		// pg_checksums rewrites every page without WAL.
		return "page checksums are on in one of directory and backup only"
	}
	return ""
}

// changed gives what either branch changed since lower: the directory's own up
// to its end, the backup's up to its start.
func (f *Facts) changed(ctx context.Context, r *repo.Repo, c *Candidate, lower pg.LSN) (*wal.BlockMap, string, error) {
	l, start := f.Local, c.Backup.Start.LSN
	own := l.reader(r, f.Dir.Path)
	theirs := own.along(c.Lineage.History)
	to := start
	if !l.Diverged {
		// Both are one history; what the directory has past the backup's start
		// counts too.
		to = max(start, l.End)
	}
	m, why, err := theirs.changes(ctx, lower, to)
	if err != nil || why != "" || !l.Diverged {
		return m, why, err
	}
	if lower < l.own.from {
		before, why, err := own.changes(ctx, lower, l.own.from)
		if err != nil || why != "" {
			return nil, why, err
		}
		m.Merge(before)
	}
	m.Merge(l.own.changes)
	return m, "", nil
}
