package archive_test

import (
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
