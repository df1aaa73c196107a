package catchup

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAJournalCountsUpToTheFirstLineThatIsNotWhole(t *testing.T) {
	whole := journalLine("run") + journalLine("7") + journalLine("9")
	for name, test := range map[string]struct {
		text string
		want map[uint32]bool
		end  int
	}{
		"whole":                       {whole, map[uint32]bool{7: true, 9: true}, len(whole)},
		"cut off":                     {whole[:len(whole)-1], map[uint32]bool{7: true}, len(journalLine("run") + journalLine("7"))},
		"damaged in the middle":       {journalLine("run") + "7 00000000\n" + journalLine("9"), map[uint32]bool{}, len(journalLine("run"))},
		"of another run":              {journalLine("other") + journalLine("7"), map[uint32]bool{}, 0},
		"not begun":                   {"", map[uint32]bool{}, 0},
		"with a number that is none":  {journalLine("run") + journalLine("-7"), map[uint32]bool{}, len(journalLine("run"))},
		"with a line without an end":  {journalLine("run") + strings.Repeat("7", 100000), map[uint32]bool{}, len(journalLine("run"))},
		"with a number in other form": {journalLine("run") + "07 12345678\n", map[uint32]bool{}, len(journalLine("run"))},
	} {
		t.Run(name, func(t *testing.T) {
			got, end, err := parseJournal(strings.NewReader(test.text), "run")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" || end != int64(test.end) {
				t.Errorf("end %d, want %d\n%s", end, test.end, diff)
			}
		})
	}
}

func FuzzJournal(f *testing.F) {
	f.Add(journalLine("run") + journalLine("7") + journalLine("4294967295"))
	f.Add(journalLine("run") + "7 0")
	f.Fuzz(func(t *testing.T, text string) {
		files, end, err := parseJournal(strings.NewReader(text), "run")
		if err != nil || end < 0 || end > int64(len(text)) {
			t.Fatalf("end %d of %d, %v", end, len(text), err)
		}
		again, end2, err := parseJournal(strings.NewReader(text[:end]), "run")
		if err != nil || end2 != end || !cmp.Equal(files, again) {
			t.Fatalf("what counts reads back as %v up to %d, not %v up to %d", again, end2, files, end)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"x","phase":"staging","purpose":"restore","target":{"kind":"time","time":"2026-05-01T12:00:00Z"},"cluster":"demo","system_id":"7","backup":"20260501T120000Z-000001","places":[{"oid":5,"location":"/a","path":"/a/b"}],"control":"00000000000000000000000000000000"}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			return
		}
		first, err := json.Marshal(s)
		if err != nil {
			t.Skip(err) // a time that JSON cannot hold
		}
		again, err := parseState(first)
		if err != nil {
			t.Fatalf("%v: %s", err, first)
		}
		second, err := json.Marshal(again)
		if err != nil || string(first) != string(second) {
			t.Fatalf("%s became %s (%v)", first, second, err)
		}
	})
}
