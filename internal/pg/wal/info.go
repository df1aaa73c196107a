package wal

import (
	"strings"

	"github.com/pgtender/pgtender/internal/pg"
)

// Info is what one segment says about itself. Positions are zero where there is
// none: no record starts at 0/0.
type Info struct {
	Major       int // PostgreSQL major, by the page magic
	SystemID    pg.SystemID
	SegmentSize pg.SegmentSize
	BlockSize   int // XLOG_BLCKSZ in bytes

	Start pg.LSN // first byte of the segment
	// End is the semantic end: the position after the last byte that counts. It
	// is the segment's end, or the position after an XLOG_SWITCH record, or, where
	// the segment is not filled (see Tail), the position after the last complete
	// record. What lies between End and the segment's end means nothing.
	End pg.LSN

	// FirstTimeline and LastTimeline are those of the first and the last page
	// that count. They differ in a new timeline's first segment, which begins
	// with a copy of the old timeline's WAL. A page keeps the timeline on which
	// it was begun, so a segment with a switch point on its last page shows the
	// old timeline only.
	FirstTimeline, LastTimeline pg.Timeline

	First        pg.LSN // start of the first record that starts here
	FirstPrev    pg.LSN // its link to the record before, unless FlagPrevUnknown
	Last         pg.LSN // start of the last record that starts here
	LastComplete pg.LSN // start of the last record that starts and ends here

	Tail  Tail
	Flags Flags
	// Remark says what stopped the reading where Tail is zero, stale or torn.
	Remark string
}

// SegmentEnd is the position after the segment.
func (i *Info) SegmentEnd() pg.LSN { return i.Start + pg.LSN(i.SegmentSize) }

// Complete reports whether WAL goes on in the next segment: the records fill
// this one, or a switch ended it. A segment that is not complete is the last of
// its timeline, was not finished when it was copied, or lost its end; which,
// only the timeline's switch point can tell.
func (i *Info) Complete() bool { return i.Tail == TailFull || i.Tail == TailSwitch }

// Tail is how the WAL in a segment ends. The values are stable.
type Tail uint8

const (
	// TailFull: records fill the segment to its end.
	TailFull Tail = 1
	// TailSwitch: an XLOG_SWITCH ended the segment.
	TailSwitch Tail = 2
	// TailZero: after a complete record, nothing but zeros follow.
	TailZero Tail = 3
	// TailStale: after a complete record follow zeros to the end of the page, then
	// pages of the older segment that the file was recycled from.
	TailStale Tail = 4
	// TailTorn: something unreadable follows, an unfinished record perhaps, and
	// after it no page of this WAL. Only accepted where [Expect.Unfinished] is set.
	TailTorn Tail = 5
	// TailUntil: reading stopped at [Expect.Until].
	TailUntil Tail = 6
)

func (t Tail) String() string {
	names := [...]string{"none", "full", "switch", "zero", "stale", "torn", "until"}
	if int(t) < len(names) {
		return names[t]
	}
	return "unknown"
}

// Flags are facts about a stretch of WAL. The values are stable.
type Flags uint32

const (
	// FlagStartsInRecord: the first page continues a record begun earlier.
	FlagStartsInRecord Flags = 1 << 0
	// FlagEndsInRecord: the last record goes on in the next segment.
	FlagEndsInRecord Flags = 1 << 1
	// FlagAllContinuation: no record starts here, one begun earlier fills it all.
	FlagAllContinuation Flags = 1 << 2
	// FlagOverwrites: the server gave up an unfinished record after a crash and
	// wrote on (XLOG_OVERWRITE_CONTRECORD).
	FlagOverwrites Flags = 1 << 3
	// FlagPrevUnknown: so little of the first record lies here that its link to
	// the one before is not known.
	FlagPrevUnknown Flags = 1 << 4
	// FlagFullPageWritesOff: a record says that full_page_writes is off, which
	// forbids a backup on a standby over this WAL. It does not break the chain.
	FlagFullPageWritesOff Flags = 1 << 5

	// FlagWALLevelMinimal: wal_level fell below replica, so that changes may be
	// missing in WAL.
	FlagWALLevelMinimal Flags = 1 << 16
	// FlagUnknownSpecial: a record of unknown kind, of a custom resource manager
	// perhaps, says that it changes files in a way of its own.
	FlagUnknownSpecial Flags = 1 << 17

	flagsBreaking = FlagWALLevelMinimal | FlagUnknownSpecial
)

// BreaksChain reports whether the block map of this WAL may miss changes, so
// that no incremental backup and no catchup may rest on it.
func (f Flags) BreaksChain() bool { return f&flagsBreaking != 0 }

func (f Flags) String() string {
	names := []struct {
		flag Flags
		name string
	}{
		{FlagStartsInRecord, "starts in record"}, {FlagEndsInRecord, "ends in record"},
		{FlagAllContinuation, "all continuation"}, {FlagOverwrites, "overwrites unfinished record"},
		{FlagPrevUnknown, "link of first record unknown"}, {FlagFullPageWritesOff, "full_page_writes off"},
		{FlagWALLevelMinimal, "wal_level minimal"}, {FlagUnknownSpecial, "unknown file change"},
	}
	var set []string
	for _, n := range names {
		if f&n.flag != 0 {
			set = append(set, n.name)
		}
	}
	return strings.Join(set, ", ")
}
