package backup

import (
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
)

func TestAFrameHoldsMoreOfWhatCompressesWell(t *testing.T) {
	for name, test := range map[string]struct {
		blockSize, raw, stored int
		want                   int
	}{
		"noise":                              {8192, 64 << 10, 64<<10 + 56, 64 << 10},
		"hardly smaller":                     {8192, 64 << 10, 60 << 10, 64 << 10},
		"half":                               {8192, 64 << 10, 32 << 10, 128 << 10},
		"a third, in whole pages":            {8192, 64 << 10, 21 << 10, 24 * 8192},
		"a tenth":                            {8192, 128 << 10, 13 << 10, repo.MaxFrame},
		"a sixth, still within the limit":    {8192, 128 << 10, 21 << 10, 48 * 8192},
		"zeros":                              {8192, 256 << 10, 90, repo.MaxFrame},
		"small pages: 64 of them at most":    {1024, 64 << 10, 90, 64 << 10},
		"medium pages":                       {2048, 64 << 10, 90, 128 << 10},
		"large pages":                        {32768, 64 << 10, 21 << 10, 6 * 32768},
		"a large one that turned into noise": {8192, 256 << 10, 256<<10 + 56, 64 << 10},
		"a short end of a file":              {8192, 17, 73, 64 << 10},
	} {
		c := newCutter(test.blockSize)
		if c.size != minFrame {
			t.Errorf("%s: the first frame holds %d bytes", name, c.size)
		}
		if c.learn(test.raw, test.stored); c.size != test.want {
			t.Errorf("%s: the next frame holds %d bytes, want %d", name, c.size, test.want)
		}
	}
}
