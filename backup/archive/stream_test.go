package archive_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/pg"
)

// streamChunk stores a part of a segment as receive does.
func streamChunk(t testing.TB, r *repo.Repo, h pg.History, n pg.SegmentNumber, segment []byte, from, to int) repo.Chunk {
	t.Helper()
	c, err := r.PutChunk(t.Context(), repo.Chunk{
		Incarnation: repo.IncarnationOf(h), Segment: n, SegmentSize: segSize, Offset: uint32(from), Prefix: repo.DigestOf(segment[:to]),
	}, segment[from:to])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func getStreamed(t testing.TB, r *repo.Repo, h pg.History, name, dest string, change ...func(*archive.GetOptions)) error {
	t.Helper()
	o := archive.GetOptions{Name: name, Dest: dest, Lineage: fixed(h), SegmentSize: segSize, Streamed: true}
	for _, f := range change {
		f(&o)
	}
	return archive.Get(t.Context(), r, o)
}

func TestAStreamedSegmentIsGivenAsFarAsItGoes(t *testing.T) {
	one := filled(1, 4, 6)
	first := pg.FirstTimeline()
	for name, chunks := range map[string][][2]int{
		"one chunk":                {{0, 5000}},
		"in order":                 {{0, 10}, {10, 2000}, {2000, 5000}},
		"small ones beside a sum":  {{0, 10}, {10, 2000}, {0, 2000}, {2000, 5000}},
		"overlapping":              {{0, 3000}, {1000, 2000}, {2500, 5000}},
		"a sum of the last":        {{0, 10}, {10, 2000}, {2000, 4000}, {4000, 5000}, {10, 5000}},
		"within one another, late": {{0, 5000}, {4000, 4500}},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := repotest.New(t)
			dir := t.TempDir()
			push(t, r, one.save(t, dir, 4, ""))
			for _, c := range chunks {
				streamChunk(t, r, first, 5, one.segments[5], c[0], c[1])
			}
			dest := filepath.Join(dir, "RECOVERYXLOG")
			if err := getStreamed(t, r, first, one.name(5), dest); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(dest)
			want := append(bytes.Clone(one.segments[5][:5000]), make([]byte, int(segSize)-5000)...)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("content differs, %v", err)
			}
			if err := getStreamed(t, r, first, one.name(6), dest); !errors.Is(err, archive.ErrAbsent) {
				t.Errorf("the next segment: %v", err)
			}
			c, err := archive.RestoreCoverage(t.Context(), r, first, segSize, segSize.Start(4))
			if err != nil || c.Until != segSize.Start(5) || c.Streamed != segSize.Start(5)+5000 || !c.RestoresTo(c.Streamed) || c.Reaches(c.Streamed) {
				t.Errorf("covered %+v, %v", c, err)
			}
		})
	}
}

func TestWhoMayNotHaveAStreamedSegment(t *testing.T) {
	one := filled(1, 4, 6)
	two := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: segSize.Start(5) + 100}}}
	r, _ := repotest.New(t)
	push(t, r, one.save(t, t.TempDir(), 4, ""))
	streamChunk(t, r, pg.FirstTimeline(), 5, one.segments[5], 0, 5000)
	dest := filepath.Join(t.TempDir(), "x")
	for name, err := range map[string]error{
		"a standby":                         getStreamed(t, r, pg.FirstTimeline(), one.name(5), dest, func(o *archive.GetOptions) { o.Standby = true }),
		"one that did not ask for it":       getStreamed(t, r, pg.FirstTimeline(), one.name(5), dest, func(o *archive.GetOptions) { o.Streamed = false }),
		"one whose history left it earlier": getStreamed(t, r, two, one.name(5), dest),
	} {
		if !errors.Is(err, archive.ErrAbsent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(dest); err == nil {
		t.Error("something was written")
	}
}

// A damaged, missing or foreign chunk is no end of WAL: what lies behind it
// would be lost without a word.
func TestABrokenStreamIsNoEnd(t *testing.T) {
	one := filled(1, 5, 5)
	other := filled(1, 5, 5)
	other.segments[5][4000] ^= 1
	first := pg.FirstTimeline()
	for name, spoil := range map[string]func(*testing.T, *repo.Repo, storage.Store, []repo.Chunk){
		"damaged": func(t *testing.T, r *repo.Repo, store storage.Store, c []repo.Chunk) {
			flip(t, store, r.ChunkKey(&c[1]), 200, 1)
		},
		"missing": func(t *testing.T, r *repo.Repo, store storage.Store, c []repo.Chunk) {
			if err := store.Delete(t.Context(), r.ChunkKey(&c[1])); err != nil {
				t.Fatal(err)
			}
		},
		"of a server with other WAL": func(t *testing.T, r *repo.Repo, _ storage.Store, _ []repo.Chunk) {
			streamChunk(t, r, first, 5, other.segments[5], 5000, 6000)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, store := openMem(t)
			var chunks []repo.Chunk
			for _, at := range []int{0, 1000, 2000, 3000, 4000} {
				chunks = append(chunks, streamChunk(t, r, first, 5, one.segments[5], at, at+1000))
			}
			spoil(t, r, store, chunks)
			dest := filepath.Join(t.TempDir(), "x")
			err := getStreamed(t, r, first, one.name(5), dest)
			if !errors.Is(err, repo.ErrCorrupt) || !strings.Contains(err.Error(), one.name(5)) {
				t.Errorf("error %v", err)
			}
			if _, err := os.Stat(dest); err == nil {
				t.Error("something was written")
			}
		})
	}
}

// completing is a repository whose segment 5, streamed so far, is archived and its
// chunks removed just before the first call of that kind to look for them or to
// read one. happened says whether it has been.
func completing(t *testing.T, one *builder, at storagetest.Verb) (r *repo.Repo, happened func() bool) {
	inner := mem.New()
	direct := repo.Open(inner, repotest.Cluster, repo.Options{})
	dir, done := t.TempDir(), false
	first := pg.FirstTimeline()
	push(t, direct, one.save(t, dir, 4, ""))
	path := one.save(t, dir, 5, "")
	streamChunk(t, direct, first, 5, one.segments[5], 0, 1000)
	streamChunk(t, direct, first, 5, one.segments[5], 1000, 5000)
	r = repo.Open(storagetest.Faulty(inner, func(c storagetest.Call) (bool, error) {
		if c.Verb == at && strings.Contains(c.Key, "/stream/") && !done {
			done = true
			push(t, direct, path)
			if n, err := archive.RemoveStreamed(context.Background(), direct, repo.IncarnationOf(first), segSize, 5); n != 2 || err != nil {
				t.Errorf("%d chunks removed, %v", n, err)
			}
		}
		return true, nil
	}), repotest.Cluster, repo.Options{})
	return r, func() bool { return done }
}

// A segment that is archived, and its chunks removed, between two looks.
func TestASegmentThatIsArchivedMeanwhileIsGivenWhole(t *testing.T) {
	one := filled(1, 4, 5)
	for _, at := range []storagetest.Verb{storagetest.List, storagetest.Get} {
		t.Run("fetched, before the first "+string(at), func(t *testing.T) {
			r, happened := completing(t, one, at)
			dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
			if err := getStreamed(t, r, pg.FirstTimeline(), one.name(5), dest); err != nil || !happened() {
				t.Fatal(happened(), err)
			}
			if got, err := os.ReadFile(dest); err != nil || !bytes.Equal(got, one.segments[5]) {
				t.Errorf("it is not the whole segment, %v", err)
			}
		})
		t.Run("read, before the first "+string(at), func(t *testing.T) {
			r, happened := completing(t, one, at)
			source := &archive.Source{Repo: r, History: pg.FirstTimeline(), SegmentSize: segSize, Streamed: true}
			f, timeline, err := source.Open(t.Context(), 5)
			if err != nil || !happened() || timeline != 1 {
				t.Fatal(happened(), timeline, err)
			}
			defer f.Close()
			if got, err := io.ReadAll(io.NewSectionReader(f, 0, int64(segSize)+1)); err != nil || !bytes.Equal(got, one.segments[5]) {
				t.Errorf("it is not the whole segment, %v", err)
			}
		})
	}
}

func TestChunksOfArchivedSegmentsAreSweptOthersStay(t *testing.T) {
	one := filled(1, 4, 7)
	first := pg.FirstTimeline()
	r, _ := repotest.New(t)
	dir := t.TempDir()
	for _, n := range []pg.SegmentNumber{4, 5} {
		push(t, r, one.save(t, dir, n, ""))
	}
	two := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: segSize.Start(7) + 100}}}
	for _, n := range []pg.SegmentNumber{5, 6, 7} {
		streamChunk(t, r, first, n, one.segments[n], 0, 1000)
		streamChunk(t, r, first, n, one.segments[n], 1000, 2000)
	}
	removed, err := archive.SweepStreamed(t.Context(), r, two, segSize)
	if err != nil || removed != 2 {
		t.Errorf("%d chunks removed, %v", removed, err)
	}
	left, err := r.AllChunks(t.Context(), repo.IncarnationOf(first), segSize)
	if err != nil || len(left) != 4 || left[0].Segment.Number != 6 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestTheStatusTellsHowFarWALIsStreamed(t *testing.T) {
	one := filled(1, 4, 6)
	r, _ := repotest.New(t)
	dir := t.TempDir()
	push(t, r, one.save(t, dir, 4, ""))
	status := func() *archive.Streamed {
		s, err := archive.ReadStatus(t.Context(), r, archive.LineageOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s.Streamed
	}
	if s := status(); s != nil {
		t.Errorf("nothing is streamed: %+v", s)
	}
	streamChunk(t, r, pg.FirstTimeline(), 5, one.segments[5], 0, 1000)
	streamChunk(t, r, pg.FirstTimeline(), 5, one.segments[5], 1000, 5000)
	s := status()
	if s == nil || s.End != segSize.Start(5)+5000 || s.Chunks != 2 || s.Modified.IsZero() {
		t.Fatalf("streamed %+v", s)
	}
	if end, err := archive.CheckStreamed(t.Context(), r, *s, segSize); err != nil || end != s.End {
		t.Errorf("read to %s, %v", end, err)
	}
}
