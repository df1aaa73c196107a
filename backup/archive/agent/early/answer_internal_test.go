package early

import (
	"bytes"
	"testing"
)

// FuzzAnswer: whatever an agent says, in whatever pieces, is done only if that is
// what it says as a whole.
func FuzzAnswer(f *testing.F) {
	const segment = "000000010000000000000007"
	f.Add([]byte(Beat+string(Answer{segment, "log\n"}.Encode())), 7)
	f.Add(Answer{".pgtender-spool/" + segment + "~1", ""}.Encode(), 3)
	f.Add(No(), 1)
	f.Add([]byte("done "+segment+" 04\n0000"), 145)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		piece = max(1, piece)
		var got []byte
		for rest := b; len(rest) > 0; {
			n := min(piece, len(rest))
			a, done, keep, err := parseAnswer(append(got, rest[:n]...))
			rest = rest[n:]
			if done {
				beats, ok := bytes.CutSuffix(b[:len(b)-len(rest)], a.Encode())
				if !ok || len(bytes.ReplaceAll(beats, []byte(Beat), nil)) > 0 {
					t.Errorf("%q is done", b)
				}
			}
			if done || err != nil {
				return
			}
			got = keep
		}
	})
}

// TestWhatAnswersAnErrand: nothing but the segment that was asked for, and a file below
// the folder in which it is to be put.
func TestWhatAnswersAnErrand(t *testing.T) {
	const segment = "000000010000000000000007"
	push, get := Errand{Segment: segment, Path: "pg_wal/" + segment}, Errand{Get: true, Segment: segment, Path: "pg_wal/RECOVERYXLOG"}
	for _, c := range []struct {
		what      string
		push, get bool
	}{
		{segment, true, false},
		{segment + "~ab", false, true},
		{"spool/" + segment + "~ab", false, true},
		{"spool/" + segment, false, false},
		{"spool/000000010000000000000008~ab", false, false},
		{"spool/" + segment + "~ab/other", false, false},
		{"/spool/" + segment + "~ab", false, false},
		{"../spool/" + segment + "~ab", false, false},
		{"", false, false},
	} {
		a := Answer{What: c.what}
		if a.answers(push) != c.push || a.answers(get) != c.get {
			t.Errorf("%q answers a push: %v, a get: %v", c.what, a.answers(push), a.answers(get))
		}
	}
}

func FuzzHint(f *testing.F) {
	whole, _ := Hint{"/s", "/c"}.Encode()
	f.Add(whole)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := parseHint(b)
		if !ok {
			return
		}
		if again, ok := h.Encode(); !ok || !bytes.Equal(again, b) {
			t.Errorf("%q becomes %q", b, again)
		}
	})
}
