package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// openMem gives a repository whose store a test may damage.
func openMem(t testing.TB) (*repo.Repo, storage.Store) {
	t.Helper()
	store := mem.New()
	return repo.Open(store, repotest.Cluster, repo.Options{}), store
}

// flip changes bits of one byte of an object.
func flip(t testing.TB, store storage.Store, key string, off int, bits byte) {
	t.Helper()
	b, err := storage.ReadAll(t.Context(), store, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	b[off] ^= bits
	replace(t, store, key, b)
}

func replace(t testing.TB, store storage.Store, key string, content []byte) {
	t.Helper()
	if err := storage.PutBytes(t.Context(), store, key, content, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func fixed(h pg.History) func(context.Context) (archive.Lineage, error) {
	return from(h, archive.SourceRepository)
}

func from(h pg.History, source string) func(context.Context) (archive.Lineage, error) {
	return func(context.Context) (archive.Lineage, error) {
		return archive.Lineage{History: h, Source: source}, nil
	}
}

// get fetches along a history, as a standby does.
func get(t testing.TB, r *repo.Repo, h pg.History, name, dest string) error {
	t.Helper()
	return archive.Get(t.Context(), r, archive.GetOptions{Name: name, Dest: dest, Lineage: fixed(h), SegmentSize: segSize, Standby: true})
}

func TestAFetchedFileIsTheOneArchived(t *testing.T) {
	r, _ := repotest.New(t)
	dir, out := t.TempDir(), t.TempDir()
	old := newBuilder(1, 4)
	old.until(segSize.Start(5) + 100_000)
	next := old.fork(2)
	next.until(segSize.Start(6))
	h := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: old.at, Reason: "because"}}}
	push(t, r, saveHistory(t, dir, h))
	push(t, r, old.save(t, dir, 4, ""))
	push(t, r, old.save(t, dir, 5, ".partial"))
	push(t, r, next.save(t, dir, 5, ""))
	push(t, r, save(t, filepath.Join(dir, old.name(4)+".00000028.backup"), []byte("label")))
	defer syscall.Umask(syscall.Umask(0o777)) // Patroni and systemd pass on what they like
	for name, want := range map[string][]byte{
		old.name(4): old.segments[4], old.name(5) + ".partial": old.segments[5], next.name(5): next.segments[5],
		"00000002.history": h.Encode(), old.name(4) + ".00000028.backup": []byte("label"),
	} {
		for _, size := range []pg.SegmentSize{segSize, 0} { // known, and asked for
			dest := filepath.Join(out, "RECOVERYXLOG")
			err := archive.Get(t.Context(), r, archive.GetOptions{Name: name, Dest: dest, Lineage: fixed(h), SegmentSize: size})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got, err := os.ReadFile(dest); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: content differs, %v", name, err)
			}
			if info, _ := os.Stat(dest); info.Mode() != 0o600 {
				t.Errorf("%s: mode is %s", name, info.Mode())
			}
		}
	}
	if left, _ := os.ReadDir(out); len(left) != 1 {
		t.Errorf("%d files lie there", len(left))
	}
}

// TestWhatAHistoryIsServed: the archive has everything that was ever written.
func TestWhatAHistoryIsServed(t *testing.T) {
	r, _ := repotest.New(t)
	dir := t.TempDir()
	// Timeline 1 goes on past the point where 2 left it; 3 left 2, and 4 left 1
	// earlier than 2 did.
	one := filled(1, 4, 7)
	two := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x580000}}}
	three := pg.History{Timeline: 3, Forks: append(two.Forks[:1:1], pg.Fork{Parent: 2, Switch: 0x700000})}
	four := pg.History{Timeline: 4, Forks: []pg.Fork{{Parent: 1, Switch: 0x480000}}}
	for n := pg.SegmentNumber(4); n <= 7; n++ {
		push(t, r, one.save(t, dir, n, ""))
	}
	for _, h := range []pg.History{two, three, four} {
		push(t, r, saveHistory(t, dir, h))
		b := filled(h.Timeline, 4, 8)
		for n := pg.SegmentNumber(4); n <= 8; n++ {
			push(t, r, b.save(t, dir, n, ""))
		}
	}
	name := func(t pg.Timeline, n pg.SegmentNumber) string {
		return pg.Segment{Timeline: t, Number: n}.Name(segSize)
	}
	for _, c := range []struct {
		lineage pg.History
		file    string
		served  bool
	}{
		{pg.FirstTimeline(), name(1, 7), true},
		{pg.FirstTimeline(), name(2, 6), false},
		{two, name(1, 4), true},
		{two, name(1, 5), false}, // the switch segment is timeline 2's
		{two, name(1, 6), false}, // an orphan
		{two, name(2, 4), false}, // before timeline 2 began
		{two, name(2, 5), true},
		{two, name(2, 8), true},
		{two, name(3, 8), false},
		{three, name(2, 6), true},
		{three, name(2, 7), false}, // left at its start
		{three, name(3, 7), true},
		{four, name(1, 4), false},
		{four, name(4, 4), true},
		{four, name(2, 6), false},
		{three, name(3, 9), false}, // not archived
		{two, "00000002.history", true},
		{two, "00000003.history", true}, // a descendant, to which it may go on
		{two, "00000004.history", false},
		{three, "00000002.history", true},
		{four, "00000002.history", false},
		{four, "00000003.history", false},
		{two, "00000001.history", false},
		{two, "00000009.history", false},
	} {
		dest := filepath.Join(t.TempDir(), "out")
		err := get(t, r, c.lineage, c.file, dest)
		_, statErr := os.Stat(dest)
		if c.served && (err != nil || statErr != nil) || !c.served && (!errors.Is(err, archive.ErrAbsent) || !errors.Is(statErr, fs.ErrNotExist)) {
			t.Errorf("timeline %s asks for %s: %v, %v; want served: %v", c.lineage.Timeline, c.file, err, statErr, c.served)
		}
	}
}

// TestTheHistoriesOfOtherTimelines: by who said which history counts.
func TestTheHistoriesOfOtherTimelines(t *testing.T) {
	r, _ := repotest.New(t)
	dir := t.TempDir()
	four := pg.History{Timeline: 4, Forks: []pg.Fork{{Parent: 1, Switch: 0x480000}}} // a sibling of 2 and 3
	for _, h := range []pg.History{two, three, four} {
		push(t, r, saveHistory(t, dir, h))
	}
	for _, c := range []struct {
		lineage pg.History
		source  string
		served  []pg.Timeline // of 2 to 5
	}{
		{two, archive.SourceRepository, []pg.Timeline{2, 3}},
		{two, archive.SourceLeader, []pg.Timeline{2}}, // 3 is a stray one: the leader is on 2
		{two, archive.SourceTimeline, []pg.Timeline{2, 3, 4}},
		{pg.FirstTimeline(), archive.SourceLeader, nil},
		{pg.FirstTimeline(), archive.SourceTimeline, []pg.Timeline{2, 3, 4}},
		{three, archive.SourceLeader, []pg.Timeline{2, 3}},
		{three, archive.SourceTimeline, []pg.Timeline{2, 3, 4}},
		{four, archive.SourceTimeline, []pg.Timeline{4}}, // siblings of a lower number are not asked for
		{four, archive.SourceRepository, []pg.Timeline{4}},
	} {
		var served []pg.Timeline
		for tl := pg.Timeline(2); tl <= 5; tl++ {
			err := archive.Get(t.Context(), r, archive.GetOptions{
				Name: pg.HistoryName(tl), Dest: filepath.Join(t.TempDir(), "out"), Lineage: from(c.lineage, c.source), Standby: true,
			})
			switch {
			case err == nil:
				served = append(served, tl)
			case !errors.Is(err, archive.ErrAbsent):
				t.Fatal(err)
			}
		}
		if !slices.Equal(served, c.served) {
			t.Errorf("timeline %s by %s is served the histories of %v, want %v", c.lineage.Timeline, c.source, served, c.served)
		}
	}
}

func TestAnEmptyArchiveHasNothing(t *testing.T) {
	r, _ := repotest.New(t)
	err := archive.Get(t.Context(), r, archive.GetOptions{Name: filled(1, 4, 4).name(4), Dest: filepath.Join(t.TempDir(), "x"), Lineage: fixed(pg.FirstTimeline())})
	if !errors.Is(err, archive.ErrAbsent) {
		t.Errorf("error is %v", err)
	}
}

// A restore_command with its arguments exchanged must not look like the end of
// the archive.
func TestAWrongNameIsNoAbsence(t *testing.T) {
	r, _ := repotest.New(t)
	for _, name := range []string{"pg_wal/RECOVERYXLOG", "RECOVERYXLOG", "%f", "00000001000000000000000", "00000001000000000000000G", "2.history", "archive_status", ""} {
		err := archive.Get(t.Context(), r, archive.GetOptions{Name: name, Dest: filepath.Join(t.TempDir(), "x"), Lineage: fixed(pg.FirstTimeline())})
		if !errors.Is(err, archive.ErrNotArchivable) || errors.Is(err, archive.ErrAbsent) || !strings.Contains(finding.Hint(err), "%f and %p") {
			t.Errorf("%q: error is %v", name, err)
		}
	}
}

func TestTheLeadersSegmentIsServed(t *testing.T) {
	r, _ := repotest.New(t)
	dir := t.TempDir()
	first, second := filled(1, 4, 4), newBuilder(1, 4)
	second.fill = 1
	second.until(segSize.Start(5))
	push(t, r, first.save(t, dir, 4, ""))
	if _, err := archive.Push(t.Context(), r, archive.PushOptions{Path: second.save(t, dir, 4, ""), Leadership: leads}); err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(dir, "out")
	if err := get(t, r, pg.FirstTimeline(), first.name(4), dest); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(dest); !bytes.Equal(got, second.segments[4]) {
		t.Error("it is not the leader's")
	}
}

// TestDamageIsNeverHandedOver: two hundred flipped bits and truncations. A fetch
// names the object, a verification the segment.
func TestDamageIsNeverHandedOver(t *testing.T) {
	r, store := openMem(t)
	b, dir := filled(1, 4, 5), t.TempDir()
	key := push(t, r, b.save(t, dir, 4, "")).Key
	push(t, r, b.save(t, dir, 5, "")) // says what a damaged header does not
	sound, err := storage.ReadAll(t.Context(), store, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	dest := save(t, filepath.Join(dir, "out"), []byte("before"))
	rng := rand.New(rand.NewPCG(1, 2))
	rounds := 200
	if testing.Short() {
		rounds = 40
	}
	for i := range rounds {
		damaged, what := bytes.Clone(sound), ""
		if i%2 == 0 {
			bit := rng.IntN(8 * len(sound))
			if i < 2*rounds/5 { // the parts before the chunks are small: hit them too
				bit = rng.IntN(8 * 600)
			}
			damaged[bit/8] ^= 1 << (bit % 8)
			what = fmt.Sprintf("bit %d flipped", bit)
		} else {
			damaged = damaged[:rng.IntN(len(damaged))]
			what = fmt.Sprintf("cut to %d bytes", len(damaged))
		}
		replace(t, store, key, damaged)
		err := damagedGet(t, r, b.name(4), dest)
		if err == nil || errors.Is(err, archive.ErrAbsent) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: error is %v", what, err)
		}
		if got, _ := os.ReadFile(dest); string(got) != "before" {
			t.Fatalf("%s: handed over", what)
		}
		if diff := cmp.Diff([]string{"damaged 4..4"}, deepFaults(t, r)); diff != "" {
			t.Errorf("%s: verified: %s", what, diff)
		}
	}
	replace(t, store, key, sound)
	if err := damagedGet(t, r, b.name(4), dest); err != nil {
		t.Error(err)
	}
	if f := deepFaults(t, r); len(f) != 0 {
		t.Errorf("the sound segment has faults: %v", f)
	}
}

// deepFaults reads everything, in no time of the clock's.
func deepFaults(t *testing.T, r *repo.Repo) (found []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { found = faults(verify(t, r, pg.FirstTimeline(), true)) })
	return found
}

// damagedGet fetches in no time of the clock's, retries included.
func damagedGet(t *testing.T, r *repo.Repo, name, dest string) (err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		err = get(t, r, pg.FirstTimeline(), name, dest)
	})
	return err
}

// TestPatience: how long a fetch tries when the store does not answer.
func TestPatience(t *testing.T) {
	b := filled(1, 4, 6)
	for _, c := range []struct {
		name          string
		standby, seen bool
		hang          bool
		want          time.Duration // about
	}{
		{"a standby, segment not seen", true, false, false, 5 * time.Second},
		{"a standby, the store hangs", true, false, true, 5 * time.Second},
		{"a standby, segment seen before", true, true, false, 3 * time.Minute},
		{"a standby, segment seen before, the store hangs", true, true, true, 3 * time.Minute},
		{"recovery", false, false, false, 10 * time.Minute},
		{"recovery, the store hangs", false, false, true, 10 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			inner := mem.New()
			r := repo.Open(inner, repotest.Cluster, repo.Options{})
			for n := pg.SegmentNumber(4); n <= 6; n++ {
				push(t, r, b.save(t, dir, n, ""))
			}
			opts := archive.GetOptions{Name: b.name(4), Dest: filepath.Join(dir, "out"), Lineage: fixed(pg.FirstTimeline()), SegmentSize: segSize, Standby: c.standby}
			if c.seen {
				opts.SeenFile = filepath.Join(dir, "seen")
				if err := archive.Get(t.Context(), r, opts); err != nil {
					t.Fatal(err)
				}
				opts.Name = b.name(5) // shown by the same listing
			}
			synctest.Test(t, func(t *testing.T) {
				store := storage.Store(storagetest.Faulty(inner, func(storagetest.Call) (bool, error) { return false, errors.New("unreachable") }))
				if c.hang {
					store = hanging{inner}
				}
				start := time.Now()
				err := archive.Get(t.Context(), repo.Open(store, repotest.Cluster, repo.Options{}), opts)
				took := time.Since(start)
				if err == nil || errors.Is(err, archive.ErrAbsent) {
					t.Errorf("error is %v", err)
				}
				if took > c.want || took < c.want/2 {
					t.Errorf("gave up after %s, want about %s", took, c.want)
				}
			})
		})
	}
}

// hanging is a store that never answers.
type hanging struct{ storage.Store }

func (h hanging) List(ctx context.Context, _, _ string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		<-ctx.Done()
		yield(storage.Object{}, ctx.Err())
	}
}

func TestAStoreThatComesBackIsServedFrom(t *testing.T) {
	dir := t.TempDir()
	inner := mem.New()
	b := filled(1, 4, 4)
	push(t, repo.Open(inner, repotest.Cluster, repo.Options{}), b.save(t, dir, 4, ""))
	synctest.Test(t, func(t *testing.T) {
		back := time.Now().Add(7 * time.Minute)
		store := storagetest.Faulty(inner, func(storagetest.Call) (bool, error) {
			if time.Now().Before(back) {
				return false, errors.New("unreachable")
			}
			return true, nil
		})
		dest := filepath.Join(dir, "out")
		err := archive.Get(t.Context(), repo.Open(store, repotest.Cluster, repo.Options{}), archive.GetOptions{Name: b.name(4), Dest: dest, Lineage: fixed(pg.FirstTimeline()), SegmentSize: segSize})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestAFailureIsNeverAbsence: each call of a fetch fails, before and after it
// took effect.
func TestAFailureIsNeverAbsence(t *testing.T) {
	dir := t.TempDir()
	inner := mem.New()
	b := filled(1, 4, 4)
	r := repo.Open(inner, repotest.Cluster, repo.Options{})
	push(t, r, b.save(t, dir, 4, ""))
	h := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x580000}}}
	push(t, r, saveHistory(t, dir, h))
	for _, name := range []string{b.name(4), b.name(5), "00000002.history", "00000003.history"} {
		for _, applied := range []bool{false, true} {
			for fail := 1; ; fail++ {
				calls := 0
				store := storagetest.Faulty(inner, func(storagetest.Call) (bool, error) {
					if calls++; calls >= fail { // from here on for good
						return applied, errors.New("broken")
					}
					return true, nil
				})
				var err error
				synctest.Test(t, func(t *testing.T) {
					err = archive.Get(t.Context(), repo.Open(store, repotest.Cluster, repo.Options{}), archive.GetOptions{
						Name: name, Dest: filepath.Join(dir, "out"), Lineage: fixed(h), Standby: true,
					})
				})
				if calls < fail {
					break
				}
				if err == nil || errors.Is(err, archive.ErrAbsent) {
					t.Errorf("%s, call %d fails (applied: %v): error is %v", name, fail, applied, err)
				}
			}
		}
	}
}

// TestAnObjectThatIsGoneSinceItWasListedIsNoAbsence: it is the one that the
// segment size is read from.
func TestAnObjectThatIsGoneSinceItWasListedIsNoAbsence(t *testing.T) {
	inner, dir := mem.New(), t.TempDir()
	b := filled(1, 4, 5)
	push(t, repo.Open(inner, repotest.Cluster, repo.Options{}), b.save(t, dir, 4, ""))
	store := storagetest.Faulty(inner, func(c storagetest.Call) (bool, error) {
		if c.Verb == storagetest.Get {
			return false, fmt.Errorf("get %s: %w", c.Key, fs.ErrNotExist)
		}
		return true, nil
	})
	synctest.Test(t, func(t *testing.T) {
		err := archive.Get(t.Context(), repo.Open(store, repotest.Cluster, repo.Options{}), archive.GetOptions{
			Name: b.name(5), Dest: filepath.Join(dir, "out"), Lineage: fixed(pg.FirstTimeline()), Standby: true,
		})
		if err == nil || errors.Is(err, archive.ErrAbsent) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestAPlaceThatCannotBeWrittenIsSaidAtOnce(t *testing.T) {
	r, _ := repotest.New(t)
	b := filled(1, 4, 4)
	push(t, r, b.save(t, t.TempDir(), 4, ""))
	start := time.Now()
	err := archive.Get(t.Context(), r, archive.GetOptions{Name: b.name(4), Dest: filepath.Join(t.TempDir(), "not", "there"), Lineage: fixed(pg.FirstTimeline())})
	if err == nil || errors.Is(err, archive.ErrAbsent) || errors.Is(err, fs.ErrNotExist) || time.Since(start) > time.Second {
		t.Errorf("error is %v after %s", err, time.Since(start))
	}
}
