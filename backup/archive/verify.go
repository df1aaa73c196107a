package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// VerifyOptions say how the archive is verified. The zero value reads index
// objects, headers, maps and carries.
type VerifyOptions struct {
	// Deep reads every segment's content too, inspects it as a push does, and
	// compares what is stored about it.
	Deep bool
	// From is where WAL must begin at the latest, since something in the
	// repository leans on it from there on, such as a backup; 0: nothing is known
	// to, and the first archived segment is the beginning.
	From pg.LSN
	Log  *slog.Logger // nil discards
}

// Verified is what a verification found along one history.
type Verified struct {
	Lineage     Lineage
	SegmentSize pg.SegmentSize // 0: nothing is archived
	// First and Last are the outermost segments that were judged: from the first
	// that is archived, or that must be, to the last, and at least to the newest
	// fork, since what lies before a fork is complete.
	First, Last pg.Segment
	Segments    int   // archived ones that were judged
	Indexes     int   // index objects that stood for many of them
	Bytes       int64 // of WAL read and inspected
	Faults      []FaultSpan
	// UnusedIndexes says of index objects why they were not used. Nothing is lost
	// with one.
	UnusedIndexes []error
}

// FaultSpan is one fault, or a run of segments that are all missing.
type FaultSpan struct {
	Fault
	Last pg.Segment // Segment is the first
	// HeldBy are the members whose pg_wal was seen to hold some of the segments.
	// Verify does not ask them: its caller may.
	HeldBy []string
}

// Count is how many segments are concerned.
func (f *FaultSpan) Count() int { return Span{f.Segment, f.Last}.Count() }

// EndsRecovery reports whether recovery cannot get past the fault.
func (f *FaultSpan) EndsRecovery() bool { return f.Kind != FaultUntracked && f.Kind != FaultIndex }

// Mendable reports whether sound copies of the segments would do away with the
// fault.
func (f *FaultSpan) Mendable() bool { return f.EndsRecovery() && f.Kind != FaultMinimal }

// Verify judges whether the archive holds a history without a hole: every
// segment is there, and each continues the one before, as their headers, block
// maps and carries say. With opts.Deep their content is read as well. WAL that
// the history left behind is not looked at, and what was removed on purpose is
// not missed.
//
// What is wrong is no error: see Faults. An error means that it could not be
// judged.
func Verify(ctx context.Context, r *repo.Repo, l Lineage, opts VerifyOptions) (Verified, error) {
	v := Verified{Lineage: l}
	size, err := SegmentSize(ctx, r)
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil
	} else if err != nil {
		return v, err
	}
	w := &walk{r, l.History, size}
	objects, err := w.listed(ctx, 0, noSegment-1)
	if err != nil || len(objects) == 0 {
		return v, err
	}
	v.SegmentSize = size
	first, last := bounds(l.History, size, objects)
	if opts.From != 0 {
		first = min(first, size.SegmentOf(opts.From))
	}
	v.First = pg.Segment{Timeline: SegmentTimeline(l.History, size, first), Number: first}
	v.Last = pg.Segment{Timeline: SegmentTimeline(l.History, size, last), Number: last}
	j := &joiner{walk: w} // what changed is of no interest
	for s, err := range w.stepsOf(ctx, first, last, objects) {
		if err != nil {
			return v, fmt.Errorf("verify archived WAL: %w", err)
		}
		if err := v.take(ctx, j, &s); err != nil {
			return v, fmt.Errorf("verify archived WAL: %w", err)
		}
		if opts.Deep && s.indexed {
			if err := v.compareIndex(ctx, w, &s.part, objects); err != nil {
				return v, fmt.Errorf("verify archived WAL: %w", err)
			}
		}
	}
	if opts.Deep {
		if err := v.inspect(ctx, w, objects, opts.Log); err != nil {
			return v, fmt.Errorf("verify archived WAL: %w", err)
		}
	}
	return v, v.forgive(ctx, r)
}

// forgive drops what is missing because it was removed on purpose, even while
// the archive was verified: expiry says what it removes before it does.
func (v *Verified) forgive(ctx context.Context, r *repo.Repo) error {
	absent := func(f FaultSpan) bool { return f.Kind != FaultIndex && errors.Is(f.Err, fs.ErrNotExist) }
	if !slices.ContainsFunc(v.Faults, absent) {
		return nil
	}
	gone, err := ReadExpired(ctx, r)
	if err != nil {
		return err
	}
	var left []FaultSpan
	for _, f := range v.Faults {
		own, ok := Ancestor(v.Lineage.History, f.Segment.Timeline)
		if !absent(f) || !ok {
			left = append(left, f)
			continue
		}
		for _, s := range gone.without(repo.IncarnationOf(own), []Span{{f.Segment, f.Last}}) {
			if s.First != f.Segment {
				f.Segment, f.At = s.First, v.SegmentSize.Start(s.First.Number)
				f.Err = notArchived(s.First, v.SegmentSize)
			}
			f.Last = s.Last
			left = append(left, f)
		}
	}
	v.Faults = left
	return nil
}

// bounds gives the outermost segments to be judged.
func bounds(h pg.History, size pg.SegmentSize, objects map[pg.SegmentNumber]repo.WALObject) (first, last pg.SegmentNumber) {
	first = noSegment
	for n := range objects {
		first, last = min(first, n), max(last, n)
	}
	if begin, _ := h.Begin(h.Timeline); size.SegmentOf(begin) > 0 {
		last = max(last, size.SegmentOf(begin)-1)
	}
	return first, last
}

// take judges one step.
func (v *Verified) take(ctx context.Context, j *joiner, s *step) error {
	if s.staleIndex != nil {
		v.UnusedIndexes = append(v.UnusedIndexes, s.staleIndex)
	}
	fault, err := j.add(ctx, s, true)
	if err != nil {
		return err
	}
	if fault != nil {
		if fault.Kind == FaultUntracked {
			if err := fault.lookWhy(ctx, j.walk, s.headers[0].FirstRecord); err != nil {
				return err
			}
		}
		v.add(*fault)
	}
	if fault == nil || fault.Kind != FaultMissing {
		v.Segments += max(1, len(s.headers))
	}
	if s.indexed {
		v.Indexes++
	}
	return nil
}

// add takes a fault; missing segments of one timeline that follow each other
// become one.
func (v *Verified) add(f Fault) {
	if n := len(v.Faults); n > 0 {
		before := &v.Faults[n-1]
		if f.Kind == FaultMissing && before.Kind == FaultMissing && before.Last.Timeline == f.Segment.Timeline && before.Last.Number+1 == f.Segment.Number {
			before.Last = f.Segment
			return
		}
	}
	v.Faults = append(v.Faults, FaultSpan{Fault: f, Last: f.Segment})
}

// faulty reports whether a segment's object is known to be damaged.
func (v *Verified) faulty(n pg.SegmentNumber) bool {
	return slices.ContainsFunc(v.Faults, func(f FaultSpan) bool {
		return f.Kind == FaultDamaged && f.Segment.Number == n
	})
}
