package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/internal/pg"
)

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

func chunkAt(segment []byte, from, to int) (repo.Chunk, []byte) {
	return repo.Chunk{
		Incarnation: repo.IncarnationOf(pg.FirstTimeline()), Segment: 300, SegmentSize: 1 << 20,
		Offset: uint32(from), Prefix: repo.DigestOf(segment[:to]),
	}, segment[from:to]
}

func TestAChunkReadsBackAsItWasPut(t *testing.T) {
	store := mem.New()
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	for _, segment := range [][]byte{noise(1 << 20), make([]byte, 1<<20)} { // one that does not shrink, one that does
		for _, at := range [][2]int{{0, 1}, {1, 100}, {100, 1 << 20}, {0, 1 << 20}} {
			c, raw := chunkAt(segment, at[0], at[1])
			c.Segment = pg.SegmentNumber(segment[0]) // another segment for each content
			put, err := r.PutChunk(t.Context(), c, raw)
			if err != nil {
				t.Fatal(err)
			}
			got, back, err := r.ReadChunk(t.Context(), r.ChunkKey(&put))
			if err != nil || !bytes.Equal(back, raw) || got != put {
				t.Fatalf("%v: read %+v, %d bytes, %v; put %+v", at, got, len(back), err, put)
			}
			if head, err := r.ReadChunkHeader(t.Context(), r.ChunkKey(&put)); err != nil || head != put {
				t.Fatalf("%v: header %+v, %v", at, head, err)
			}
		}
	}
	repotest.Check(t, store)
}

func TestAChunksKeyIsTakenOnce(t *testing.T) {
	ctx := context.Background()
	store := mem.New()
	segment := noise(1000)
	c, raw := chunkAt(segment, 100, 1000)
	if _, err := repo.Open(store, repotest.Cluster, repo.Options{Level: repo.NoCompression}).PutChunk(ctx, c, raw); err != nil {
		t.Fatal(err)
	}
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	if _, err := r.PutChunk(ctx, c, raw); err != nil {
		t.Errorf("the same bytes once more, encoded otherwise: %v", err)
	}
	if _, err := r.PutChunk(ctx, c, bytes.Repeat([]byte{7}, 900)); !errors.Is(err, repo.ErrConflict) {
		t.Errorf("other bytes: %v", err)
	}
	c.Prefix[0]++
	if _, err := r.PutChunk(ctx, c, raw); !errors.Is(err, repo.ErrConflict) {
		t.Errorf("the same bytes after other ones: %v", err)
	}
}

func TestChunksAreListedBySegmentAndOffset(t *testing.T) {
	r := repo.Open(mem.New(), repotest.Cluster, repo.Options{})
	segment := noise(5000)
	put := func(n pg.SegmentNumber, from, to int) {
		c, raw := chunkAt(segment, from, to)
		c.Segment = n
		if _, err := r.PutChunk(t.Context(), c, raw); err != nil {
			t.Fatal(err)
		}
	}
	put(300, 10, 20)
	put(300, 0, 10)
	put(300, 0, 4097)
	put(301, 0, 10)
	put(20, 0, 10)
	i := repo.IncarnationOf(pg.FirstTimeline())
	type place struct {
		N         pg.SegmentNumber
		From, End int64
	}
	places := func(list []repo.ChunkObject, err error) (out []place) {
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list {
			out = append(out, place{o.Segment.Number, o.Offset(), o.End()})
		}
		return out
	}
	one := places(r.Chunks(t.Context(), i, 1<<20, 300))
	if diff := cmp.Diff([]place{{300, 0, 10}, {300, 0, 4097}, {300, 10, 20}}, one); diff != "" {
		t.Error(diff)
	}
	all, err := r.AllChunks(t.Context(), i, 1<<20)
	if diff := cmp.Diff([]place{{20, 0, 10}, {300, 0, 10}, {300, 0, 4097}, {300, 10, 20}, {301, 0, 10}}, places(all, err)); diff != "" {
		t.Error(diff)
	}
	if got, err := r.StreamIncarnations(t.Context()); err != nil || len(got) != 1 || got[0] != i {
		t.Errorf("incarnations %v, %v", got, err)
	}
	if err := r.Remove(t.Context(), all[0].Key); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.ReadChunk(t.Context(), all[0].Object.Key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a deleted chunk: %v", err)
	}
}

func TestWhatNoChunkCanBeIsRefused(t *testing.T) {
	r := repo.Open(mem.New(), repotest.Cluster, repo.Options{})
	for name, change := range map[string]func(*repo.Chunk) []byte{
		"no bytes":               func(*repo.Chunk) []byte { return nil },
		"past the segment's end": func(c *repo.Chunk) []byte { c.Offset = 1<<20 - 5; return noise(6) },
		"too large":              func(c *repo.Chunk) []byte { c.SegmentSize = 1 << 26; return make([]byte, repo.MaxChunk+1) },
		"no segment size":        func(c *repo.Chunk) []byte { c.SegmentSize = 0; return noise(1) },
		"no timeline":            func(c *repo.Chunk) []byte { c.Incarnation.Timeline = 0; return noise(1) },
	} {
		c, _ := chunkAt(noise(10), 0, 10)
		raw := change(&c)
		if _, err := r.PutChunk(t.Context(), c, raw); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
