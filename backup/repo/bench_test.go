//go:build cgo

package repo_test

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"syscall"
	"testing"

	"github.com/DataDog/zstd"
	"github.com/zeebo/xxh3"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// discard takes everything and keeps nothing, so that writing alone is measured.
type discard struct{ storage.Store }

func (discard) Put(_ context.Context, _ string, src io.ReaderAt, size int64, _ storage.PutOptions) error {
	return nil
}

func (discard) List(context.Context, string, string) iter.Seq2[storage.Object, error] {
	return func(func(storage.Object, error) bool) {}
}

var benchPages = pages(1, 4096, 0) // 32 MiB

func BenchmarkWriteRun(b *testing.B) {
	for _, level := range []int{1, 3, repo.NoCompression} {
		b.Run(fmt.Sprintf("level %d", level), func(b *testing.B) {
			r := repo.Open(discard{mem.New()}, repotest.Cluster, repo.Options{Level: level})
			w, err := r.Create(b.Context(), repotest.ID(1), repo.WriteOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			p := w.Pack()
			b.SetBytes(frameSize)
			b.ReportAllocs()
			stored := 0
			cpu := cpuTime(b)
			for i := 0; b.Loop(); i++ {
				off := i * frameSize % len(benchPages)
				f, err := p.WriteRun(b.Context(), 1, uint32(i*8), benchPages[off:off+frameSize])
				if err != nil {
					b.Fatal(err)
				}
				stored += int(f.Length)
			}
			b.ReportMetric(float64(b.N)*frameSize/float64(stored), "ratio")
			cpu(frameSize)
			if err := p.Close(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkBareLoop is the same work without a format: digest, page hashes,
// libzstd at level 1, checksum. WriteRun is to be compared with it.
func BenchmarkBareLoop(b *testing.B) {
	table := crc32.MakeTable(crc32.Castagnoli)
	z := zstd.NewCtx()
	dst := make([]byte, zstd.CompressBound(frameSize))
	b.SetBytes(frameSize)
	cpu := cpuTime(b)
	for i := 0; b.Loop(); i++ {
		off := i * frameSize % len(benchPages)
		raw := benchPages[off : off+frameSize]
		xxh3.Hash128(raw)
		for p := range 8 {
			xxh3.Hash(raw[p*bs : (p+1)*bs])
		}
		out, err := z.CompressLevel(dst, raw, 1)
		if err != nil {
			b.Fatal(err)
		}
		crc32.Checksum(out, table)
	}
	cpu(frameSize)
}

// cpuTime starts a clock of processor time; what it gives reports the rate,
// which a busy machine does not distort as it does the wall's.
func cpuTime(b *testing.B) func(bytes int) {
	used := func() float64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	start := used()
	return func(bytes int) {
		b.ReportMetric(float64(b.N)*float64(bytes)/1e6/(used()-start), "MB/cpu-s")
	}
}

func BenchmarkFetch(b *testing.B) {
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("%d workers", workers), func(b *testing.B) {
			r := repo.Open(mem.New(), repotest.Cluster, repo.Options{})
			if _, err := writeFull(b.Context(), r, repotest.ID(1), tree{"base/1/1": benchPages}, repo.WriteOptions{}); err != nil {
				b.Fatal(err)
			}
			m, err := r.OpenManifest(b.Context(), repotest.ID(1))
			if err != nil {
				b.Fatal(err)
			}
			var wants []repo.Want
			for e, err := range m.Entries(b.Context()) {
				if err != nil {
					b.Fatal(err)
				}
				wants = append(wants, repo.Want{Entry: e})
			}
			b.SetBytes(int64(len(benchPages)))
			b.ReportAllocs()
			cpu := cpuTime(b)
			for b.Loop() {
				err := m.Fetch(b.Context(), m.Locate(b.Context(), repo.Values(wants)), repo.FetchOptions{Workers: workers}, func(context.Context, repo.Read, []byte) error { return nil })
				if err != nil {
					b.Fatal(err)
				}
			}
			cpu(len(benchPages))
		})
	}
}

// benchSegment is 16 MiB of WAL: the file named by PGTENDER_BENCH_WAL, such as one of a
// real server's, or generated.
func benchSegment(b *testing.B) []byte {
	if path := os.Getenv("PGTENDER_BENCH_WAL"); path != "" {
		s, err := os.ReadFile(path)
		if err != nil || len(s) != 16<<20 {
			b.Fatalf("%d bytes, %v", len(s), err)
		}
		return s
	}
	return repotest.WAL(1, 5, 16<<20)
}

// BenchmarkTakeWAL is what an archiver does, judging apart; ratio is that of the raw
// bytes to the stored ones.
func BenchmarkTakeWAL(b *testing.B) {
	segment := benchSegment(b)
	r := repo.Open(discard{mem.New()}, repotest.Cluster, repo.Options{})
	p := sounds{r.TakeWAL(bytes.NewReader(segment), int64(len(segment))), nil}
	if _, err := wal.InspectPieces(&p, int64(len(segment)), wal.Expect{}); err != nil {
		b.Fatal(err)
	}
	if err := p.Close(); err != nil { // as long as it is open the next one has fewer processors
		b.Fatal(err)
	}
	h := segmentHeader(16 << 20)
	h.LastRecord, h.LastComplete = h.FirstRecord, h.FirstRecord
	for name, r := range map[string]*repo.Repo{"usual": r, "hasty": r.Hastily()} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(segment)))
			cpu := cpuTime(b)
			var stored int64
			for b.Loop() {
				in, next := r.TakeWAL(readerAt(segment), int64(len(segment))), p.heard
				for off := int64(0); off < int64(len(segment)); {
					piece, err := in.Piece(off)
					if err != nil {
						b.Fatal(err)
					}
					off += int64(len(piece))
					for len(next) > 0 && next[0] < off {
						in.Sound(next[0])
						next = next[1:]
					}
				}
				d, err := in.Encode(h, nil, nil)
				if err != nil {
					b.Fatal(err)
				}
				stored = d.Size()
				d.Close()
				in.Close()
			}
			b.ReportMetric(float64(len(segment))/float64(stored), "ratio")
			cpu(len(segment))
		})
	}
}

// sounds keeps what the intake hears.
type sounds struct {
	*repo.WALIntake
	heard []int64
}

func (s *sounds) Sound(off int64) { s.heard = append(s.heard, off) }

func BenchmarkReadWAL(b *testing.B) {
	segment := benchSegment(b)
	r := repo.Open(mem.New(), repotest.Cluster, repo.Options{})
	h := segmentHeader(16 << 20)
	if err := putWAL(b.Context(), r, h, r.WALKey, nil, nil, segment); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(segment)))
	for b.Loop() {
		if _, err := r.ReadWAL(b.Context(), r.WALKey(&h), io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

type readerAt []byte

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return copy(p, r[off:]), nil }

func BenchmarkEntries(b *testing.B) {
	r := repo.Open(mem.New(), repotest.Cluster, repo.Options{})
	w, err := r.Create(b.Context(), repotest.ID(1), repo.WriteOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	p := w.Pack()
	f, err := p.WriteBundle(b.Context(), []repo.Member{{File: 1, Data: []byte("x")}})
	if err != nil {
		b.Fatal(err)
	}
	if err := p.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	const n = 20000
	entries := func(yield func(repo.Entry, error) bool) {
		for i := range n {
			e := repo.Entry{File: uint32(i + 1), Path: fmt.Sprintf("base/16384/%08d", i), Size: 1, Mode: 0o600, Modified: repotest.ID(i).Time(), Bundle: &repo.BundleRef{Place: f.Place}, Digest: repo.DigestOf([]byte("x"))}
			if !yield(e, nil) {
				return
			}
		}
	}
	if _, err := w.Commit(b.Context(), repo.Contents{Backup: repotest.Backup(repotest.ID(1)), Entries: entries}); err != nil {
		b.Fatal(err)
	}
	m, err := r.OpenManifest(b.Context(), repotest.ID(1))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		for _, err := range m.Entries(b.Context()) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
}
