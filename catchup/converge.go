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
	// MayPass says that more archived WAL may change that.
	MayPass bool `json:"may_pass,omitzero"`
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

// survey finds out what it takes to converge a directory to one backup after the
// other, the oldest first. What it has found for one serves the next.
type survey struct {
	facts *Facts
	repo  *repo.Repo
	sizes map[repo.Digest]int64 // of the directory's files, by path

	// changes is what the backups' history changed from one position to another.
	changes  *wal.BlockMap
	from, to pg.LSN
}

// convergence finds out what it takes to converge the directory to a candidate.
func (s *survey) convergence(ctx context.Context, c *Candidate) (*Convergence, error) {
	l := s.facts.Local
	out := &Convergence{}
	if out.Lower, out.Closed = l.lowerBound(c.Backup.Start.LSN); out.Closed != "" {
		out.MayPass = l.Unknown == "" && !l.Diverged // with a newer backup
		return out, nil
	}
	if out.Closed = mismatch(&l.control, &c.Backup); out.Closed != "" {
		return out, nil
	}
	if out.Closed = s.facts.NoMaps; out.Closed != "" {
		return out, nil
	}
	var err error
	if out.changes, out.Closed, err = s.changed(ctx, c, out.Lower); err != nil || out.Closed != "" {
		out.MayPass = true
		return out, err
	}
	out.Cost, err = s.cost(ctx, c, out.changes)
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
func (s *survey) changed(ctx context.Context, c *Candidate, lower pg.LSN) (*wal.BlockMap, string, error) {
	l, to := s.facts.Local, c.Backup.Start.LSN
	own := l.reader(s.repo, s.facts.Dir.Path)
	if !l.Diverged {
		// Both are one history; what the directory has past the backup's start
		// counts too.
		to = max(to, l.End)
	}
	m, why, err := s.theirs(ctx, own.along(c.Lineage.History), lower, to)
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

// theirs gives what the backups' history changed from lower to a position. The
// map is the caller's.
func (s *survey) theirs(ctx context.Context, w *walReader, lower, to pg.LSN) (*wal.BlockMap, string, error) {
	m := new(wal.BlockMap)
	from := lower
	if s.changes != nil && s.from == lower && s.to <= to {
		m.Merge(s.changes)
		from = s.to
	}
	if from < to {
		more, why, err := w.changes(ctx, from, to)
		if err != nil || why != "" {
			return nil, why, err
		}
		m.Merge(more)
	}
	s.changes, s.from, s.to = new(wal.BlockMap), lower, to
	s.changes.Merge(m)
	return m, "", nil
}
