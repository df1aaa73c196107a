package archive

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// Completeness says how far a set of changes goes.
type Completeness struct {
	From, To pg.LSN // what was asked for
	// Until is the position before which all changes are known; it is To if
	// nothing is missing, and never past it. Where it is before To, no record
	// begins before it and ends after it, so that a reader of WAL can go on there.
	Until pg.LSN
	Fault *Fault // why Until is before To, nil if it is not
	// FullPageWritesOff says that WAL up to Until was written while
	// full_page_writes was off: a backup taken from a standby meanwhile has torn
	// pages that nothing mends.
	FullPageWritesOff bool
	// Segments and Indexes count what was read: segments in all, and the index
	// objects that stood for many of them.
	Segments, Indexes int
}

// Complete reports whether all changes are known.
func (c *Completeness) Complete() bool { return c.Until >= c.To }

// Changes gives the blocks that WAL of history h changes from one position to
// another, as far as the archive knows. It reads index objects and the segments'
// block maps, never WAL itself (but for a record too large for these), and proves
// on the way that the segments are one unbroken log.
//
// The map holds all changes of records that start from from on and before
// Until. It may hold more: those of the segment that holds from count from its
// beginning, and where Until is before to, so may some behind it.
//
// An archive that does not reach as far is no error: Completeness names the first
// position not covered, and why. An error means that the store did not answer.
func Changes(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize, from, to pg.LSN) (*wal.BlockMap, Completeness, error) {
	done := Completeness{From: from, To: to, Until: to}
	w := &walk{r, h, size}
	j := &joiner{walk: w, changes: new(wal.BlockMap)}
	first, end := size.SegmentOf(from), segmentsEnd(size, to)
	if to <= from || first >= end {
		return j.changes, done, nil
	}
	for s, err := range w.steps(ctx, first, end-1) {
		if err != nil {
			return nil, Completeness{}, fmt.Errorf("read changes from %s to %s: %w", from, to, err)
		}
		if stop, err := done.take(ctx, j, &s, true); stop || err != nil {
			return j.changes, done, err
		}
	}
	// A record that starts before to may go on behind it if to is no record's end.
	for n := end; j.at(to) < to; n++ {
		s, err := w.next(ctx, n)
		if err != nil {
			return nil, Completeness{}, fmt.Errorf("read changes from %s to %s: %w", from, to, err)
		}
		if stop, err := done.take(ctx, j, &s, false); stop || err != nil {
			return j.changes, done, err
		}
	}
	done.FullPageWritesOff = j.fullPageWritesOff
	return j.changes, done, nil
}

// take adds a step, and says whether coverage ends with it.
func (c *Completeness) take(ctx context.Context, j *joiner, s *step, own bool) (stop bool, err error) {
	fault, err := j.add(ctx, s, own)
	if err != nil {
		return true, fmt.Errorf("read changes from %s to %s: %w", c.From, c.To, err)
	}
	if fault != nil {
		if fault.At < c.To {
			c.Until, c.Fault = max(fault.At, c.From), fault
		}
		c.FullPageWritesOff = j.fullPageWritesOff
		return true, nil
	}
	if own {
		c.Segments += len(s.headers)
	}
	if s.indexed {
		c.Indexes++
	}
	return false, nil
}

// segmentsEnd gives the number of the segment behind the last one that holds a
// record before to. A position within a segment's first page header is where its
// first record starts (the redo position after a switch is given so).
func segmentsEnd(size pg.SegmentSize, to pg.LSN) pg.SegmentNumber {
	n := size.SegmentOf(to)
	if size.Offset(to) > wal.SegmentHeaderLen {
		n++
	}
	return n
}

// next reads one segment.
func (w *walk) next(ctx context.Context, n pg.SegmentNumber) (step, error) {
	for s, err := range w.steps(ctx, n, n) {
		return s, err
	}
	return step{}, errors.New("there are no more segments")
}
