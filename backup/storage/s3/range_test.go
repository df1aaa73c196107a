package s3

import (
	"fmt"
	"testing"
)

func FuzzParseContentRange(f *testing.F) {
	for _, seed := range []string{"bytes 0-0/1", "bytes 5-9/10", "bytes 5-9/*", "bytes */10", "bytes 9-5/10", "bytes +1-2/3", "", "bytes 0-9223372036854775807/1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		first, last, err := parseContentRange(text)
		if err != nil {
			return
		}
		if first < 0 || last < first || last-first+1 <= 0 {
			t.Errorf("%q: %d-%d", text, first, last)
		}
		again, lastAgain, err := parseContentRange(fmt.Sprintf("bytes %d-%d/*", first, last))
		if err != nil || again != first || lastAgain != last {
			t.Errorf("%q: %d-%d, and again %d-%d, %v", text, first, last, again, lastAgain, err)
		}
	})
}
