package early

import (
	"bytes"
	"testing"
)

// FuzzAnswer: whatever an agent says, in whatever pieces, is done only if that is
// what it says as a whole.
func FuzzAnswer(f *testing.F) {
	const segment = "000000010000000000000007"
	f.Add([]byte(Beat+string(Done(segment, "log\n"))), 7)
	f.Add(No(), 1)
	f.Add([]byte("done "+segment+" 04\n0000"), 145)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		piece = max(1, piece)
		var got []byte
		for rest := b; len(rest) > 0; {
			n := min(piece, len(rest))
			log, done, keep, err := parseAnswer(append(got, rest[:n]...), segment)
			rest = rest[n:]
			if done {
				beats, ok := bytes.CutSuffix(b[:len(b)-len(rest)], Done(segment, log))
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

func FuzzHint(f *testing.F) {
	f.Add([]byte(Hint{"/s", "/c"}.text()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, ok := parseHint(b); ok && h.text() != string(b) {
			t.Errorf("%q becomes %q", b, h.text())
		}
	})
}
