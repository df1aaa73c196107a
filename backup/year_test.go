package backup_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/soak"
)

// year is a database that is backed up every day.
type year struct {
	*lab
	rng    *rand.Rand
	reads  *metered
	policy backup.Policy
	synth  backup.SyntheticPolicy

	day     int
	rows    int
	born    map[repo.BackupID]int   // the day on which a backup was taken
	full    int64                   // weight of the largest full backup
	changed map[repo.BackupID]int64 // weight of incremental ones
	made    int                     // synthetic backups
	most    [2]float64              // over the year; see weigh
}

// TestSoakAYearOfBackups takes an incremental backup a day, after random
// updates, and keeps a week of them, in the way that docs/operations.md
// recommends: what is older expires once a week, and then a synthetic full backup
// is made. On no day are there more than two full backups in the repository and
// what the listed ones changed; a backup of the day before the next synthetic one
// restores as fast as a full one; and a backup takes no more memory at the end
// than at the beginning. Without PGTENDER_SOAK the year has eleven days, and a
// week three.
func TestSoakAYearOfBackups(t *testing.T) {
	week, weeks := 3, 3
	y := &year{rows: 20000}
	if soak.Wanted() {
		week, weeks = 7, 52
		y.rows = 200000
	}
	y.policy, y.synth = backup.Policy{KeepBackups: week, Grace: -1}, backup.SyntheticPolicy{After: time.Duration(week) * day}
	y.begin(t)
	y.backUp(t)
	if y.full == 0 {
		t.Fatal("the first backup is no full one")
	}
	heap, rss := y.memory(t)
	for y.day < weeks*week+week-2 { // memory takes another day
		y.day++
		y.work(t)
		if y.day%week == 0 {
			y.expire(t)
		}
		y.backUp(t)
		y.weigh(t)
	}
	endHeap, endRSS := y.memory(t)
	t.Logf("%d days, %d synthetic backups; heap after a backup %d KiB at first, %d at the end; peak memory while one is taken %d KiB, %d", y.day, y.made, heap>>10, endHeap>>10, rss>>10, endRSS>>10)
	t.Logf("at most, on any day: %.2f full backups stored; %.3f of two full ones and the changes of the backups that are listed", y.most[0], y.most[1])
	if y.made != weeks {
		t.Errorf("%d synthetic backups were made in %d weeks", y.made, weeks)
	}
	// The race detector keeps records of every address that was ever used, and gives
	// none back: what is resident then tells how long it has run.
	if endHeap > heap+4<<20 || !raceDetector() && endRSS > rss*5/4+16<<20 {
		t.Error("a backup takes more memory than in the beginning")
	}
	v, err := backup.Verify(t.Context(), backup.VerifyOptions{Repo: y.repo, Deep: true})
	if err != nil || !v.OK {
		t.Errorf("deep verification: %v\n%s", err, everything(v))
	}
	y.restoreBoth(t)
}

func (y *year) begin(t *testing.T) {
	dir := pgtest.Dir(t)
	inner, err := file.Open(t.Context(), file.Options{Dir: dir, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { repotest.Check(t, inner) })
	y.reads = &metered{Store: inner}
	y.lab = newLabOn(t, pgtest.Options{Major: pgtest.DefaultMajor, Checksums: true, WALSegSize: 4, Config: map[string]string{"autovacuum": "off"}}, y.reads)
	y.rng, y.born, y.changed = rand.New(rand.NewPCG(1, 2)), make(map[repo.BackupID]int), make(map[repo.BackupID]int64)
	y.primary.Exec(t, "CREATE TABLE bulk (id int PRIMARY KEY, v text) WITH (fillfactor = 70)",
		fmt.Sprintf("INSERT INTO bulk SELECT i, md5(i::text) FROM generate_series(1, %d) i", y.rows), "VACUUM bulk")
}

// work updates rows anywhere, some one in five thousand.
func (y *year) work(t *testing.T) {
	var ids []string
	for range max(y.rows/5000, 4) {
		ids = append(ids, strconv.Itoa(1+y.rng.IntN(y.rows)))
	}
	y.primary.Exec(t, "UPDATE bulk SET v = md5(v) WHERE id IN ("+strings.Join(ids, ", ")+")")
	if y.day%7 == 0 {
		y.primary.Exec(t, "VACUUM bulk")
	}
}

// backUp takes the day's backup, and a synthetic one if it is due.
func (y *year) backUp(t *testing.T) {
	t.Helper()
	b := take(t, y.options(t, y.primary)).Backup
	y.born[b.ID] = y.day
	if b.Kind == repo.Full {
		if y.full > 0 {
			t.Fatalf("day %d: a full backup was taken", y.day)
		}
		y.full = y.weight(t, &b)
		return
	}
	y.changed[b.ID] = y.weight(t, &b)
	m, err := y.repo.OpenManifest(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	w := backup.WeightOf(m)
	if y.synth.Due(w, b.ID, w.Oldest.Time().Add(time.Duration(y.day-y.born[w.Oldest])*day)) == "" {
		return
	}
	s, err := backup.Synthesize(t.Context(), backup.SynthesizeOptions{Repo: y.repo, Backup: b.ID, ToolVersion: "test", Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	y.born[s.ID], y.full = y.day, max(y.full, y.weight(t, &s))
	y.made++
}

// weight gives what a backup stored: its packs and its manifest.
func (y *year) weight(t *testing.T, b *repo.Backup) int64 {
	t.Helper()
	key := y.repo.Key(repo.Key{Kind: repo.KeyManifest, ID: b.ID})
	for o, err := range y.store.List(t.Context(), key, "") {
		if err != nil {
			t.Fatal(err)
		}
		return b.StoredBytes + o.Size
	}
	t.Fatalf("%s is not there", key)
	return 0
}

// expire removes what the policy does not keep.
func (y *year) expire(t *testing.T) {
	t.Helper()
	// What one run condemns the next removes, and the WAL the one after.
	for range 3 {
		if _, err := backup.Expire(t.Context(), backup.ExpireOptions{Repo: y.repo, Policy: y.policy}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(listed(t, y.repo)); n > y.policy.KeepBackups {
		t.Errorf("day %d: %d backups, want %d", y.day, n, y.policy.KeepBackups)
	}
}

// weigh holds what is stored of backups against two full ones and what the listed
// ones changed. What is left of those that are gone, tombstones and events, is
// counted for itself: as the store's clock goes, all of the year is one day.
func (y *year) weigh(t *testing.T) {
	t.Helper()
	all := listed(t, y.repo)
	stored, wal, rest := int64(0), int64(0), int64(0)
	for o, err := range y.store.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		switch k, err := repo.ParseKey(o.Key); {
		case err != nil:
			t.Fatal(err)
		case k.Kind == repo.KeyWAL || k.Kind == repo.KeyWALIndex:
			wal += o.Size
		case k.Kind == repo.KeyPack || k.Kind == repo.KeyManifest && slices.Contains(all, k.ID):
			stored += o.Size
		default:
			rest += o.Size
		}
	}
	window := int64(0)
	for _, id := range all {
		window += y.changed[id]
	}
	ratio := func(of int64) float64 { return float64(stored) / float64(of) }
	y.most[0], y.most[1] = max(y.most[0], ratio(y.full)), max(y.most[1], ratio(2*y.full+window))
	t.Logf("day %d: %d backups, %d KiB stored: %.2f of a full one, %.3f of two full ones and the window's changes of %d KiB; WAL %d KiB, all else %d", y.day, len(all), stored>>10, ratio(y.full), ratio(2*y.full+window), window>>10, wal>>10, rest>>10)
	if ratio(2*y.full+window) > 1 {
		t.Errorf("day %d: %d bytes are stored, more than two full backups of %d and the %d bytes that the listed ones changed", y.day, stored, y.full, window)
	}
	if rest > 1<<10*int64(y.day+16) {
		t.Errorf("day %d: %d bytes are left of backups that are gone", y.day, rest)
	}
}

// memory takes a backup and gives the heap in use afterwards, and the most
// memory that the process had resident meanwhile.
func (y *year) memory(t *testing.T) (heap, resident uint64) {
	t.Helper()
	debug.FreeOSMemory()
	// 5 sets VmHWM back to what is resident now (proc_pid_clear_refs(5)).
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Logf("peak memory is that since the start: %v", err)
	}
	y.day++
	y.work(t)
	y.backUp(t)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skipf("no /proc here: %v", err)
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseUint(strings.Fields(kib)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			resident = n << 10
		}
	}
	// What a backup leaves behind is asked for, not what a segment needs that is
	// archived just now, or what waits in a sync.Pool for the next one: the second
	// collection empties that (sync.Pool's victim cache).
	y.wal.drain(t)
	y.wal.pause(true)
	defer y.wal.pause(false)
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, resident
}

// raceDetector tells whether this program was built with -race.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// restoreBoth restores the last backup and a full one of the same moment, in
// turns, and holds time, processor time and bytes against one another. Then a
// server is started on the last backup.
func (y *year) restoreBoth(t *testing.T) {
	all := listed(t, y.repo)
	last := all[len(all)-1]
	o := y.options(t, y.primary)
	o.Kind = backup.FullOnly
	full := take(t, o).Backup.ID
	want := y.primary.Dump(t)
	y.wal.drain(t)

	best, cpu := map[repo.BackupID]time.Duration{}, map[repo.BackupID]time.Duration{}
	read := map[repo.BackupID]int64{}
	less := func(m map[repo.BackupID]time.Duration, id repo.BackupID, d time.Duration) {
		if b, ok := m[id]; !ok || d < b {
			m[id] = d
		}
	}
	turns := 6
	if soak.Wanted() {
		turns = 40
	}
	for i := range turns {
		id := []repo.BackupID{last, full}[i%2]
		m, err := y.repo.OpenManifest(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		before, used, begin := y.reads.bytes.Load(), processor(t), time.Now()
		if err := extract(t.Context(), m, filepath.Join(pgtest.Dir(t), "data")); err != nil {
			t.Fatal(err)
		}
		less(best, id, time.Since(begin))
		less(cpu, id, processor(t)-used)
		read[id] = y.reads.bytes.Load() - before
	}
	slower, dearer, more := float64(best[last])/float64(best[full]), float64(cpu[last])/float64(cpu[full]), float64(read[last])/float64(read[full])
	t.Logf("restore of the last backup: %s, processor %s, %d KiB read; of a full one: %s, %s, %d KiB; ratios %.2f, %.2f and %.2f", best[last], cpu[last], read[last]>>10, best[full], cpu[full], read[full]>>10, slower, dearer, more)
	if more > 1.3 || soak.Wanted() && min(slower, dearer) > 1.3 { // the short form is over in no time, and a busy machine's clock says little
		t.Error("the last backup is slower to restore than a full one")
	}
	r := y.restore(t, last)
	r.Start(t)
	r.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if got := r.Dump(t); got != want {
		t.Error("the last backup restores something else")
	}
}

// processor gives the processor time that the test's process has used.
func processor(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// metered counts the bytes that are read.
type metered struct {
	storage.Store
	bytes atomic.Int64
}

func (m *metered) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	r, err := m.Store.Get(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	return &meteredReader{r, m}, nil
}

type meteredReader struct {
	io.ReadCloser
	m *metered
}

func (r *meteredReader) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	r.m.bytes.Add(int64(n))
	return n, err
}
