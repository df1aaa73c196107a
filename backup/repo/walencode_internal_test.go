package repo

import (
	"bytes"
	"testing"
)

func TestHowWALIsSearchedInHaste(t *testing.T) {
	for _, c := range []struct {
		name        string
		raw, stored int
		want        search
	}{
		{"nothing is known", 0, 0, searchWAL},
		{"it hardly shrank", 1000, 400, searchSteps},
		{"it did not shrink", 1000, 1000, searchSteps},
		{"it shrank well", 1000, 200, searchHasty},
		{"it was zeros", 1000, 1, searchHasty},
	} {
		if got := hastily(c.raw, c.stored); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestASpoolTakesInWhatWasMadeInIt, and copies what was not.
func TestASpoolTakesInWhatWasMadeInIt(t *testing.T) {
	for name, limit := range map[string]int{"in memory": 1 << 20, "in a file": 1000} {
		s := &spool{dir: t.TempDir(), limit: limit, mem: make([]byte, 0, 4096)}
		want := []byte{}
		for i := range 12 {
			b := bytes.Repeat([]byte{byte('a' + i)}, 200+i)
			if room := s.room(300); i%3 > 0 && room != nil {
				b = room[:copy(room, b)]
			}
			want = append(want, b...)
			if n, err := s.Write(b); err != nil || n != len(b) {
				t.Fatalf("%s: %d, %v", name, n, err)
			}
		}
		got := make([]byte, s.size)
		if _, err := s.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes differ from %d: %v", name, len(got), len(want), err)
		}
		if s.room(1<<20) != nil {
			t.Errorf("%s: there is room for more than there is memory", name)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
