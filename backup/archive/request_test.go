package archive_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
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
