package wal_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// benchSegment is the segment to measure: the file named by PGTENDER_BENCH_WAL,
// such as one of a real server's, or one of generated records of some 250 bytes.
func benchSegment(b *testing.B) []byte {
	if path := os.Getenv("PGTENDER_BENCH_WAL"); path != "" {
		s, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	w := newBuilder(15, segStart)
	w.random(rand.New(rand.NewPCG(50, 1)), segmentEnd(1)+1)
	return w.segments[5]
}

func BenchmarkInspect(b *testing.B) {
	s := benchSegment(b)
	b.SetBytes(int64(len(s)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := wal.Inspect(s, wal.Expect{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInspectFile(b *testing.B) {
	s := benchSegment(b)
	b.SetBytes(int64(len(s)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := wal.InspectFile(bytes.NewReader(s), int64(len(s)), wal.Expect{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReader(b *testing.B) {
	s := benchSegment(b)
	in, err := wal.Inspect(s, wal.Expect{})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(s)))
	b.ReportAllocs()
	opt := wal.ReaderOptions{
		History: pg.History{Timeline: in.Info.FirstTimeline}, SegmentSize: in.Info.SegmentSize,
	}
	number := in.Info.SegmentSize.SegmentOf(in.Info.Start)
	for b.Loop() {
		r := wal.NewReader(&source{segments: map[pg.SegmentNumber][]byte{number: s}, timeline: in.Info.FirstTimeline}, in.Info.Start, opt)
		m := new(wal.BlockMap)
		for {
			rec, err := r.Next(context.Background())
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			if _, err := m.Record(rec); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkTenMillionBlocks marks, merges and encodes as many blocks of a 1 TiB
// table.
func BenchmarkTenMillionBlocks(b *testing.B) {
	const n = 10_000_000
	rng := rand.New(rand.NewPCG(51, 1))
	b.ReportAllocs()
	for b.Loop() {
		m := new(wal.BlockMap)
		for range n {
			m.Mark(relA, wal.Main, rng.Uint32N(1<<27))
		}
		sum := new(wal.BlockMap)
		sum.Merge(m)
		enc := sum.Encode()
		if _, err := wal.DecodeBlockMap(enc); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(enc))/n, "encoded-bytes/block")
	}
}
