package pg

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Fork is one line of a timeline history file: the timeline Parent was left
// at Switch, for the reason PostgreSQL noted. Switch may lie before the switch
// of an older fork: recovery that follows timeline 2 but stops before the point
// where 2 left 1 writes "1 0/5000000, 2 0/4000000" for timeline 3
// (writeTimeLineHistory, timeline.c, copies the lines of the recovery *target*
// timeline). Timeline 2 then adds nothing to 3, and what 1 wrote from 0/4000000
// on is not part of it either: the newest fork wins, as in tliOfPointInHistory.
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
// ascend, and every parent is older than t. Stricter than there: something must
// follow a switch point (a reason or the end of the line), since in a truncated
// file "0/50" may be all that is left of 0/5000000; and a timeline above 1 must
// have an ancestor.
func ParseHistory(t Timeline, content []byte) (History, error) {
	h := History{Timeline: t}
	fail := func(line int, format string, args ...any) (History, error) {
		return History{}, fmt.Errorf("parse %s line %d: %s", HistoryName(t), line, fmt.Sprintf(format, args...))
	}
	n := 0
	for line := range bytes.Lines(content) {
		n++
		text := strings.TrimLeft(string(line), blanks)
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		tli, rest, _ := cutBlank(text)
		lsn, reason, ended := cutBlank(rest)
		if !ended {
			return fail(n, "the line ends at %q: the file is truncated", text)
		}
		parent, err := strconv.ParseUint(tli, 10, 32)
		if err != nil || parent == 0 {
			return fail(n, "timeline %q is not a positive number", tli)
		}
		sw, err := ParseLSN(lsn)
		if err != nil {
			return fail(n, "%v", err)
		}
		f := Fork{Parent: Timeline(parent), Switch: sw, Reason: strings.TrimRight(reason, blanks)}
		if f.Parent >= t {
			return fail(n, "timeline %s is not older than %s", f.Parent, t)
		}
		if len(h.Forks) > 0 {
			last := h.Forks[len(h.Forks)-1]
			if f.Parent <= last.Parent {
				return fail(n, "timeline %s does not follow timeline %s", f.Parent, last.Parent)
			}
		}
		h.Forks = append(h.Forks, f)
	}
	if t == 1 && len(h.Forks) > 0 {
		return History{}, errors.New("parse 00000001.history: timeline 1 has no ancestor")
	}
	if t > 1 && len(h.Forks) == 0 {
		return History{}, fmt.Errorf("parse %s: no ancestor named", HistoryName(t))
	}
	return h, nil
}

// blanks is what C's isspace accepts, and so readTimeLineHistory.
const blanks = " \t\r\n\v\f"

func cutBlank(s string) (before, after string, ok bool) {
	i := strings.IndexAny(s, blanks)
	if i < 0 {
		return s, "", false
	}
	return s[:i], strings.TrimLeft(s[i:], blanks), true
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

// End gives the point from which on t's WAL is not part of h, and whether there
// is one: h's own timeline, and one that h does not know, have none. That is the
// earliest switch point of t's own fork and the later ones, see [Fork].
func (h History) End(t Timeline) (LSN, bool) {
	end, found := MaxLSN, false
	for _, f := range h.Forks {
		if f.Parent == t {
			found = true
		}
		if found {
			end = min(end, f.Switch)
		}
	}
	if !found {
		return 0, false
	}
	return end, true
}

// TimelineAt gives the timeline on which the byte at l lies.
func (h History) TimelineAt(l LSN) Timeline {
	for _, s := range slices.Backward(h.spans()) {
		if s.begin <= l && l < s.end {
			return s.tli
		}
	}
	return h.Timeline // only MaxLSN, which no byte has
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
		end := min(hs[i].end, os[i].end)
		if end < hs[i].begin {
			continue // one of them passed this timeline over
		}
		common = Pos{Timeline: hs[i].tli, LSN: end}
	}
	return common
}

// MaxLSN stands for "no end": no real position reaches it.
const MaxLSN LSN = 1<<64 - 1

// span is one timeline's part of a history; end < begin where recovery passed
// the timeline over, see [Fork].
type span struct {
	tli        Timeline
	begin, end LSN
}

func (h History) spans() []span {
	out := make([]span, 0, len(h.Forks)+1)
	begin := LSN(0)
	for _, f := range h.Forks {
		out = append(out, span{f.Parent, begin, f.Switch})
		begin = f.Switch
	}
	out = append(out, span{h.Timeline, begin, MaxLSN})
	for i := len(out) - 2; i >= 0; i-- {
		out[i].end = min(out[i].end, out[i+1].end)
	}
	return out
}
