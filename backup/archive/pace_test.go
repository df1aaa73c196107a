package archive_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/internal/pg"
)

func TestOnlyAFarBacklogIsCompressedHastily(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name  string
		now   archive.Backlog
		hasty bool
	}{
		{"nothing waits", archive.Backlog{}, false},
		{"a few wait", archive.Backlog{Waiting: 15, Encode: 80 * ms, Store: 10 * ms}, false},
		{"many wait, and nothing was measured yet", archive.Backlog{Waiting: 16}, true},
		{"many wait for the processor", archive.Backlog{Waiting: 16, Encode: 80 * ms, Store: 10 * ms}, true},
		{"many wait for the network", archive.Backlog{Waiting: 500, Encode: 80 * ms, Store: 90 * ms}, false},
	} {
		if got := archive.DecidePace(c.now); got.Hasty != c.hasty || got.Why == "" {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// TestHowASegmentIsCompressedDoesNotShow: one that was archived in haste is equal
// to itself, and comes back.
func TestHowASegmentIsCompressedDoesNotShow(t *testing.T) {
	r, _ := repotest.New(t)
	b := newBuilder(1, 4)
	b.size = 4 << 20 // of several chunks: how the first one shrinks says how to go on
	for n := pg.SegmentNumber(4); n <= 6; n++ {
		b.segments[n] = repotest.WAL(1, n, b.size)
	}
	dir := backlog(t, b, 4, 6)
	var hurry archive.Pacer
	hurry.Waits(100)
	sizes := map[bool]int64{}
	for _, n := range []pg.SegmentNumber{4, 5} {
		opts := archive.PushOptions{Path: filepath.Join(dir, b.name(n))}
		if n == 4 {
			opts.Pacer = &hurry
		}
		result, err := archive.Push(t.Context(), r, opts)
		if err != nil || result.Outcome != archive.Stored {
			t.Fatalf("%+v, %v", result, err)
		}
		h, err := r.ReadWALHeader(t.Context(), result.Key)
		if err != nil {
			t.Fatal(err)
		}
		sizes[n == 4] = h.StoredSize()
		opts.Pacer = nil
		if again := push(t, r, opts.Path); again.Outcome != archive.AlreadyArchived {
			t.Errorf("segment %d again: %+v", n, again)
		}
		if string(readBack(t, r, result.Key)) != string(b.segments[n]) {
			t.Errorf("segment %d comes back otherwise", n)
		}
	}
	if repo.HasHaste && sizes[true] <= sizes[false]+sizes[false]/100 {
		t.Errorf("in haste %d bytes, else %d: nothing shows that it was in haste", sizes[true], sizes[false])
	}
}
