package main

import (
	"strings"
	"testing"
	"time"
)

func TestIndenterKeepsLinesWhole(t *testing.T) {
	var out strings.Builder
	w := (&narrator{out: &out}).indented()
	for _, part := range []string{"one\ntw", "o\n", "", "\nthree"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("wrote %d of %d: %v", n, len(part), err)
		}
	}
	w.end()
	if got, want := out.String(), "  one\n  two\n  \n  three\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := w.all.String(), "one\ntwo\n\nthree"; got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
}

func TestQuotedIsWhatAShellTakes(t *testing.T) {
	got := quoted([]string{"psql", "-c", "select 'one'", "select 'two', $1", "", "plain-1.2/3"})
	if want := `psql -c "select 'one'" 'select '\''two'\'', $1' '' plain-1.2/3`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestClock(t *testing.T) {
	if got := clock(125*time.Second + 900*time.Millisecond); got != "2:05" {
		t.Errorf("%s, want 2:05", got)
	}
}
