package wal

import (
	"fmt"

	"github.com/pgtender/pgtender/internal/pg"
)

// Chain proves that segments, given in order, are one unbroken log, and
// completes the records between them. It needs no WAL, only what [Inspect] said
// about each, so the parts may have been made in any order and long ago. The
// zero value is ready for the first segment. Not safe for concurrent use.
//
// The segments of one lineage come from one file each: at a switch point from
// the new timeline's, which begins with a copy of the old one's WAL.
type Chain struct {
	last     Info
	any      bool
	open     *Unfinished // record that the segments so far do not complete
	heads    []*Head     // what they hold of it
	blind    bool        // a record that starts before the chain is not over yet
	started  pg.LSN      // start of the last record that is not given up, 0: unknown
	complete pg.LSN      // start of the last complete record, 0: unknown
	before   []*Head     // what the first segments hold of a record that starts before them
	began    bool        // that record is over, or there was none
}

// Joint is what a segment brought to an end.
type Joint struct {
	// Completed is the record that started in an earlier segment of the chain
	// and ended in this one; nil if there was none. Its changes belong to the
	// segment that holds Record.Start.
	Completed *Completed
	// Overwritten is the start of a record that the server gave up; 0 if none.
	Overwritten pg.LSN
}

// Open reports whether the last segment's last record is not complete yet, so
// that its changes are in no map.
func (c *Chain) Open() bool { return c.open != nil }

// OpenAt gives the start of the record that is not complete yet, if [Chain.Open].
func (c *Chain) OpenAt() (pg.LSN, bool) {
	if c.open == nil {
		return 0, false
	}
	return c.open.Start, true
}

// Add takes the next segment. Where it does not continue the one before, the
// error is an [ErrBroken] that says why, and the chain is of no further use; the
// errors of [Complete] likewise.
//
// The chain knows nothing of a record that starts before its first segment.
func (c *Chain) Add(info Info, carry Carry) (Joint, error) {
	if c.any {
		if err := c.follows(&info); err != nil {
			return Joint{}, err
		}
	}
	joint, err := c.join(&info, carry.Head)
	if err != nil {
		return Joint{}, err
	}
	if err := c.link(&info); err != nil {
		return Joint{}, err
	}
	if info.Last != 0 {
		c.started = info.Last
	}
	if info.LastComplete != 0 {
		c.complete = info.LastComplete
	}
	if carry.Tail != nil {
		c.open, c.heads = carry.Tail, nil
	}
	c.last, c.any = info, true
	if !c.began {
		if carry.Head != nil {
			c.before = append(c.before, carry.Head)
		}
		c.began = !carry.Head.goesOn()
	}
	return joint, nil
}

func (c *Chain) broken(info *Info, format string, args ...any) error {
	return fmt.Errorf("follow WAL to the segment at %s: %s: %w", info.Start, fmt.Sprintf(format, args...), ErrBroken)
}

// follows compares what both segments say about cluster and place.
func (c *Chain) follows(info *Info) error {
	last := &c.last
	switch {
	case info.SystemID != last.SystemID:
		return c.broken(info, "system identifier changes from %s to %s", last.SystemID, info.SystemID)
	case info.Major != last.Major || info.SegmentSize != last.SegmentSize || info.BlockSize != last.BlockSize:
		return c.broken(info, "PostgreSQL major, segment size or WAL block size changes")
	case info.Start != last.SegmentEnd():
		return c.broken(info, "the segment before ends at %s", last.SegmentEnd())
	case info.FirstTimeline < last.LastTimeline:
		return c.broken(info, "timeline goes back from %s to %s", last.LastTimeline, info.FirstTimeline)
	case !last.Complete():
		return c.broken(info, "WAL of the segment before ends at %s (%s)", last.End, last.Tail)
	}
	return nil
}

// join brings the open record and the head of the next segment together.
func (c *Chain) join(info *Info, head *Head) (Joint, error) {
	if c.open == nil {
		expected := !c.any || c.blind
		if head == nil && c.blind {
			return Joint{}, c.broken(info, "it does not continue the record that the segment before is part of")
		}
		if head != nil && !expected {
			return Joint{}, c.broken(info, "it continues a record, but the segment before leaves none unfinished")
		}
		c.blind = head.goesOn()
		return Joint{}, nil
	}
	if head == nil {
		return Joint{}, c.broken(info, "it does not continue the record at %s", c.open.Start)
	}
	open := c.open
	if head.Overwritten {
		c.open, c.heads, c.started = nil, nil, c.complete
		return Joint{Overwritten: open.Start}, nil
	}
	c.heads = append(c.heads, head)
	if head.goesOn() {
		return Joint{}, nil
	}
	done, err := Complete(open, c.heads...)
	if err != nil {
		return Joint{}, err
	}
	if c.complete != 0 && done.Record.Prev != c.complete {
		return Joint{}, c.broken(info, "the record at %s follows the one at %s, not %s", open.Start, done.Record.Prev, c.complete)
	}
	c.open, c.heads = nil, nil
	c.complete = open.Start
	return Joint{Completed: done}, nil
}

// link compares the first record's link with the last record before it.
func (c *Chain) link(info *Info) error {
	if info.First == 0 || info.Flags&FlagPrevUnknown != 0 || c.started == 0 {
		return nil
	}
	if info.FirstPrev != c.started {
		return c.broken(info, "its first record follows the one at %s, the last one before it is at %s", info.FirstPrev, c.started)
	}
	return nil
}
