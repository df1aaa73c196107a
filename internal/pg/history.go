package pg

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Fork is one line of a timeline history file: the timeline Parent was left
// at Switch, for the reason PostgreSQL noted.
type Fork struct {
	Parent Timeline `json:"parent"`
	Switch LSN      `json:"switch"` // first position that is no longer Parent's
	Reason string   `json:"reason,omitempty"`
}

// History is the ancestry of one timeline: its forks, oldest first, as the
// file TTTTTTTT.history holds them. Timeline 1 has none. A History is a value;
// it is not changed after it is built.
type History struct {
	Timeline Timeline `json:"timeline"`
	Forks    []Fork   `json:"forks"`
}

// HistoryName gives the file name of a timeline's history.
func HistoryName(t Timeline) string { return t.Hex() + ".history" }

// ParseHistoryName is the inverse of [HistoryName].
func ParseHistoryName(name string) (Timeline, error) {
	hex, ok := strings.CutSuffix(name, ".history")
	if !ok {
		return 0, fmt.Errorf("parse history file name %q: want the suffix .history", name)
	}
	return ParseTimeline(hex)
}

// ParseHistory parses the content of t's history file. The rules are those of
// PostgreSQL's readTimeLineHistory (timeline.c): '#' starts a comment, parents
// and switch points never go back, and every parent is older than t.
func ParseHistory(t Timeline, content []byte) (History, error) {
	h := History{Timeline: t}
	fail := func(line int, format string, args ...any) (History, error) {
		return History{}, fmt.Errorf("parse %s line %d: %s", HistoryName(t), line, fmt.Sprintf(format, args...))
	}
	sc := bufio.NewScanner(bytes.NewReader(content))
	for n := 1; sc.Scan(); n++ {
		text := strings.TrimLeft(sc.Text(), " \t\r")
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		tli, rest, _ := cutBlank(text)
		lsn, reason, _ := cutBlank(rest)
		parent, err := strconv.ParseUint(tli, 10, 32)
		if err != nil || parent == 0 {
			return fail(n, "timeline %q is not a positive number", tli)
		}
		sw, err := ParseLSN(lsn)
		if err != nil {
			return fail(n, "%v", err)
		}
		f := Fork{Parent: Timeline(parent), Switch: sw, Reason: strings.TrimRight(reason, " \t\r")}
		if f.Parent >= t {
			return fail(n, "timeline %s is not older than %s", f.Parent, t)
		}
		if len(h.Forks) > 0 {
			last := h.Forks[len(h.Forks)-1]
			if f.Parent <= last.Parent || f.Switch < last.Switch {
				return fail(n, "timeline %s at %s does not follow timeline %s at %s", f.Parent, f.Switch, last.Parent, last.Switch)
			}
		}
		h.Forks = append(h.Forks, f)
	}
	if err := sc.Err(); err != nil {
		return History{}, fmt.Errorf("parse %s: %w", HistoryName(t), err)
	}
	if t == 1 && len(h.Forks) > 0 {
		return History{}, errors.New("parse 00000001.history: timeline 1 has no ancestor")
	}
	if t > 1 && len(h.Forks) == 0 {
		return History{}, fmt.Errorf("parse %s: no ancestor named", HistoryName(t))
	}
	return h, nil
}

func cutBlank(s string) (before, after string, ok bool) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, "", false
	}
	return s[:i], strings.TrimLeft(s[i:], " \t"), true
}

// FirstTimeline is the history of timeline 1, which no file describes.
func FirstTimeline() History { return History{Timeline: 1} }

// Encode gives the content of a history file that says the same as h.
func (h History) Encode() []byte {
	var b bytes.Buffer
	for _, f := range h.Forks {
		fmt.Fprintf(&b, "%d\t%s\t%s\n", f.Parent, f.Switch, f.Reason)
	}
	return b.Bytes()
}

// Begin gives the position at which h's timeline t began, 0/0 for its oldest,
// and whether t is part of the history at all.
func (h History) Begin(t Timeline) (LSN, bool) {
	begin := LSN(0)
	for _, f := range h.Forks {
		if f.Parent == t {
			return begin, true
		}
		begin = f.Switch
	}
	return begin, t == h.Timeline
}

// End gives the switch point at which t was left, and whether there is one:
// h's own timeline, and one that h does not know, have none.
func (h History) End(t Timeline) (LSN, bool) {
	for _, f := range h.Forks {
		if f.Parent == t {
			return f.Switch, true
		}
	}
	return 0, false
}

// TimelineAt gives the timeline on which the byte at l lies.
func (h History) TimelineAt(l LSN) Timeline {
	for _, f := range h.Forks {
		if l < f.Switch {
			return f.Parent
		}
	}
	return h.Timeline
}

// Contains reports whether p lies on the history: p's timeline is part of it
// and p is not past the point where that timeline was left. A position exactly
// at the switch point is contained: everything before it is shared.
func (h History) Contains(p Pos) bool {
	if _, ok := h.Begin(p.Timeline); !ok {
		return false
	}
	end, left := h.End(p.Timeline)
	return !left || p.LSN <= end
}

// Equal reports whether both describe the same ancestry. Reasons are remarks
// and do not count.
func (h History) Equal(o History) bool {
	if h.Timeline != o.Timeline || len(h.Forks) != len(o.Forks) {
		return false
	}
	for i, f := range h.Forks {
		if f.Parent != o.Forks[i].Parent || f.Switch != o.Forks[i].Switch {
			return false
		}
	}
	return true
}

// Common gives the last timeline that both histories share and the position on
// it up to which they share WAL: the earlier of the two points at which they
// left it, [MaxLSN] if neither has. Whether a server is diverged follows from
// how far it has gone: past Common, its WAL is its own. Equal timeline numbers
// are no proof of equal history, so each timeline's beginning is compared too.
// The zero Pos means that nothing is shared.
func (h History) Common(o History) Pos {
	var common Pos
	hs, os := h.spans(), o.spans()
	for i := range min(len(hs), len(os)) {
		if hs[i].tli != os[i].tli || hs[i].begin != os[i].begin {
			break
		}
		common = Pos{Timeline: hs[i].tli, LSN: min(hs[i].end, os[i].end)}
	}
	return common
}

// MaxLSN stands for "no end": no real position reaches it.
const MaxLSN LSN = 1<<64 - 1

type span struct {
	tli        Timeline
	begin, end LSN
}

func (h History) spans() []span {
	var out []span
	begin := LSN(0)
	for _, f := range h.Forks {
		out = append(out, span{f.Parent, begin, f.Switch})
		begin = f.Switch
	}
	return append(out, span{h.Timeline, begin, MaxLSN})
}
