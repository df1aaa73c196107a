package backup

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/internal/pg"
)

// benchSource is a directory of large relations and many small files. Pages
// compress about as PostgreSQL's do.
func benchSource(b *testing.B) (s *source, size int64) {
	b.Helper()
	s = newSource(b)
	page := func(block uint32) []byte {
		p := soundPage(block, 0x1000)
		for i := 4000; i+64 < testPage; i += 120 {
			copy(p[i:], fmt.Sprintf("%08x|customer %05d|aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|", block*uint32(i)*2654435761, block%10000))
		}
		le := pg.PageChecksum(p, block)
		p[8], p[9] = byte(le), byte(le>>8)
		return p
	}
	for i, pages := range []uint32{16384, 8192, 8192} {
		data := make([]byte, 0, pages*testPage)
		for n := range pages {
			data = append(data, page(n)...)
		}
		s.write(fmt.Sprintf("base/5/%d", 100+i), data)
		size += int64(len(data))
	}
	for i := range 900 {
		data := page(0)
		s.write(fmt.Sprintf("base/5/%d", 1000+i), data)
		size += int64(len(data))
	}
	return s, size
}

// BenchmarkCopy measures the copy engine against the bare loop of the same
// work: read, verify, compress, digest, on one worker and into memory.
func BenchmarkCopy(b *testing.B) {
	s, size := benchSource(b)
	b.Run("engine", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			r := repo.Open(mem.New(), repotest.Cluster, repo.Options{})
			files, err := scan(b.Context(), s.dir, testPage, slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			w, err := r.Create(b.Context(), repotest.ID(1), repo.WriteOptions{PackSize: packSize(packMemory, 1)})
			if err != nil {
				b.Fatal(err)
			}
			p := testPages(false)
			p.segment = 131072
			c := &copier{root: s.dir.Root, blockSize: testPage, writer: w, pages: p, rate: &rate{}}
			if err := c.run(b.Context(), files, 1); err != nil {
				b.Fatal(err)
			}
			w.Close()
		}
	})
	b.Run("bare", func(b *testing.B) {
		b.SetBytes(size)
		names, err := filepath.Glob(filepath.Join(s.dir.Root, "base/5/*"))
		if err != nil {
			b.Fatal(err)
		}
		verifier := pg.PageVerifier{PageSize: testPage, Checksums: true}
		for b.Loop() {
			w, err := repo.Open(mem.New(), repotest.Cluster, repo.Options{}).Create(b.Context(), repotest.ID(1), repo.WriteOptions{PackSize: packSize(packMemory, 1)})
			if err != nil {
				b.Fatal(err)
			}
			packs, buf := w.Pack(), make([]byte, readSize)
			for _, name := range names {
				f, err := os.Open(name)
				if err != nil {
					b.Fatal(err)
				}
				for block := uint32(0); ; {
					n, err := io.ReadFull(f, buf)
					verifier.Verify(buf[:n], block)
					for i := 0; i < n; i += repo.MaxFrame {
						if _, err := packs.WriteRun(b.Context(), 1, block+uint32(i/testPage), buf[i:min(i+repo.MaxFrame, n)]); err != nil {
							b.Fatal(err)
						}
					}
					block += uint32(n / testPage)
					if err != nil {
						break
					}
				}
				f.Close()
			}
			if err := packs.Close(b.Context()); err != nil {
				b.Fatal(err)
			}
			w.Close()
		}
	})
}
