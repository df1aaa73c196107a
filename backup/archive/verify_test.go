package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/meter"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

func verify(t *testing.T, r *repo.Repo, h pg.History, deep bool) archive.Verified {
	t.Helper()
	v, err := archive.Verify(t.Context(), r, archive.Lineage{History: h}, archive.VerifyOptions{Deep: deep})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// faults says of each: kind, first and last segment, position.
func faults(v archive.Verified) []string {
	out := []string{}
	for _, f := range v.Faults {
		out = append(out, fmt.Sprintf("%s %d..%d", f.Kind, f.Segment.Number, f.Last.Number))
	}
	return out
}

func TestAWholeArchiveVerifies(t *testing.T) {
	dir := t.TempDir()
	h, _, _ := wrote(t, dir)
	r, store := archiveAll(t, dir, h).copy(t)
	for _, deep := range []bool{false, true} {
		v := verify(t, r, h, deep)
		if len(v.Faults) != 0 || v.Segments != 16 || v.Indexes != 1 || v.First != seg(1, 244) || v.Last != seg(2, 259) || (v.Bytes == 16<<20) != deep {
			t.Errorf("deep %v: %+v", deep, v)
		}
		if f := v.Findings(nil); len(f) != 1 || f[0].Severity != finding.OK {
			t.Errorf("deep %v: %v", deep, f)
		}
	}
	// An index that is missing is made; a damaged one is told, and does no harm.
	key := r.WALIndexKey(repo.IncarnationOf(h), 0)
	if err := store.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	verify(t, r, h, false)
	if has, err := r.HasWALIndex(t.Context(), repo.IncarnationOf(h), 0); !has || err != nil {
		t.Errorf("the index was not made: %v", err)
	}
	flip(t, store, key, 900, 1)
	if v := verify(t, r, h, false); len(v.Faults) != 0 || len(v.UnusedIndexes) != 1 || v.Segments != 16 {
		t.Errorf("with a damaged index: %+v", v)
	}
}

// TestVerifyNamesEveryFault: what is wrong, where, and that it goes on behind it.
func TestVerifyNamesEveryFault(t *testing.T) {
	dir := t.TempDir()
	h, old, next := wrote(t, dir)
	base := archiveAll(t, dir, h)
	stranger := newBuilder(1, 246)
	stranger.fill = 9
	stranger.until(segSize.Start(250))
	for _, c := range []struct {
		name  string
		want  []string
		deep  bool // found only so
		spoil func(t *testing.T, r *repo.Repo, s storage.Store)
	}{
		{"two holes", []string{"missing 245..246", "missing 249..249", "missing 250..251"}, false, func(t *testing.T, _ *repo.Repo, s storage.Store) {
			for _, name := range []string{old.name(245), old.name(246), old.name(249), next.name(250), next.name(251)} {
				remove(t, s, name)
			}
		}},
		{"all of the new timeline is missing, and the end of the old", []string{"missing 248..249"}, false, func(t *testing.T, _ *repo.Repo, s storage.Store) {
			for n := pg.SegmentNumber(250); n <= lastWritten; n++ {
				remove(t, s, next.name(n))
			}
			remove(t, s, old.name(248))
			remove(t, s, old.name(249))
		}},
		{"another server's segment", []string{"broken 247..247", "broken 248..248"}, false, func(t *testing.T, r *repo.Repo, s storage.Store) {
			remove(t, s, old.name(247))
			push(t, r, stranger.save(t, t.TempDir(), 247, ""))
		}},
		{"a damaged header", []string{"damaged 248..248"}, false, func(t *testing.T, _ *repo.Repo, s storage.Store) { spoil(t, s, old.name(248), 30) }},
		{"a segment without its end", []string{"damaged 248..248"}, false, func(t *testing.T, _ *repo.Repo, s storage.Store) { cut(t, s, old.name(248)) }},
		{"a segment of an indexed group without its end", []string{"damaged 254..254"}, false, func(t *testing.T, _ *repo.Repo, s storage.Store) { cut(t, s, next.name(254)) }},
		{"damaged WAL", []string{"damaged 248..248"}, true, func(t *testing.T, _ *repo.Repo, s storage.Store) { spoil(t, s, old.name(248), 3000) }},
		{"damaged WAL of an indexed group", []string{"damaged 254..254"}, true, func(t *testing.T, _ *repo.Repo, s storage.Store) { spoil(t, s, next.name(254), 40) }},
		{"a description of other WAL", []string{"damaged 246..246"}, true, func(t *testing.T, r *repo.Repo, s storage.Store) {
			restate(t, r, s, old, 246)
		}},
		{"an index of other changes", []string{"index 250..255"}, true, func(t *testing.T, r *repo.Repo, s storage.Store) {
			x, err := r.ReadWALIndex(t.Context(), repo.IncarnationOf(h), 0)
			if err != nil {
				t.Fatal(err)
			}
			x.BlockMap = new(wal.BlockMap).Encode()
			if err := s.Delete(t.Context(), r.WALIndexKey(repo.IncarnationOf(h), 0)); err != nil {
				t.Fatal(err)
			}
			if err := r.PutWALIndex(t.Context(), x); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, store := base.copy(t)
			c.spoil(t, r, store)
			for _, deep := range []bool{false, true} {
				want := c.want
				if c.deep && !deep {
					want = []string{}
				}
				v := verify(t, r, h, deep)
				if diff := cmp.Diff(want, faults(v)); diff != "" {
					t.Errorf("deep %v (-want +got):\n%s", deep, diff)
				}
				f := v.Findings([]string{"pg1", "pg3"})
				if bad := finding.Worst(f) == finding.Error; bad != (len(want) > 0) {
					t.Errorf("deep %v: %v", deep, f)
				}
				for i := range v.Faults {
					name := v.Faults[i].Segment.Name(segSize)
					advice := "pg_wal of pg1, pg3"
					if v.Faults[i].Kind == archive.FaultIndex {
						advice = "remove the index"
					}
					if !slices.ContainsFunc(f, func(f finding.Finding) bool {
						return strings.Contains(f.Text, name) && strings.Contains(f.Hint, advice)
					}) {
						t.Errorf("no finding names %s: %v", name, f)
					}
				}
			}
		})
	}
}

// restate stores a sound segment with the block map of another.
func restate(t *testing.T, r *repo.Repo, s storage.Store, b *builder, n pg.SegmentNumber) {
	t.Helper()
	key := objectNamed(t, s, b.name(n))
	meta, err := r.ReadWALMeta(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	other, err := r.ReadWALMeta(t.Context(), objectNamed(t, s, b.name(n+1)), 0)
	if err != nil {
		t.Fatal(err)
	}
	d, err := r.EncodeWAL(meta.Header, other.BlockMap, meta.Carry, bytes.NewReader(b.segments[n]))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	remove(t, s, b.name(n))
	if err := r.PutWAL(t.Context(), key, d); err != nil {
		t.Fatal(err)
	}
}

func TestAnEmptyArchiveDoesNotVerify(t *testing.T) {
	r, _ := repotest.New(t)
	v := verify(t, r, pg.FirstTimeline(), true)
	if finding.Worst(v.Findings(nil)) != finding.Error {
		t.Errorf("%v", v.Findings(nil))
	}
}

// TestAnAnswerThatIsLostIsNoHole: a verification that could not see says so.
func TestAnAnswerThatIsLostIsNoHole(t *testing.T) {
	dir := t.TempDir()
	h, _, _ := wrote(t, dir)
	_, inner := archiveAll(t, dir, h).copy(t)
	broken := errors.New("broken")
	count := meter.New(inner)
	verify(t, repo.Open(count, repotest.Cluster, repo.Options{}), h, true)
	calls := int(count.Counts().Get + count.Counts().List)
	step := 1
	if testing.Short() {
		step = max(1, calls/12)
	}
	for fail := 1; fail <= calls; fail += step {
		r := repo.Open(failing(inner, fail, broken), repotest.Cluster, repo.Options{})
		v, err := archive.Verify(t.Context(), r, archive.Lineage{History: h}, archive.VerifyOptions{Deep: true})
		if !errors.Is(err, broken) || len(v.Faults) != 0 {
			t.Errorf("call %d of %d: %v, %v", fail, calls, v.Faults, err)
		}
	}
}

// TestWALThatABackupNeedsIsMissed: an archive may begin anywhere, but not behind the
// start of a backup, unless what lies between was removed on purpose.
func TestWALThatABackupNeedsIsMissed(t *testing.T) {
	dir := t.TempDir()
	h, _, _ := wrote(t, dir)
	r, _ := archiveAll(t, dir, h).copy(t)
	judge := func(from pg.LSN) []string {
		t.Helper()
		v, err := archive.Verify(t.Context(), r, archive.Lineage{History: h}, archive.VerifyOptions{From: from})
		if err != nil {
			t.Fatal(err)
		}
		return faults(v)
	}
	for from, want := range map[pg.LSN][]string{
		0:                        {},
		segSize.Start(244) + 100: {},
		segSize.Start(250):       {},
		segSize.Start(242) + 100: {"missing 242..243"},
	} {
		if diff := cmp.Diff(want, judge(from)); diff != "" {
			t.Errorf("a backup begins at %s (-want +got):\n%s", from, diff)
		}
	}
	first := repo.IncarnationOf(pg.FirstTimeline())
	if err := archive.NoteExpired(t.Context(), r, archive.SegmentSet{first: {{First: 200, Last: 242}}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"missing 243..243"}, judge(segSize.Start(242))); diff != "" {
		t.Errorf("part of it has expired (-want +got):\n%s", diff)
	}
}
