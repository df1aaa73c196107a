package pg

import (
	"fmt"
	"strconv"
)

// SegmentSize is the size of a cluster's WAL segment files in bytes: a power
// of two from 1 MiB to 1 GiB, fixed by initdb --wal-segsize. Whoever makes one
// from outside bytes checks it with Valid; the arithmetic below relies on that.
type SegmentSize uint32

// DefaultSegmentSize is what initdb chooses when not told otherwise.
const DefaultSegmentSize SegmentSize = 16 << 20

// Valid reports whether PostgreSQL accepts the size.
func (s SegmentSize) Valid() bool {
	return s >= 1<<20 && s <= 1<<30 && s&(s-1) == 0
}

// perLog is how many segments one value of the middle eight digits of a
// segment's file name stands for (XLogSegmentsPerXLogId).
func (s SegmentSize) perLog() uint64 { return (1 << 32) / uint64(s) }

// SegmentNumber counts the segments of a timeline from LSN 0/0.
type SegmentNumber uint64

// SegmentOf gives the segment that holds the byte at l.
func (s SegmentSize) SegmentOf(l LSN) SegmentNumber { return SegmentNumber(uint64(l) / uint64(s)) }

// SegmentBefore gives the segment that holds the last byte before l, which is
// the right one for an exclusive end position.
func (s SegmentSize) SegmentBefore(l LSN) SegmentNumber {
	if l == 0 {
		return 0
	}
	return SegmentNumber((uint64(l) - 1) / uint64(s))
}

// Offset gives the position of the byte at l within its segment.
func (s SegmentSize) Offset(l LSN) uint32 { return uint32(uint64(l) % uint64(s)) }

// Start gives the LSN of the first byte of segment n.
func (s SegmentSize) Start(n SegmentNumber) LSN { return LSN(uint64(n) * uint64(s)) }

// Segment is one WAL segment of one timeline. It does not carry the segment
// size: the number alone does not say which LSNs it spans.
type Segment struct {
	Timeline Timeline
	Number   SegmentNumber
}

// Name gives the 24-digit file name under the given segment size.
func (g Segment) Name(size SegmentSize) string {
	per := size.perLog()
	return fmt.Sprintf("%08X%08X%08X", uint32(g.Timeline), uint32(uint64(g.Number)/per), uint32(uint64(g.Number)%per))
}

// ParseSegment parses a 24-digit segment file name. PostgreSQL writes upper
// case only, and so nothing else is accepted.
func ParseSegment(name string, size SegmentSize) (Segment, error) {
	if !size.Valid() {
		return Segment{}, fmt.Errorf("parse segment name %q: invalid segment size %d bytes", name, size)
	}
	if !IsSegmentName(name) {
		return Segment{}, fmt.Errorf("parse segment name %q: want 24 upper-case hexadecimal digits", name)
	}
	tli, _ := strconv.ParseUint(name[:8], 16, 32)
	log, _ := strconv.ParseUint(name[8:16], 16, 32)
	seg, _ := strconv.ParseUint(name[16:], 16, 32)
	if tli == 0 {
		return Segment{}, fmt.Errorf("parse segment name %q: timeline 0 does not exist", name)
	}
	if seg >= size.perLog() {
		return Segment{}, fmt.Errorf("parse segment name %q: last part is too large for segments of %d bytes", name, size)
	}
	return Segment{Timeline: Timeline(tli), Number: SegmentNumber(log*size.perLog() + seg)}, nil
}

// IsSegmentName reports whether name has the form of a WAL segment file.
func IsSegmentName(name string) bool { return len(name) == 24 && isUpperHex(name) }

func isUpperHex(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
