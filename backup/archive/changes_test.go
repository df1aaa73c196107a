package archive_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/meter"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// written is one record that a log holds.
type written struct {
	start, end pg.LSN
	changes    *wal.BlockMap
}

// recordsIn reads every record of the segments in dir along h, with what it
// changes.
func recordsIn(t testing.TB, dir string, h pg.History, from pg.LSN) []written {
	t.Helper()
	r := wal.NewReader(wal.Dir{Path: dir, History: h, SegmentSize: segSize}, from, wal.ReaderOptions{History: h, SegmentSize: segSize})
	defer r.Close()
	var out []written
	for {
		rec, err := r.Next(t.Context())
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		w := written{rec.Start, rec.End, new(wal.BlockMap)}
		if _, err := w.changes.Record(rec); err != nil {
			t.Fatal(err)
		}
		out = append(out, w)
	}
}

// expected unites what Changes is to give from what the log holds: records from
// the beginning of from's segment on, to the end of the last segment that holds
// a record before to; of one that goes on behind it only if it starts before to.
func expected(records []written, from, to pg.LSN) *wal.BlockMap {
	m := new(wal.BlockMap)
	begin, end := segSize.Start(segSize.SegmentOf(from)), segSize.Start(segSize.SegmentOf(to))
	if segSize.Offset(to) > 40 {
		end += pg.LSN(segSize)
	}
	for _, r := range records {
		if r.start >= begin && r.start < end && (r.end <= end || r.start < to) {
			m.Merge(r.changes)
		}
	}
	return m
}

// wrote is a log over two timelines: 1 from segment 4 on, left in segment 250
// for 2, with records of all lengths. Segment 252 and 253 hold no record's start.
func wrote(t testing.TB, dir string) (pg.History, *builder, *builder) {
	t.Helper()
	old := newBuilder(1, 244)
	for n := uint32(0); old.at < segSize.Start(250)+300_000; n++ {
		switch {
		case n%900 == 700:
			old.switchSegment()
		case n%50 == 20:
			old.record(10, 0, 700, make([]byte, 40_000), n, n+1, n<<18)
		default:
			old.insert(n * 7)
		}
	}
	next := old.fork(2)
	next.until(segSize.Start(252) - 5000)
	next.record(10, 0, 701, make([]byte, 5<<19), 1<<20, 77)
	next.until(segSize.Start(259) - 700)
	next.record(10, 0, 701, make([]byte, 30_000), 1<<21)
	next.switchSegment()
	h := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: old.at, Reason: "failover"}}}
	saveHistory(t, dir, h)
	for n := range old.segments {
		if n < 250 {
			old.save(t, dir, n, "")
		}
	}
	for n := range next.segments {
		next.save(t, dir, n, "")
	}
	return h, old, next
}

// pathOf gives the file of the segment that h takes.
func pathOf(dir string, h pg.History, n pg.SegmentNumber) string {
	return fmt.Sprintf("%s/%s", dir, pg.Segment{Timeline: archive.SegmentTimeline(h, segSize, n), Number: n}.Name(segSize))
}

const firstWritten, lastWritten = pg.SegmentNumber(244), pg.SegmentNumber(259)

// TestChangesAreThoseOfTheWAL: of any range, whatever the order in which the
// segments came, from index objects and without.
func TestChangesAreThoseOfTheWAL(t *testing.T) {
	dir := t.TempDir()
	h, _, _ := wrote(t, dir)
	records := recordsIn(t, dir, h, segSize.Start(firstWritten))
	rng := rand.New(rand.NewPCG(1, 1))
	r, store := repotest.New(t)
	push(t, r, dir+"/00000002.history")
	order := rng.Perm(int(lastWritten-firstWritten) + 1)
	for _, n := range order {
		push(t, r, pathOf(dir, h, firstWritten+pg.SegmentNumber(n)))
	}
	key := r.WALIndexKey(repo.IncarnationOf(h), 0)
	if has, err := r.HasWALIndex(t.Context(), repo.IncarnationOf(h), 0); !has || err != nil {
		t.Fatalf("there is no index %s: %v, keys %q", key, err, keys(t, store))
	}
	check := func(t *testing.T, from, to pg.LSN) archive.Completeness {
		t.Helper()
		got, c, err := archive.Changes(t.Context(), r, h, segSize, from, to)
		if err != nil || !c.Complete() || c.Until != to || c.Fault != nil {
			t.Fatalf("from %s to %s: %+v, %v", from, to, c, err)
		}
		if !got.Equal(expected(records, from, to)) {
			t.Fatalf("from %s to %s: the changes are not those of the WAL", from, to)
		}
		return c
	}
	for range 150 {
		from := records[rng.IntN(len(records))].start
		to := records[rng.IntN(len(records))].end
		if from < to {
			check(t, from, to)
		}
	}
	boundary := 0
	for n := firstWritten; n <= lastWritten; n++ {
		at := segSize.Start(n)
		for _, r := range records {
			if r.start < at && r.end > at {
				boundary++
				check(t, segSize.Start(firstWritten), at)                       // a record goes on behind the end
				check(t, segSize.Start(firstWritten), r.start)                  // the end lies before it
				check(t, at, segSize.Start(lastWritten))                        // the beginning lies within it
				check(t, segSize.Start(firstWritten), min(r.end, r.start+1000)) // to is no end of a record
			}
		}
	}
	if boundary < 8 {
		t.Errorf("only %d records lie across segments", boundary)
	}
	if c := check(t, segSize.Start(firstWritten), segSize.Start(lastWritten+1)); c.Indexes != 1 || c.Segments != 16 {
		t.Errorf("read %d segments by %d indexes", c.Segments, c.Indexes)
	}
	if err := store.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if c := check(t, segSize.Start(firstWritten), segSize.Start(lastWritten+1)); c.Indexes != 0 {
		t.Errorf("%d indexes of none", c.Indexes)
	}
	if c := check(t, segSize.Start(firstWritten), segSize.Start(lastWritten+1)); c.Indexes != 1 {
		t.Errorf("a reader has not made the missing index")
	}
	for _, to := range []pg.LSN{0, segSize.Start(250), segSize.Start(250) + 40} {
		if m, c, err := archive.Changes(t.Context(), r, h, segSize, segSize.Start(250), to); err != nil || !m.Empty() || !c.Complete() {
			t.Errorf("nothing up to %s: %+v, %v", to, c, err)
		}
	}
}

// TestChangesStopAtTheFirstFault: the position is named, and all changes before
// it are there.
func TestChangesStopAtTheFirstFault(t *testing.T) {
	dir := t.TempDir()
	h, old, _ := wrote(t, dir)
	records := recordsIn(t, dir, h, segSize.Start(firstWritten))
	across := func(n pg.SegmentNumber) pg.LSN { // start of the record that goes on in segment n, else n's start
		for _, r := range records {
			if r.start < segSize.Start(n) && r.end > segSize.Start(n) {
				return r.start
			}
		}
		return segSize.Start(n)
	}
	to := segSize.Start(lastWritten + 1)
	base := archiveAll(t, dir, h)
	stranger := newBuilder(1, 246)
	stranger.fill = 9
	stranger.until(segSize.Start(250))
	for _, c := range []struct {
		name  string
		kind  archive.FaultKind
		at    pg.LSN
		spoil func(t *testing.T, r *repo.Repo, s storage.Store)
	}{
		{"a segment is missing", archive.FaultMissing, across(247), func(t *testing.T, _ *repo.Repo, s storage.Store) {
			remove(t, s, old.name(247))
		}},
		{"a segment of an indexed group is missing", archive.FaultMissing, across(253), func(t *testing.T, _ *repo.Repo, s storage.Store) {
			remove(t, s, pg.Segment{Timeline: 2, Number: 253}.Name(segSize))
		}},
		{"the last one is missing", archive.FaultMissing, across(259), func(t *testing.T, _ *repo.Repo, s storage.Store) {
			remove(t, s, pg.Segment{Timeline: 2, Number: 259}.Name(segSize))
		}},
		{"an object is damaged", archive.FaultDamaged, across(248), func(t *testing.T, _ *repo.Repo, s storage.Store) {
			spoil(t, s, old.name(248), 100)
		}},
		{"a map is damaged", archive.FaultDamaged, across(248), func(t *testing.T, _ *repo.Repo, s storage.Store) {
			spoil(t, s, old.name(248), 300)
		}},
		{"another server's segment lies between", archive.FaultBroken, across(247), func(t *testing.T, r *repo.Repo, s storage.Store) {
			remove(t, s, old.name(247))
			push(t, r, stranger.save(t, t.TempDir(), 247, ""))
		}},
		{"a proved leader's other WAL counts", archive.FaultBroken, across(247), func(t *testing.T, r *repo.Repo, s storage.Store) {
			lead(t, r, stranger.save(t, t.TempDir(), 247, ""))
		}},
		{"a segment was taken damaged as it was", archive.FaultUnread, across(247), func(t *testing.T, r *repo.Repo, s storage.Store) {
			remove(t, s, old.name(247))
			b := append([]byte(nil), old.segments[247]...)
			b[500_000] ^= 1
			path := save(t, t.TempDir()+"/"+old.name(247), b)
			if _, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path, AcceptDamaged: true}); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, store := base.copy(t)
			c.spoil(t, r, store)
			for range 2 { // by an index that was made before, and by one that was not
				m, got, err := archive.Changes(t.Context(), r, h, segSize, segSize.Start(firstWritten), to)
				if err != nil || got.Complete() || got.Fault == nil {
					t.Fatalf("%+v, %v", got, err)
				}
				if got.Fault.Kind != c.kind || got.Until != c.at || got.Fault.At != c.at {
					t.Errorf("%s at %s (%v), want %s at %s", got.Fault.Kind, got.Until, got.Fault, c.kind, c.at)
				}
				holds(t, m, records, segSize.Start(firstWritten), c.at)
			}
			if m, got, err := archive.Changes(t.Context(), r, h, segSize, segSize.Start(firstWritten), c.at); err != nil || !got.Complete() {
				t.Errorf("up to the fault: %+v, %v", got, err)
			} else {
				holds(t, m, records, segSize.Start(firstWritten), c.at)
			}
		})
	}
}

// holds fails unless m has all changes of records from from on to before to.
func holds(t *testing.T, m *wal.BlockMap, records []written, from, to pg.LSN) {
	t.Helper()
	need := new(wal.BlockMap)
	for _, r := range records {
		if r.start >= from && r.start < to {
			need.Merge(r.changes)
		}
	}
	both := new(wal.BlockMap)
	both.Merge(m)
	if both.Merge(need); !both.Equal(m) || need.Empty() {
		t.Errorf("changes before %s are missing", to)
	}
}

// TestAnIndexOfOtherSegmentsIsNotUsed: a proved leader's WAL that came after the
// index was made counts, and a damaged index is as good as none.
func TestAnIndexOfOtherSegmentsIsNotUsed(t *testing.T) {
	dir := t.TempDir()
	h, old, next := wrote(t, dir)
	records := recordsIn(t, dir, h, segSize.Start(firstWritten))
	to := segSize.Start(lastWritten + 1)
	base := archiveAll(t, dir, h)
	for name, spoil := range map[string]func(t *testing.T, r *repo.Repo, s storage.Store){
		"a damaged index": func(t *testing.T, r *repo.Repo, s storage.Store) {
			flip(t, s, r.WALIndexKey(repo.IncarnationOf(h), 0), 400, 1)
		},
		"the index of another server's WAL": func(t *testing.T, r *repo.Repo, s storage.Store) {
			// The server that lost archived its timeline 2 first.
			lost, dirLost := old.fork(2), t.TempDir()
			for n := uint32(9000); lost.at < segSize.Start(256); n++ {
				lost.insert(n)
			}
			saveHistory(t, dirLost, h)
			if err := s.Delete(t.Context(), r.WALIndexKey(repo.IncarnationOf(h), 0)); err != nil {
				t.Fatal(err)
			}
			for n := pg.SegmentNumber(250); n < 256; n++ {
				remove(t, s, next.name(n))
				push(t, r, lost.save(t, dirLost, n, ""))
			}
			if has, err := r.HasWALIndex(t.Context(), repo.IncarnationOf(h), 0); !has || err != nil {
				t.Fatalf("it has made no index: %v", err)
			}
			for n := pg.SegmentNumber(250); n < 256; n++ {
				lead(t, r, pathOf(dir, h, n))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, store := base.copy(t)
			spoil(t, r, store)
			m, c, err := archive.Changes(t.Context(), r, h, segSize, segSize.Start(firstWritten), to)
			if err != nil || !c.Complete() || c.Indexes != 0 || !m.Equal(expected(records, segSize.Start(firstWritten), to)) {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

// TestChangesCostFewRequests: a listing and an index for a group.
func TestChangesCostFewRequests(t *testing.T) {
	dir := t.TempDir()
	h, _, _ := wrote(t, dir)
	_, store := archiveAll(t, dir, h).copy(t)
	count := meter.New(store)
	r := repo.Open(count, repotest.Cluster, repo.Options{})
	if _, c, err := archive.Changes(t.Context(), r, h, segSize, segSize.Start(250), segSize.Start(256)); err != nil || !c.Complete() || c.Segments != 6 {
		t.Fatalf("%+v, %v", c, err)
	}
	// The record that goes on behind the end costs a listing and a segment.
	if got := count.Counts(); got.List != 2 || got.Get != 2 || got.Put != 0 {
		t.Errorf("%+v", got)
	}
}

func TestAStoreThatFailsIsNoFault(t *testing.T) {
	dir := t.TempDir()
	h, _, _ := wrote(t, dir)
	_, inner := archiveAll(t, dir, h).copy(t)
	broken := errors.New("broken")
	for fail := 1; ; fail++ {
		r := repo.Open(failing(inner, fail, broken), repotest.Cluster, repo.Options{})
		_, c, err := archive.Changes(t.Context(), r, h, segSize, segSize.Start(firstWritten), segSize.Start(lastWritten+1))
		if err == nil {
			if !c.Complete() || fail < 5 {
				t.Errorf("call %d: %+v", fail, c)
			}
			return
		}
		if !errors.Is(err, broken) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("call %d: %v", fail, err)
		}
	}
}

// archiveOf is what a push of everything leaves in a store.
type archiveOf map[string][]byte

// archiveAll pushes what h takes of dir's segments.
func archiveAll(t testing.TB, dir string, h pg.History) archiveOf {
	t.Helper()
	store := mem.New()
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	push(t, r, dir+"/00000002.history")
	for n := firstWritten; n <= lastWritten; n++ {
		push(t, r, pathOf(dir, h, n))
	}
	out := archiveOf{}
	for o, err := range store.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := storage.ReadAll(t.Context(), store, o.Key, o.Size)
		if err != nil {
			t.Fatal(err)
		}
		out[o.Key] = b
	}
	return out
}

// copy gives the same in a store of its own, which a test may spoil.
func (a archiveOf) copy(t testing.TB) (*repo.Repo, storage.Store) {
	t.Helper()
	r, store := openMem(t)
	for key, b := range a {
		replace(t, store, key, b)
	}
	return r, store
}

// objectNamed gives the key of the segment of that name.
func objectNamed(t testing.TB, s storage.Store, name string) string {
	t.Helper()
	for o, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(o.Key, "/"+name) {
			return o.Key
		}
	}
	t.Fatalf("%s is not archived", name)
	return ""
}

func remove(t testing.TB, s storage.Store, name string) {
	t.Helper()
	if err := s.Delete(t.Context(), objectNamed(t, s, name)); err != nil {
		t.Fatal(err)
	}
}

// spoil flips a bit of an archived segment.
func spoil(t testing.TB, s storage.Store, name string, off int) {
	t.Helper()
	flip(t, s, objectNamed(t, s, name), off, 1)
}

// cut takes the second half away from a segment's object.
func cut(t testing.TB, s storage.Store, name string) {
	t.Helper()
	key := objectNamed(t, s, name)
	whole, err := storage.ReadAll(t.Context(), s, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, s, key, whole[:len(whole)/2])
}

// lead pushes as the proved leader.
func lead(t testing.TB, r *repo.Repo, path string) {
	t.Helper()
	_, err := archive.Push(t.Context(), r, archive.PushOptions{Path: path, Leadership: leads})
	if err != nil {
		t.Fatal(err)
	}
}

// failing is a store of which one call fails.
func failing(inner storage.Store, nth int, err error) storage.Store {
	var calls atomic.Int64
	return storagetest.Faulty(inner, func(storagetest.Call) (bool, error) {
		if calls.Add(1) == int64(nth) {
			return false, err
		}
		return true, nil
	})
}

// TestARecordTooLargeForItsCarryIsReadFromTheWAL: the end of a transaction that
// dropped 200,000 tables.
func TestARecordTooLargeForItsCarryIsReadFromTheWAL(t *testing.T) {
	const size, dropped = pg.SegmentSize(4 << 20), 200_000
	r, store := openMem(t)
	b, dir := newBuilder(1, 4), t.TempDir()
	b.size, b.at = size, size.Start(4)
	for n := uint32(0); b.at < size.Start(5)-3<<19; n++ {
		b.insert(n)
	}
	// xl_xact_commit with relations (access/xact.h).
	main := le.AppendUint32(le.AppendUint32(make([]byte, 8), 4), dropped)
	for n := range uint32(dropped) {
		for _, v := range []uint32{1663, 5, 20_000 + n} {
			main = le.AppendUint32(main, v)
		}
	}
	commit := b.record(1, 0x80, 900, main)
	for n := uint32(100); b.at < size.Start(6); n++ {
		b.insert(n)
	}
	for n := pg.SegmentNumber(4); n < 6; n++ {
		push(t, r, b.save(t, dir, n, ""))
	}
	m, c, err := archive.Changes(t.Context(), r, pg.FirstTimeline(), size, size.Start(4), size.Start(5))
	if err != nil || !c.Complete() {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, n := range []uint32{0, dropped / 2, dropped - 1} {
		rel := wal.Relation{Tablespace: 1663, Database: 5, Number: 20_000 + n}
		if limit, ok := m.Recorded(rel, wal.Main).Limit(); !ok || limit != 0 {
			t.Errorf("table %d is not known to be dropped", n)
		}
	}
	remove(t, store, b.name(5))
	if _, c, err = archive.Changes(t.Context(), r, pg.FirstTimeline(), size, size.Start(4), size.Start(5)); err != nil || c.Until != commit || c.Fault.Kind != archive.FaultMissing {
		t.Errorf("without the segment it goes on in: %+v, %v", c, err)
	}
}
