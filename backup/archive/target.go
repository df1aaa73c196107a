package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// Target is a point at which recovery is to stop; exactly one of the fields but
// Exclusive is set. The rules are PostgreSQL's (recoveryStopsBefore and
// recoveryStopsAfter, xlogrecovery.c).
type Target struct {
	Time time.Time // the first transaction that ended after it
	XID  uint32    // the end of this transaction
	Name string    // a restore point
	LSN  pg.LSN    // the first record at or past it
	// Exclusive is recovery_target_inclusive = off: for Time, a transaction
	// that ended exactly then stops recovery too.
	Exclusive bool
}

// Reached is what a search for a target found.
type Reached struct {
	// Found says that the archive holds the record at which recovery stops.
	// Without one a server that is told to recover to the target refuses to
	// come up (from 13 on).
	Found bool
	Start pg.LSN // of that record
	// End is the end of that record, or the position at which archived WAL
	// ends.
	End      pg.LSN
	Timeline pg.Timeline // of the WAL before End
	// Newest is the newest end of a transaction up to End, zero if there was
	// none since the search began.
	Newest time.Time
	// Why says what stands at End if the target was not found: the next
	// segment is not archived, or WAL itself ends there. It is nil if more has
	// been archived since the search began.
	Why error
}

// FindTarget follows the history of c through the archive, from a position on,
// until it meets the record that t speaks of, or comes to where c ends: what has
// been archived since c was read is not looked at, or the search would never
// end on a busy cluster. It reads and decodes all WAL on the way, at some hundred
// MB/s; memory is one segment. A damaged object or a store that does not answer
// is an error.
func FindTarget(ctx context.Context, r *repo.Repo, size pg.SegmentSize, c RestoreCover, from pg.LSN, t Target) (Reached, error) {
	out := Reached{End: from}
	last, until := from, c.End()
	why, err := scan(ctx, r, c.History, size, from, func(rec *wal.Record) bool {
		if rec.Start >= until {
			return false
		}
		last, out.End = rec.Start, rec.End
		end, isEnd := rec.TransactionEnd()
		if isEnd && end.Time.After(out.Newest) {
			out.Newest = end.Time
		}
		if t.stops(rec, end, isEnd) {
			out.Found, out.Start = true, rec.Start
		}
		return !out.Found
	})
	if err != nil {
		return Reached{}, err
	}
	out.Timeline, out.Why = c.History.TimelineAt(last), why
	return out, nil
}

// stops reports whether recovery to t stops before or after the record.
func (t Target) stops(rec *wal.Record, end wal.TransactionEnd, isEnd bool) bool {
	switch {
	case t.LSN != 0:
		return rec.Start >= t.LSN
	case t.Name != "":
		p, ok := rec.RestorePoint()
		return ok && p.Name == t.Name
	case !isEnd:
		return false
	case t.XID != 0:
		return end.XID == t.XID
	case t.Exclusive:
		return !end.Time.Before(t.Time)
	}
	return end.Time.After(t.Time)
}

// scan reads the archived and streamed records along h from a position on, until f returns
// false or WAL ends, and gives the reason why it ended.
func scan(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize, from pg.LSN, f func(*wal.Record) bool) (why, err error) {
	source := &Source{Repo: r, History: h, SegmentSize: size, Streamed: true}
	in := wal.NewReader(source, from, wal.ReaderOptions{History: h, SegmentSize: size, SystemID: r.Cluster().SystemID})
	defer func() { err = errors.Join(err, in.Close()) }()
	for {
		rec, err := in.Next(ctx)
		if err == io.EOF {
			return in.Reason(), nil
		}
		if err != nil {
			return nil, fmt.Errorf("search archived WAL from %s on: %w", from, err)
		}
		if !f(rec) {
			return nil, nil
		}
	}
}

// Newest is the end of a transaction.
type Newest struct {
	Time time.Time // zero if none was found
	At   pg.LSN    // end of its record
	Back pg.LSN    // how far back was looked
}

// LastCommit finds the newest end of a transaction in the WAL that c covers:
// what a restore to the latest possible moment would reach. It reads
// backwards, a few segments in most cases, and stops at the first that hold
// any.
func LastCommit(ctx context.Context, r *repo.Repo, size pg.SegmentSize, c RestoreCover) (Newest, error) {
	out := Newest{Back: max(c.From, c.End())}
	for step := pg.SegmentNumber(1); out.Time.IsZero() && out.Back > c.From; step *= 2 {
		end := out.Back
		n := size.SegmentBefore(end)
		out.Back = max(c.From, size.Start(n-min(n, step-1)))
		// A record that starts before end may end behind it, so the reading
		// goes on until one starts there.
		_, err := scan(ctx, r, c.History, size, out.Back, func(rec *wal.Record) bool {
			if e, ok := rec.TransactionEnd(); ok && rec.Start < end && e.Time.After(out.Time) {
				out.Time, out.At = e.Time, rec.End
			}
			return rec.Start < end
		})
		if err != nil {
			return Newest{}, err
		}
	}
	return out, nil
}
