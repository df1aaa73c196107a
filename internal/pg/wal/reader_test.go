package wal_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// source gives segments from memory.
type source struct {
	segments map[pg.SegmentNumber][]byte
	timeline pg.Timeline
	err      error
}

type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error { return nil }

func (s *source) Open(_ context.Context, n pg.SegmentNumber) (wal.File, pg.Timeline, error) {
	if s.err != nil {
		return nil, 0, s.err
	}
	if s.segments[n] == nil {
		return nil, 0, fs.ErrNotExist
	}
	return memoryFile{bytes.NewReader(s.segments[n])}, s.timeline, nil
}

// readAll reads to the end of valid WAL.
func readAll(t *testing.T, r *wal.Reader) []wal.Record {
	t.Helper()
	defer r.Close()
	var out []wal.Record
	for {
		rec, err := r.Next(t.Context())
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		c := *rec
		c.Blocks = append([]wal.BlockRef(nil), rec.Blocks...)
		out = append(out, c)
	}
}

// sameRecords compares what was read with what was written.
func sameRecords(t *testing.T, want, got []wal.Record) {
	t.Helper()
	for i := range min(len(want), len(got)) {
		w, g := want[i], got[i]
		if w.Start != g.Start || w.End != g.End || w.Prev != g.Prev || w.Length != g.Length || w.XID != g.XID ||
			w.Rmgr != g.Rmgr || w.Info != g.Info || !slices.Equal(w.Blocks, g.Blocks) {
			t.Fatalf("record %d is %+v, want %+v", i, g, w)
		}
	}
	if len(want) != len(got) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
}

func TestAReaderGivesEveryRecordFromAnyPosition(t *testing.T) {
	b := newBuilder(18, segStart)
	rng := rand.New(rand.NewPCG(60, 1))
	b.random(rng, segmentEnd(1)-5000)
	b.record(rmLogical, 0, nil, make([]byte, 1<<20+5000))
	b.random(rng, b.at+20000)
	b.abort(100000)
	b.random(rng, b.at+20000)
	b.switchSegment()
	b.random(rng, b.at+20000)
	src := &source{segments: b.segments, timeline: 1}
	opt := wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: testSegSize, SystemID: testSystem}
	starts := []pg.LSN{segStart, segStart + 1, segmentEnd(1), b.records[len(b.records)-1].Start}
	for range 40 {
		starts = append(starts, b.records[rng.IntN(len(b.records)-1)].Start+pg.LSN(rng.IntN(2)*rng.IntN(9000)))
	}
	for _, start := range starts {
		want := b.records
		for want[0].Start < start {
			want = want[1:]
		}
		r := wal.NewReader(src, start, opt)
		sameRecords(t, want, readAll(t, r))
		if r.End() != b.at || !errors.Is(r.Reason(), wal.ErrCorrupt) {
			t.Fatalf("from %s: WAL ends at %s (%v), want %s", start, r.End(), r.Reason(), b.at)
		}
	}
}

func TestAReaderEndsWhereALivePgWalDoes(t *testing.T) {
	b := newBuilder(15, segStart)
	b.random(rand.New(rand.NewPCG(61, 1)), segmentEnd(1)+0x41000)
	b.record(10, 0, nil, make([]byte, 30000))
	end, n := b.at, len(b.records)
	last := b.records[n-1]
	next := testSegSize.SegmentOf(end)
	older := newBuilder(15, segStart-pg.LSN(testSegSize))
	older.random(rand.New(rand.NewPCG(61, 2)), segStart)
	recycled := older.segments[testSegSize.SegmentOf(segStart)-1]
	off := int(end % pg.LSN(testSegSize))
	for _, c := range []struct {
		name   string
		change func(segments map[pg.SegmentNumber][]byte)
		end    pg.LSN
		count  int
		reason string
	}{
		{"zeros follow", func(map[pg.SegmentNumber][]byte) {}, end, n, "length is 0"},
		{"recycled pages follow", func(s map[pg.SegmentNumber][]byte) { copy(s[next][off:], recycled[off:]) }, end, n, ""},
		{"the last record is not whole", func(s map[pg.SegmentNumber][]byte) { copy(s[next][off-9000:], recycled[off-9000:]) }, last.Start, n - 1, ""},
		{"the next segment is a recycled one", func(s map[pg.SegmentNumber][]byte) { s[next] = recycled }, 0, 0, "page address"},
		{"the next segment is not there", func(s map[pg.SegmentNumber][]byte) { delete(s, next) }, 0, 0, "not exist"},
		{"the next segment is short", func(s map[pg.SegmentNumber][]byte) { s[next] = s[next][:off-9000] }, last.Start, n - 1, "file ends"},
	} {
		t.Run(c.name, func(t *testing.T) {
			segments := map[pg.SegmentNumber][]byte{}
			for n, s := range b.segments {
				segments[n] = bytes.Clone(s)
			}
			c.change(segments)
			if c.end == 0 { // the last record that ends in the first segment
				for _, r := range b.records {
					if r.End <= segmentEnd(1) {
						c.end, c.count = r.End, c.count+1
					}
				}
			}
			r := wal.NewReader(&source{segments: segments, timeline: 1}, segStart, wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: testSegSize})
			got := readAll(t, r)
			if r.End() != c.end || len(got) != c.count || !strings.Contains(r.Reason().Error(), c.reason) {
				t.Errorf("%d records to %s (%v), want %d to %s (%s)", len(got), r.End(), r.Reason(), c.count, c.end, c.reason)
			}
		})
	}
}

func TestAFailureToReadIsNotTheEndOfWAL(t *testing.T) {
	broken := errors.New("input/output error")
	r := wal.NewReader(&source{err: broken}, segStart, wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: testSegSize})
	if _, err := r.Next(t.Context()); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
	b := newBuilder(15, segStart)
	b.random(rand.New(rand.NewPCG(62, 1)), segStart+9000)
	r = wal.NewReader(&source{segments: b.segments, timeline: 1}, segStart,
		wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: testSegSize, SystemID: 1})
	if _, err := r.Next(t.Context()); !errors.Is(err, wal.ErrForeign) {
		t.Errorf("another system's WAL: error %v, want %v", err, wal.ErrForeign)
	}
}

// fork copies the WAL up to its end and continues it on another timeline.
func fork(b *builder, timeline pg.Timeline) *builder {
	f := newBuilder(b.major, b.at)
	f.timeline, f.prev = timeline, b.prev
	n := testSegSize.SegmentOf(b.at)
	f.segments[n] = make([]byte, testSegSize)
	copy(f.segments[n], b.segments[n][:b.at%pg.LSN(testSegSize)])
	return f
}

func write(t *testing.T, dir string, timeline pg.Timeline, segments map[pg.SegmentNumber][]byte, suffix string) {
	t.Helper()
	for n, s := range segments {
		name := pg.Segment{Timeline: timeline, Number: n}.Name(testSegSize) + suffix
		if err := os.WriteFile(filepath.Join(dir, name), s, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAReaderFollowsTheHistory(t *testing.T) {
	old := newBuilder(15, segStart)
	old.random(rand.New(rand.NewPCG(63, 1)), segmentEnd(1)+0x30000)
	branch := fork(old, 2)
	shared := len(old.records)
	old.random(rand.New(rand.NewPCG(63, 2)), segmentEnd(2)+0x30000) // what the old primary wrote alone
	branch.random(rand.New(rand.NewPCG(63, 3)), segmentEnd(3))
	history := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: old.records[shared-1].End}}}
	want := append(append([]wal.Record(nil), old.records[:shared]...), branch.records...)

	t.Run("to the new timeline", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, 1, old.segments, "")
		write(t, dir, 2, branch.segments, "")
		r := wal.NewReader(wal.Dir{Path: dir, History: history, SegmentSize: testSegSize}, segStart, wal.ReaderOptions{History: history, SegmentSize: testSegSize})
		sameRecords(t, want, readAll(t, r))
	})
	t.Run("not past the switch point in the old timeline's file", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, 1, old.segments, ".partial")
		r := wal.NewReader(wal.Dir{Path: dir, History: history, SegmentSize: testSegSize}, segStart, wal.ReaderOptions{History: history, SegmentSize: testSegSize})
		sameRecords(t, old.records[:shared], readAll(t, r))
		if r.End() != history.Forks[0].Switch || !strings.Contains(r.Reason().Error(), "was left at") {
			t.Errorf("WAL ends at %s (%v)", r.End(), r.Reason())
		}
	})
	t.Run("on along the old timeline for its own history", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, 1, old.segments, "")
		write(t, dir, 2, branch.segments, "")
		r := wal.NewReader(wal.Dir{Path: dir, History: pg.FirstTimeline(), SegmentSize: testSegSize}, segStart, wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: testSegSize})
		sameRecords(t, old.records, readAll(t, r))
	})
	t.Run("the same by inspection and chain", func(t *testing.T) {
		old.segments = map[pg.SegmentNumber][]byte{5: old.segments[5]}
		n := testSegSize.SegmentOf(history.Forks[0].Switch)
		for k, s := range branch.segments {
			old.segments[k] = s
		}
		var c wal.Chain
		for _, k := range old.numbers() {
			in := inspect(t, old.segments[k], wal.Expect{})
			if _, err := c.Add(in.Info, in.Carry); err != nil {
				t.Fatal(err)
			}
			if k == n && (in.Info.FirstTimeline != 1 || in.Info.LastTimeline != 2) {
				t.Errorf("segment with the switch point is of timelines %s to %s", in.Info.FirstTimeline, in.Info.LastTimeline)
			}
		}
	})
}
