package receive_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/receive"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestNothingIsStreamedIntoAnotherClustersPart: a copy of a cluster that went on on
// its timeline writes other WAL under the same names. Not even a chunk of it may come
// into the cluster's part, or a restore would end in the copy's WAL.
func TestNothingIsStreamedIntoAnotherClustersPart(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{WALSegSize: 1})
	s := newSite(t, c)
	begin := segSize.Start(segSize.SegmentOf(flushed(t, c)))
	opts := options(s.repo, s.leader, s.spool, nil)
	opts.Push.CheckOwner = func(context.Context) error { return archive.ErrForeignOwner }
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("it went on"))
	defer cancel()
	opts.Stored = func(at pg.Pos) {
		t.Errorf("stored up to %s", at.LSN)
		cancel()
	}
	if err := receive.Run(ctx, opts); !errors.Is(err, archive.ErrForeignOwner) {
		t.Errorf("it ended with %v", err)
	}
	if end := s.end(pg.FirstTimeline(), begin); end > begin {
		t.Errorf("the repository leads to %s", end)
	}
}
