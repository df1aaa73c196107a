package pg_test

import (
	"testing"

	"github.com/pgtender/pgtender/internal/pg"
)

func BenchmarkPageSums(b *testing.B) {
	buf := make([]byte, 64<<10)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	out := make([]uint32, len(buf)/8192)
	for name, sums := range map[string]func([]uint32, []byte, int){"default": pg.PageSums, "pure Go": pg.PageSumsGo} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				sums(out, buf, 8192)
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	buf := make([]byte, 32<<20)
	for i := range len(buf) / 8192 {
		soundPage(buf[i*8192:(i+1)*8192], uint32(i))
	}
	v := pg.PageVerifier{PageSize: 8192, Checksums: true}
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if bad := v.Verify(buf, 0); bad != nil {
			b.Fatal(bad)
		}
	}
}
