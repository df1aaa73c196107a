package pg

import (
	"fmt"
	"strconv"
)

// Timeline is a timeline ID; the first is 1, and 0 means unknown.
type Timeline uint32

// ParseTimeline parses eight hexadecimal digits, the form used in file names.
func ParseTimeline(s string) (Timeline, error) {
	if len(s) != 8 || !isUpperHex(s) {
		return 0, fmt.Errorf("parse timeline %q: want 8 upper-case hexadecimal digits", s)
	}
	v, _ := strconv.ParseUint(s, 16, 32)
	if v == 0 {
		return 0, fmt.Errorf("parse timeline %q: timeline 0 does not exist", s)
	}
	return Timeline(v), nil
}

// String gives the decimal form that PostgreSQL's messages use.
func (t Timeline) String() string { return strconv.FormatUint(uint64(t), 10) }

// Hex gives the eight digits of file names.
func (t Timeline) Hex() string { return fmt.Sprintf("%08X", uint32(t)) }

// IsZero reports whether the timeline is unknown.
func (t Timeline) IsZero() bool { return t == 0 }

// Pos is a position on a named timeline. Two positions on different timelines
// compare only through a [History].
type Pos struct {
	Timeline Timeline `json:"timeline"`
	LSN      LSN      `json:"lsn"`
}

// IsZero reports whether the position is unset.
func (p Pos) IsZero() bool { return p == Pos{} }

func (p Pos) String() string { return fmt.Sprintf("%s@%s", p.LSN, p.Timeline) }
