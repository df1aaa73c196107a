package pg_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg"
)

func TestLSNText(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     pg.LSN
		ok       bool
	}{
		{"the usual form", "1/A0000028", 0x1_A000_0028, true},
		{"lower case", "ff/abc", 0xff_0000_0abc, true},
		{"the largest", "FFFFFFFF/FFFFFFFF", pg.MaxLSN, true},
		{"leading zeros", "00000000/00000001", 1, true},
		{"nine digits below", "0/123456789", 0, false},
		{"nothing above", "/1", 0, false},
		{"nothing below", "1/", 0, false},
		{"trailing text", "0/1 ", 0, false},
		{"a sign", "+1/0", 0, false},
		{"a prefix", "0x1/0", 0, false},
		{"no slash", "12345678", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := pg.ParseLSN(tt.in)
			if got != tt.want || (err == nil) != tt.ok {
				t.Errorf("ParseLSN(%q) = %s, %v", tt.in, got, err)
			}
		})
	}
}

func TestSystemIDTravelsAsText(t *testing.T) {
	for _, id := range []pg.SystemID{0, 7, 7710992434763573504, 1<<64 - 1} {
		b, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		var got pg.SystemID
		if err := json.Unmarshal(b, &got); err != nil || got != id {
			t.Errorf("%s came back as %s, %v", b, got, err)
		}
	}
	for _, bad := range []string{"", "0", "-1", "1 ", "18446744073709551616"} {
		if _, err := pg.ParseSystemID(bad); err == nil {
			t.Errorf("ParseSystemID(%q) is accepted", bad)
		}
	}
}

func TestSegmentArithmetic(t *testing.T) {
	const size = pg.DefaultSegmentSize
	for _, tt := range []struct {
		name          string
		lsn           pg.LSN
		holds, before pg.SegmentNumber
		offset        uint32
	}{
		{"inside a segment", 0x1500000, 1, 1, 0x500000},
		{"a boundary starts one and ends another", 0x2000000, 2, 1, 0},
		{"across the high half", 0x1_0000_0000, 256, 255, 0},
		{"the very first", 0, 0, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := size.SegmentOf(tt.lsn); got != tt.holds {
				t.Errorf("SegmentOf = %d, want %d", got, tt.holds)
			}
			if got := size.SegmentBefore(tt.lsn); got != tt.before {
				t.Errorf("SegmentBefore = %d, want %d", got, tt.before)
			}
			if got := size.Offset(tt.lsn); got != tt.offset {
				t.Errorf("Offset = %d, want %d", got, tt.offset)
			}
			if start := size.Start(size.SegmentOf(tt.lsn)); start+pg.LSN(tt.offset) != tt.lsn {
				t.Errorf("Start = %s", start)
			}
		})
	}
	for size, want := range map[pg.SegmentSize]bool{0: false, 1 << 19: false, 1 << 20: true, 3 << 20: false, 1 << 30: true, 1 << 31: false} {
		if size.Valid() != want {
			t.Errorf("size %d: Valid is %v", size, !want)
		}
	}
}

func TestWALFileNames(t *testing.T) {
	seg := func(tli pg.Timeline, n pg.SegmentNumber) pg.Segment { return pg.Segment{Timeline: tli, Number: n} }
	for _, tt := range []struct {
		name, file string
		size       pg.SegmentSize
		want       pg.WALFile
	}{
		{"segment", "00000002000000010000000A", 16 << 20, pg.WALFile{Kind: pg.WALSegment, Timeline: 2, Segment: seg(2, 266)}},
		{"segment of 1 GiB", "000000010000000100000003", 1 << 30, pg.WALFile{Kind: pg.WALSegment, Timeline: 1, Segment: seg(1, 7)}},
		{"segment of 1 MiB", "000000010000000000000FFF", 1 << 20, pg.WALFile{Kind: pg.WALSegment, Timeline: 1, Segment: seg(1, 4095)}},
		{"partial segment", "00000001000000000000000A.partial", 16 << 20, pg.WALFile{Kind: pg.WALPartial, Timeline: 1, Segment: seg(1, 10)}},
		{"history", "0000000A.history", 16 << 20, pg.WALFile{Kind: pg.WALHistory, Timeline: 10}},
		{"backup history", "000000010000000000000002.00000028.backup", 16 << 20, pg.WALFile{Kind: pg.WALBackupHistory, Timeline: 1, Segment: seg(1, 2), Offset: 0x28}},
		{"timeline 0 does not exist", "000000000000000000000001", 16 << 20, pg.WALFile{}},
		{"a last part too large for the size", "000000010000000000000100", 16 << 20, pg.WALFile{}},
		{"timeline 1 has no history file", "00000001.history", 16 << 20, pg.WALFile{}},
		{"lower case", "00000001000000000000000a", 16 << 20, pg.WALFile{}},
		{"a temporary file", "00000001000000000000000A.partial.tmp", 16 << 20, pg.WALFile{}},
		{"a backup offset past the segment", "000000010000000000000002.01000000.backup", 16 << 20, pg.WALFile{}},
		{"a directory", "archive_status", 16 << 20, pg.WALFile{}},
		{"a segment and a dot", "00000001000000000000000A.", 16 << 20, pg.WALFile{}},
		{"an impossible size", "00000001000000000000000A", 0, pg.WALFile{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := pg.ParseWALFile(tt.file, tt.size)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if got.Kind != pg.WALOther && got.Name(tt.size) != tt.file {
				t.Errorf("Name gives %s", got.Name(tt.size))
			}
		})
	}
}

const (
	straight = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-01-02\n"
	// Recovery along timeline 2 that stopped before 2 began.
	backwards = "1\t0/5000000\tno recovery target specified\n\n2\t0/4000000\tat restore point \"x\"\n"
)

func parseHistory(t testing.TB, tli pg.Timeline, text string) pg.History {
	t.Helper()
	h, err := pg.ParseHistory(tli, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHistoryFilesThatAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		tli        pg.Timeline
		want       string
	}{
		{"empty", "", 2, "no ancestor"},
		{"only comments", "# 1\t0/3000000\tx\n", 2, "no ancestor"},
		{"cut within the switch point", "1\t0/30", 2, "truncated"},
		{"cut before the switch point", "1\t", 2, "truncated"},
		{"an ancestor as young as the timeline", "2\t0/3000000\tx\n", 2, "not older"},
		{"ancestors out of order", "2\t0/3000000\tx\n1\t0/4000000\tx\n", 3, "does not follow"},
		{"an ancestor twice", "1\t0/3000000\tx\n1\t0/4000000\tx\n", 3, "does not follow"},
		{"timeline 0", "0\t0/3000000\tx\n", 2, "positive number"},
		{"an ancestor of timeline 1", "1\t0/3000000\tx\n", 1, "not older"},
		{"no number", "one\t0/3000000\tx\n", 2, "positive number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := pg.ParseHistory(tt.tli, []byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestHistoryAnswers(t *testing.T) {
	pos := func(tli pg.Timeline, l pg.LSN) pg.Pos { return pg.Pos{Timeline: tli, LSN: l} }
	for _, tt := range []struct {
		name, text string
		contains   map[pg.Pos]bool
		at         map[pg.LSN]pg.Timeline
		end        map[pg.Timeline]pg.LSN // 0: none
	}{
		{
			"each timeline leaves the last", straight,
			map[pg.Pos]bool{
				pos(1, 0x3000000): true, pos(1, 0x3000001): false,
				pos(2, 0x5000000): true, pos(2, 0x5000001): false,
				pos(3, 0x9000000): true, pos(4, 1): false,
			},
			map[pg.LSN]pg.Timeline{0: 1, 0x2ffffff: 1, 0x3000000: 2, 0x4ffffff: 2, 0x5000000: 3, pg.MaxLSN - 1: 3},
			map[pg.Timeline]pg.LSN{1: 0x3000000, 2: 0x5000000, 3: 0, 4: 0},
		},
		{
			"recovery stopped before an older switch point", backwards,
			map[pg.Pos]bool{
				pos(1, 0x4000000): true, pos(1, 0x4000001): false, // though timeline 2 had it
				pos(2, 0x5000001): false, pos(3, 0x4500000): true,
			},
			map[pg.LSN]pg.Timeline{0x3ffffff: 1, 0x4000000: 3, 0x4800000: 3, 0x5000000: 3},
			map[pg.Timeline]pg.LSN{1: 0x4000000, 2: 0x4000000, 3: 0},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := parseHistory(t, 3, tt.text)
			for p, want := range tt.contains {
				if h.Contains(p) != want {
					t.Errorf("Contains(%s) = %v", p, !want)
				}
			}
			for l, want := range tt.at {
				if got := h.TimelineAt(l); got != want {
					t.Errorf("TimelineAt(%s) = %s, want %s", l, got, want)
				}
			}
			for tli, want := range tt.end {
				if got, ok := h.End(tli); got != want || ok != (want != 0) {
					t.Errorf("End(%s) = %s %v, want %s", tli, got, ok, want)
				}
			}
		})
	}
}

func TestCommonPointOfTwoHistories(t *testing.T) {
	for _, tt := range []struct {
		name string
		a, b pg.History
		want string
	}{
		{"one went on from the other", parseHistory(t, 3, straight), parseHistory(t, 2, "1\t0/3000000\tx\n"), "0/5000000@2"},
		{"the same", parseHistory(t, 3, straight), parseHistory(t, 3, straight), pg.Pos{Timeline: 3, LSN: pg.MaxLSN}.String()},
		{"two timelines 2", parseHistory(t, 2, "1\t0/3000000\tx\n"), parseHistory(t, 2, "1\t0/2000000\tx\n"), "0/2000000@1"},
		{"against the first timeline", parseHistory(t, 3, straight), pg.FirstTimeline(), "0/3000000@1"},
		{"one passed the other's last timeline over", parseHistory(t, 3, backwards), parseHistory(t, 2, "1\t0/5000000\tx\n"), "0/4000000@1"},
		{"another first timeline", parseHistory(t, 3, "2\t0/3000000\tx\n"), pg.FirstTimeline(), pg.Pos{}.String()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.a.Common(tt.b).String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if got := tt.b.Common(tt.a).String(); got != tt.want {
				t.Errorf("the other way round: %s, want %s", got, tt.want)
			}
		})
	}
}

func TestHistoryWithoutALastNewlineIsWholeIfAReasonBegan(t *testing.T) {
	h := parseHistory(t, 2, "# by hand\n  1   0/3000000   moved")
	want := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x3000000, Reason: "moved"}}}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseLSN(f *testing.F) {
	f.Add("1/A0000028")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := pg.ParseLSN(s)
		if err != nil {
			return
		}
		if again, err := pg.ParseLSN(l.String()); err != nil || again != l {
			t.Errorf("%q: %s came back as %s, %v", s, l, again, err)
		}
	})
}

func FuzzParseWALFile(f *testing.F) {
	f.Add("00000002000000010000000A", uint32(16<<20))
	f.Add("000000010000000000000002.00000028.backup", uint32(1<<20))
	f.Add("00000001000000000000000A.partial", uint32(1<<30))
	f.Add("0000000A.history", uint32(0))
	f.Fuzz(func(t *testing.T, name string, size uint32) {
		got := pg.ParseWALFile(name, pg.SegmentSize(size))
		if got.Kind != pg.WALOther && got.Name(pg.SegmentSize(size)) != name {
			t.Errorf("%q came back as %q", name, got.Name(pg.SegmentSize(size)))
		}
	})
}

func FuzzParseHistory(f *testing.F) {
	f.Add(uint32(3), []byte(straight))
	f.Add(uint32(3), []byte(backwards))
	f.Add(uint32(2), []byte("#\n1 0/1 \r\n"))
	f.Fuzz(func(t *testing.T, tli uint32, content []byte) {
		h, err := pg.ParseHistory(pg.Timeline(tli), content)
		if err != nil {
			return
		}
		again, err := pg.ParseHistory(h.Timeline, h.Encode())
		if err != nil || !again.Equal(h) || string(again.Encode()) != string(h.Encode()) {
			t.Fatalf("came back as %v, %v", again, err)
		}
		for _, fork := range h.Forks {
			if end, ok := h.End(fork.Parent); !ok || end > fork.Switch {
				t.Errorf("timeline %s ends at %s, past its own switch", fork.Parent, end)
			}
			if got := h.TimelineAt(fork.Switch); got <= fork.Parent {
				t.Errorf("%s lies on %s although %s was left there", fork.Switch, got, fork.Parent)
			}
		}
		if c := h.Common(h); c != (pg.Pos{Timeline: h.Timeline, LSN: pg.MaxLSN}) && tli != 0 {
			t.Errorf("shares only %s with itself", c)
		}
	})
}
