package archive_test

import (
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/internal/pg"
)

// story is WAL over a failover, with positions of what happened.
type story struct {
	r                        *repo.Repo
	h                        pg.History
	begin                    pg.LSN
	commit1, point, commit2  pg.LSN // starts
	noon                     time.Time
	end                      pg.LSN // of archived WAL
	lastCommit, lastRecordAt pg.LSN
}

func tell(t *testing.T) story {
	t.Helper()
	s := story{noon: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), begin: segSize.Start(4)}
	s.r, _ = repotest.New(t)
	dir := t.TempDir()
	old := newBuilder(1, 4)
	old.until(segSize.Start(4) + 500_000)
	s.commit1 = old.commit(701, s.noon)
	old.until(segSize.Start(5) + 100_000)
	s.point = old.restorePoint("before_upgrade")
	next := old.fork(2)
	s.h = pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: old.at}}}
	old.commit(800, s.noon.Add(time.Hour)) // what the new leader never saw
	old.until(segSize.Start(6))
	next.until(segSize.Start(6) - 5000)
	s.commit2 = next.commit(702, s.noon.Add(time.Minute))
	s.lastCommit = next.at
	s.lastRecordAt = next.at
	next.until(segSize.Start(9))
	s.end = segSize.Start(8)
	push(t, s.r, saveHistory(t, dir, s.h))
	push(t, s.r, old.save(t, dir, 4, ""))
	push(t, s.r, old.save(t, dir, 5, ""))
	for _, n := range []pg.SegmentNumber{5, 6, 7} {
		push(t, s.r, next.save(t, dir, n, ""))
	}
	return s
}

func TestATargetIsFoundWhereRecoveryStops(t *testing.T) {
	s := tell(t)
	for _, c := range []struct {
		name   string
		target archive.Target
		start  pg.LSN // 0: not found
		tl     pg.Timeline
	}{
		{"a transaction", archive.Target{XID: 701}, s.commit1, 1},
		{"a transaction of the new timeline", archive.Target{XID: 702}, s.commit2, 2},
		{"a transaction that the failover lost", archive.Target{XID: 800}, 0, 2},
		{"a restore point", archive.Target{Name: "before_upgrade"}, s.point, 1},
		{"a name that is not there", archive.Target{Name: "before"}, 0, 2},
		{"a time stops at the first transaction after it", archive.Target{Time: s.noon}, s.commit2, 2},
		{"or at it, exclusively", archive.Target{Time: s.noon, Exclusive: true}, s.commit1, 1},
		{"a time before everything", archive.Target{Time: s.noon.Add(-time.Hour)}, s.commit1, 1},
		{"a time after the last transaction", archive.Target{Time: s.noon.Add(time.Minute)}, 0, 2},
		{"a position", archive.Target{LSN: s.point}, s.point, 1},
		{"a position inside a record", archive.Target{LSN: s.commit2 - 1}, s.commit2, 2},
		{"a position past the archive", archive.Target{LSN: s.end}, 0, 2},
	} {
		got, err := findTarget(t, s.r, s.h, segSize, s.begin, c.target)
		if err != nil {
			t.Fatal(err)
		}
		if got.Found != (c.start != 0) || got.Start != c.start || got.Timeline != c.tl {
			t.Errorf("%s: got %+v, want a record at %s on timeline %s", c.name, got, c.start, c.tl)
		}
		if !got.Found {
			if !errors.Is(got.Why, fs.ErrNotExist) || got.End > s.end || got.End < s.end-3000 || !got.Newest.Equal(s.noon.Add(time.Minute)) {
				t.Errorf("%s: archived WAL ends at %s (%v), newest transaction %s", c.name, got.End, got.Why, got.Newest)
			}
		}
	}
}

// A search ends where the archive did when it was looked at, however much is
// archived meanwhile.
func TestASearchHasAnEnd(t *testing.T) {
	s := tell(t)
	cover, err := archive.RestoreCoverage(t.Context(), s.r, s.h, segSize, s.begin)
	if err != nil {
		t.Fatal(err)
	}
	cover.Until, cover.Streamed = s.commit2, 0
	for target, found := range map[archive.Target]bool{{XID: 701}: true, {XID: 702}: false} {
		got, err := archive.FindTarget(t.Context(), s.r, segSize, cover, s.begin, target)
		if err != nil || got.Found != found || got.End > cover.Until || got.Why != nil {
			t.Errorf("%+v: got %+v, %v; want found %t, not past %s", target, got, err, found, cover.Until)
		}
	}
}

// findTarget searches all that is archived now.
func findTarget(t *testing.T, r *repo.Repo, h pg.History, size pg.SegmentSize, from pg.LSN, target archive.Target) (archive.Reached, error) {
	t.Helper()
	cover, err := archive.RestoreCoverage(t.Context(), r, h, size, from)
	if err != nil {
		t.Fatal(err)
	}
	return archive.FindTarget(t.Context(), r, size, cover, from, target)
}

func TestTheNewestTransaction(t *testing.T) {
	s := tell(t)
	for _, c := range []struct {
		name string
		from pg.LSN
		at   pg.LSN
		time time.Time
	}{
		{"several segments back", s.begin, s.lastCommit, s.noon.Add(time.Minute)},
		{"none since", s.lastRecordAt, 0, time.Time{}},
	} {
		cover, err := archive.RestoreCoverage(t.Context(), s.r, s.h, segSize, c.from)
		if err != nil {
			t.Fatal(err)
		}
		got, err := archive.LastCommit(t.Context(), s.r, segSize, cover)
		if err != nil || !got.Time.Equal(c.time) || got.At != c.at {
			t.Errorf("%s: got %+v, %v; want %s at %s", c.name, got, err, c.time, c.at)
		}
	}
}

func TestADamagedObjectEndsASearchWithAnError(t *testing.T) {
	r, store := openMem(t)
	b := filled(1, 4, 4)
	key := push(t, r, b.save(t, t.TempDir(), 4, "")).Key
	flip(t, store, key, 5000, 1)
	_, err := findTarget(t, r, pg.FirstTimeline(), segSize, segSize.Start(4), archive.Target{XID: 1})
	if !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("error is %v", err)
	}
}
