package catchup

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// cost finds out what the pages that changes names cost, through the backup's
// page maps. Files that are compared before they are fetched count as fetched.
func (s *survey) cost(ctx context.Context, c *Candidate, changes *wal.BlockMap) (Cost, error) {
	m, err := s.repo.OpenManifest(ctx, c.ID)
	if err != nil {
		return Cost{}, fmt.Errorf("open backup %s: %w", c.ID, err)
	}
	f := s.facts
	t, err := openInPlace(f.Dir.Path, "", f.places(&c.Backup), &c.Backup)
	if err != nil {
		return Cost{}, err
	}
	defer t.close()
	t.sizes = s.sizes
	d, err := newDelta(t, &c.Backup, f.Local.control.RelSegBlocks, changes, nil)
	if err != nil {
		return Cost{}, err
	}
	out := Cost{Requests: int64(len(m.Packs)/4096 + 2)}
	for request, err := range m.Requests(m.Locate(ctx, d.wants(m.Entries(ctx), &out)), repo.FetchOptions{}) {
		if err != nil {
			return Cost{}, fmt.Errorf("cost backup %s: %w", c.ID, err)
		}
		_, length := repo.Span(request)
		out.Fetch += int64(length)
		out.Requests++
	}
	return out, nil
}

// wants gives what would be fetched, and counts what would be written.
func (d *delta) wants(entries iter.Seq2[repo.Entry, error], c *Cost) iter.Seq2[repo.Want, error] {
	return func(yield func(repo.Want, error) bool) {
		for e, err := range entries {
			if err != nil {
				yield(repo.Want{}, err)
				return
			}
			if e.Dir || notRestored(e.Path) {
				continue
			}
			s := d.of(&e)
			if s.kind == stepKeep || s.kind == stepPages && s.want == 0 && s.size == e.Size {
				continue
			}
			c.Write += s.want
			if s.kind == stepPages {
				c.Pages += s.want / d.blockSize
			}
			if s.want > 0 && !yield(repo.Want{Tag: int64(e.File), Entry: e, Pages: s.wanting()}, nil) {
				return
			}
		}
	}
}

// notRestored reports whether a file of a backup has no place in any directory:
// what a run left on the source, which was a member once, and what decides how a
// server starts.
func notRestored(path string) bool {
	return slices.Contains(strings.Split(path, "/"), workName) || isSignal(path)
}

// What a plan's seconds rest on. They only have to be right about which way is
// the shorter one.
const (
	fetchRate    = 100 << 20 // bytes a second from the repository
	writeRate    = 200 << 20
	readRate     = 400 << 20 // from the local disk
	replayRate   = 30 << 20  // of archived WAL, as stored
	requestTime  = 30 * time.Millisecond
	parallelism  = 8
	startingTime = 2 * time.Second
)

// estimate fills in how long a rung takes, with so many bytes read from the
// directory itself.
func (r *Rung) estimate(read int64) {
	seconds := float64(r.Fetch)/fetchRate + float64(r.Write)/writeRate + float64(read)/readRate + float64(r.Replay)/replayRate +
		float64(r.Requests)*requestTime.Seconds()/parallelism + startingTime.Seconds()
	r.exact, r.Seconds = seconds, int64(seconds+0.5)
}
