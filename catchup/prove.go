package catchup

import (
	"context"
	"fmt"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// proveWAL makes sure that archived WAL is one unbroken log from one position to
// another. A listing knows names only; this reads what each segment says of
// itself, 256 at a time where the archive has an index. The result is why it is
// not, "" if it is.
func proveWAL(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize, from, to pg.LSN) (string, error) {
	for from < to {
		_, done, err := archive.Changes(ctx, r, h, size, from, to)
		if err != nil {
			return "", err
		}
		switch f := done.Fault; {
		case f == nil:
			return "", nil
		case f.Kind == archive.FaultMissing && size.Start(f.Segment.Number) >= to:
			// All that is asked for is there. The last record in it goes on behind
			// it, as the last record of most segments does, and is read again from
			// its segment on by whoever streams the rest from the leader.
			return "", nil
		case f.Kind == archive.FaultUntracked:
			// Recovery gets past it, although no block map does.
			from = size.Start(f.Segment.Number + 1)
		default:
			return fmt.Sprintf("the archived WAL ends at %s, although later segments are listed: %v", f.At, f.Err), nil
		}
	}
	return "", nil
}
