package archive_test

import (
	"context"
	"sync"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/pg"
)

// expiring is an archive of segments 4 to 9 of which 5 was removed on purpose, and
// 6 and 7 are just before one of the calls; and how many calls there were.
func expiring(t *testing.T, one *builder, before int) (r *repo.Repo, calls *int) {
	inner, dir := mem.New(), t.TempDir()
	direct := repo.Open(inner, repotest.Cluster, repo.Options{})
	for n := pg.SegmentNumber(4); n <= 9; n++ {
		push(t, direct, one.save(t, dir, n, ""))
	}
	first := repo.IncarnationOf(pg.FirstTimeline())
	expire := func(from, to pg.SegmentNumber) {
		err := archive.NoteExpired(context.Background(), direct, archive.SegmentSet{first: {{First: from, Last: to}}})
		if err != nil {
			t.Error(err)
		}
		for n := from; n <= to; n++ {
			if err := inner.Delete(context.Background(), objectNamed(t, inner, one.name(n))); err != nil {
				t.Error(err)
			}
		}
	}
	expire(5, 5)
	var mu sync.Mutex
	calls = new(int)
	return repo.Open(storagetest.Faulty(inner, func(storagetest.Call) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		if *calls++; *calls == before {
			expire(6, 7)
		}
		return true, nil
	}), repotest.Cluster, repo.Options{}), calls
}

// TestAnExpiryMeanwhileIsNoHole: at whatever moment it begins.
func TestAnExpiryMeanwhileIsNoHole(t *testing.T) {
	one := filled(1, 4, 9)
	for name, judge := range map[string]func(r *repo.Repo) (holes int, alarms int, err error){
		"status": func(r *repo.Repo) (int, int, error) {
			s, err := archive.ReadStatus(t.Context(), r, archive.LineageOptions{})
			holes := 0
			for _, t := range s.Timelines {
				holes += len(t.Holes)
			}
			return holes, len(s.Alarms), err
		},
		"verify": func(r *repo.Repo) (int, int, error) {
			v, err := archive.Verify(t.Context(), r, archive.Lineage{History: pg.FirstTimeline()}, archive.VerifyOptions{Deep: true})
			return len(v.Faults), 0, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			for call := 1; ; call++ {
				r, calls := expiring(t, one, call)
				if holes, alarms, err := judge(r); err != nil || holes != 0 || alarms != 0 {
					t.Errorf("before call %d: %d holes, %d alarms, %v", call, holes, alarms, err)
				}
				if *calls < call {
					break
				}
			}
		})
	}
}

// TestWhatWasNotRemovedOnPurposeIsAHole: also between segments that were.
func TestWhatWasNotRemovedOnPurposeIsAHole(t *testing.T) {
	one, dir := filled(1, 4, 12), t.TempDir()
	r, _ := openMem(t)
	for _, n := range []pg.SegmentNumber{4, 11, 12} {
		push(t, r, one.save(t, dir, n, ""))
	}
	gone := archive.SegmentSet{repo.IncarnationOf(pg.FirstTimeline()): {{First: 5, Last: 6}, {First: 9, Last: 9}}}
	if err := archive.NoteExpired(t.Context(), r, gone); err != nil {
		t.Fatal(err)
	}
	v, err := archive.Verify(t.Context(), r, archive.Lineage{History: pg.FirstTimeline()}, archive.VerifyOptions{})
	if err != nil || len(v.Faults) != 2 {
		t.Fatalf("%+v, %v", v.Faults, err)
	}
	for i, want := range [][2]pg.SegmentNumber{{7, 8}, {10, 10}} {
		f := v.Faults[i]
		if f.Kind != archive.FaultMissing || f.Segment.Number != want[0] || f.Last.Number != want[1] || f.At != segSize.Start(want[0]) {
			t.Errorf("%+v, want %v", f, want)
		}
	}
}
