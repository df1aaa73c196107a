package archive_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/meter"
	"github.com/pgtender/pgtender/internal/pg"
)

// TestWhatAPushCosts: in calls of the store.
func TestWhatAPushCosts(t *testing.T) {
	b := filled(1, 4, 4)
	for _, c := range []struct {
		name     string
		standby  bool
		archived bool
		outcome  archive.Outcome
		want     meter.Counts
	}{
		{"a primary's segment is put without a question", false, false, archive.Stored, meter.Counts{Put: 1}},
		{"a primary's that is archived is compared", false, true, archive.AlreadyArchived, meter.Counts{Put: 1, Get: 1, Failed: 1, Exists: 1, BytesDown: 256}},
		{"a standby's that is archived is not sent", true, true, archive.AlreadyArchived, meter.Counts{Get: 1, BytesDown: 256}},
		{"a standby's that is not archived is", true, false, archive.Stored, meter.Counts{Put: 1, Get: 1, Failed: 1, Absent: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sound, store := repotest.New(t)
			data := t.TempDir()
			path := b.save(t, mkdir(t, data, "pg_wal"), 4, "")
			if c.archived {
				push(t, sound, path)
			}
			if c.standby {
				save(t, filepath.Join(data, "standby.signal"), nil)
			}
			count := meter.New(store)
			result := push(t, repo.Open(count, repotest.Cluster, repo.Options{}), path)
			got := count.Counts()
			got.BytesUp = 0
			if diff := cmp.Diff(c.want, got); diff != "" || result.Outcome != c.outcome {
				t.Errorf("outcome %q, calls (-want +got):\n%s", result.Outcome, diff)
			}
		})
	}
}

// TestAFetchListsLittle: one that remembers looks far ahead once, and then at
// the name it is asked for.
func TestAFetchListsLittle(t *testing.T) {
	r, store := repotest.New(t)
	b, dir := filled(1, 4, 7), t.TempDir()
	for n := pg.SegmentNumber(4); n <= 7; n++ {
		push(t, r, b.save(t, dir, n, ""))
	}
	count := meter.New(store)
	r = repo.Open(count, repotest.Cluster, repo.Options{})
	listed := func(seen string, n pg.SegmentNumber) int64 {
		t.Helper()
		before, dest := count.Counts(), filepath.Join(dir, "out")
		err := archive.Get(t.Context(), r, archive.GetOptions{Name: b.name(n), Dest: dest, Lineage: fixed(pg.FirstTimeline()), SegmentSize: segSize, SeenFile: seen})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(dest); err != nil || string(got) != string(b.segments[n]) {
			t.Errorf("segment %d differs: %v", n, err)
		}
		d := count.Counts().Sub(before)
		if d.List != 1 || d.Get != 1 {
			t.Errorf("segment %d costs %+v", n, d)
		}
		return d.Listed
	}
	seen := filepath.Join(dir, "seen")
	for n, want := range []int64{4, 1, 1, 4} { // at the last one known it looks ahead again
		if got := listed(seen, 4+pg.SegmentNumber(n)); got != want {
			t.Errorf("segment %d: %d names were listed, want %d", 4+n, got, want)
		}
		if got := listed("", 4+pg.SegmentNumber(n)); got != 1 {
			t.Errorf("segment %d, without memory: %d names were listed", 4+n, got)
		}
	}
}

// TestAnEqualSegmentIsConfirmedByOneRequest: nothing is encoded or sent, and
// what the notes say wrongly is found out.
func TestAnEqualSegmentIsConfirmedByOneRequest(t *testing.T) {
	b := filled(1, 4, 4)
	for _, c := range []struct {
		name    string
		archive func(content []byte) []byte // nil: nothing is archived
		want    meter.Counts
		outcome archive.Outcome
	}{
		{"archived with the same content", func(c []byte) []byte { return c }, meter.Counts{Get: 1, BytesDown: 256}, archive.AlreadyArchived},
		{"not archived at all", nil, meter.Counts{Put: 1, Get: 1, Failed: 1, Absent: 1}, archive.Stored},
	} {
		t.Run(c.name, func(t *testing.T) {
			sound, store := repotest.New(t)
			dir := t.TempDir()
			path := b.save(t, dir, 4, "")
			if c.archive != nil {
				push(t, sound, path)
			}
			count := meter.New(store)
			owner := 0
			result, err := archive.Push(t.Context(), repo.Open(count, repotest.Cluster, repo.Options{}), archive.PushOptions{
				Path: path, Expected: true, CheckOwner: func(context.Context) error { owner++; return nil },
			})
			got := count.Counts()
			got.BytesUp = 0
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" || result.Outcome != c.outcome {
				t.Errorf("outcome %q, %v, calls (-want +got):\n%s", result.Outcome, err, diff)
			}
			if (owner == 0) != (c.outcome == archive.AlreadyArchived) {
				t.Errorf("the owner was asked %d times", owner)
			}
		})
	}
}

func TestADifferentSegmentIsNotConfirmed(t *testing.T) {
	for name, change := range map[string]func([]byte){
		"a byte of a record": func(c []byte) { c[9000] ^= 1 },
		"the last byte":      func(c []byte) { c[len(c)-1] ^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := repotest.New(t)
			b, dir := filled(1, 4, 5), t.TempDir()
			path := b.save(t, dir, 4, "")
			b.save(t, dir, 5, "")
			push(t, r, path)
			change(b.segments[4])
			b.save(t, dir, 4, "")
			if result, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path, Expected: true}); err == nil {
				t.Errorf("success: %+v", result)
			}
		})
	}
}

// TestWhatAnIndexCosts: segments that are archived side by side by one process complete
// a group; what was stored with them is not read back, and one index is made of it.
func TestWhatAnIndexCosts(t *testing.T) {
	dir := t.TempDir()
	h, _, _ := wrote(t, dir)
	_, store := repotest.New(t)
	count := meter.New(store)
	r := repo.Open(count, repotest.Cluster, repo.Options{})
	var recent archive.Recent
	archived := func(first, last pg.SegmentNumber) meter.Counts {
		t.Helper()
		before := count.Counts()
		var g errgroup.Group
		for n := first; n <= last; n++ {
			g.Go(func() error {
				_, err := archive.Push(t.Context(), r, archive.PushOptions{Path: pathOf(dir, h, n), Recent: &recent})
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		return count.Counts().Sub(before)
	}
	push(t, r, dir+"/00000002.history")
	if c := archived(250, 254); c.Put != 5 || c.Get != 0 { // 255 is what the group lacks
		t.Errorf("segments before the last: %+v", c)
	}
	for range 2 { // the second time they are there
		c := archived(255, 255)
		if c.Put > 2 || c.List > 1 || c.BytesDown > 1000 {
			t.Errorf("the last segment and the index: %+v", c)
		}
	}
	whole := r.WALIndexKey(repo.IncarnationOf(h), 0)
	made, err := storage.ReadAll(t.Context(), store, whole, 1<<20)
	if err != nil {
		t.Fatal(err)
	}

	// Read back, it is the same.
	if err := store.Delete(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	verify(t, r, h, false)
	again, err := storage.ReadAll(t.Context(), store, whole, 1<<20)
	if err != nil || !bytes.Equal(made, again) {
		t.Errorf("an index of %d bytes was made of what is remembered, of what is stored one of %d (%v)", len(made), len(again), err)
	}
}

// TestWhoeverIsLastMakesTheIndex, and nobody else, where segments that complete a group
// are stored at the same time.
func TestWhoeverIsLastMakesTheIndex(t *testing.T) {
	dir := t.TempDir()
	h, _, _ := wrote(t, dir)
	_, store := repotest.New(t)
	together := &meeting{Store: store, n: 6, met: make(chan struct{})}
	count := meter.New(together)
	r := repo.Open(count, repotest.Cluster, repo.Options{})
	push(t, repo.Open(store, repotest.Cluster, repo.Options{}), dir+"/00000002.history")
	var recent archive.Recent
	var g errgroup.Group
	for n := pg.SegmentNumber(250); n <= 255; n++ {
		g.Go(func() error {
			_, err := archive.Push(t.Context(), r, archive.PushOptions{Path: pathOf(dir, h, n), Recent: &recent})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if c := count.Counts(); c.Put != 7 || c.List != 1 {
		t.Errorf("six segments and an index: %+v", c)
	}
}

// meeting is a store in which n objects are put before any put returns.
type meeting struct {
	storage.Store
	n   int32
	put atomic.Int32
	met chan struct{}
}

func (m *meeting) Put(ctx context.Context, key string, r io.ReaderAt, size int64, o storage.PutOptions) error {
	err := m.Store.Put(ctx, key, r, size, o)
	if m.put.Add(1) == m.n {
		close(m.met)
	}
	<-m.met
	return err
}
