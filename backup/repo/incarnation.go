package repo

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pgtender/pgtender/internal/pg"
)

// Incarnation is one timeline as one history made it: two timelines 2 that
// left timeline 1 at different places are two incarnations.
type Incarnation struct {
	Timeline pg.Timeline
	Ancestry [8]byte // first half of the digest of the ancestry
}

// IncarnationOf gives the incarnation of h's timeline.
func IncarnationOf(h pg.History) Incarnation {
	var b strings.Builder
	for _, f := range h.Forks {
		// Not Switch.String(): the format is fixed here, whatever form
		// another release prints.
		fmt.Fprintf(&b, "%d\t%X/%X\n", uint32(f.Parent), uint32(f.Switch>>32), uint32(f.Switch))
	}
	d := DigestOf([]byte(b.String()))
	return Incarnation{Timeline: h.Timeline, Ancestry: [8]byte(d[:8])}
}

func (i Incarnation) String() string { return fmt.Sprintf("%s-%x", i.Timeline.Hex(), i.Ancestry[:]) }

// IsZero reports whether the incarnation is unset.
func (i Incarnation) IsZero() bool { return i == Incarnation{} }

// ParseIncarnation parses TTTTTTTT-DDDDDDDDDDDDDDDD.
func ParseIncarnation(s string) (Incarnation, error) {
	tli, digest, ok := strings.Cut(s, "-")
	if !ok || len(digest) != 16 || !isLowerHex(digest) {
		return Incarnation{}, fmt.Errorf("parse incarnation %q: want TTTTTTTT-DDDDDDDDDDDDDDDD", s)
	}
	t, err := pg.ParseTimeline(tli)
	if err != nil {
		return Incarnation{}, fmt.Errorf("parse incarnation %q: %w", s, err)
	}
	i := Incarnation{Timeline: t}
	for n := range i.Ancestry {
		v, _ := strconv.ParseUint(digest[2*n:2*n+2], 16, 8)
		i.Ancestry[n] = byte(v)
	}
	return i, nil
}

// MarshalText implements encoding.TextMarshaler.
func (i Incarnation) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (i *Incarnation) UnmarshalText(b []byte) (err error) {
	*i, err = ParseIncarnation(string(b))
	return err
}
