package archive_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/meter"
	"github.com/pgtender/pgtender/internal/pg"
)

// recovery is a pg_wal in recovery with a spool, and what is archived for it.
type recovery struct {
	b       *builder
	r       *repo.Repo
	count   *meter.Store
	dir     string
	spool   archive.Spool
	lineage atomic.Pointer[archive.Lineage]
	alive   atomic.Bool
	done    chan error
	keys    map[pg.SegmentNumber]string // of the archived segments
}

// recover archives segments 4 to last.
func startRecovery(t testing.TB, last pg.SegmentNumber) *recovery {
	t.Helper()
	sound, store := repotest.New(t)
	return startRecoveryFrom(t, last, sound, store)
}

// startRecoveryFrom is startRecovery with a repository and its store.
func startRecoveryFrom(t testing.TB, last pg.SegmentNumber, sound *repo.Repo, store storage.Store) *recovery {
	t.Helper()
	x := &recovery{b: filled(1, 4, last), dir: mkdir(t, t.TempDir(), "pg_wal"), count: meter.New(store), done: make(chan error, 1), keys: map[pg.SegmentNumber]string{}}
	from := t.TempDir()
	for n := pg.SegmentNumber(4); n <= last; n++ {
		x.keys[n] = push(t, sound, x.b.save(t, from, n, "")).Key
	}
	x.r = repo.Open(x.count, repotest.Cluster, repo.Options{})
	x.spool = archive.SpoolIn(x.dir)
	x.alive.Store(true)
	x.lineage.Store(&archive.Lineage{History: pg.FirstTimeline()})
	return x
}

// prefetch runs a Prefetch for what was asked.
func (x *recovery) prefetch(t testing.TB, change func(*archive.Prefetch)) *archive.Prefetch {
	t.Helper()
	p := &archive.Prefetch{
		Repo: x.r, WALDir: x.dir, Reader: "me", Bytes: 4 << 20, Workers: 2, Alive: x.alive.Load,
		Lineage: func(context.Context) (archive.Lineage, error) { return *x.lineage.Load(), nil },
	}
	if change != nil {
		change(p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var once sync.Once
	go func() { x.done <- p.Run(ctx) }()
	t.Cleanup(func() { once.Do(cancel); <-x.done })
	return p
}

// ended waits until the Prefetch has ended.
func (x *recovery) ended(t testing.TB) {
	t.Helper()
	select {
	case err := <-x.done:
		if err != nil {
			t.Error(err)
		}
		x.done <- nil
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
	if left := x.files(t); len(left) != 0 {
		t.Errorf("in the spool: %v", left)
	}
}

func (x *recovery) ask(t testing.TB, n pg.SegmentNumber) {
	t.Helper()
	if err := x.spool.Ask(x.b.name(n)); err != nil {
		t.Fatal(err)
	}
}

// prove says to whom what lies in the spool was proved, and when.
func (x *recovery) prove(t testing.TB, reader string, at time.Time) {
	t.Helper()
	save(t, filepath.Join(x.dir, ".pgtender-spool", "fresh"), fmt.Appendf(nil, "%d %s", at.UnixNano(), reader))
}

// files names the segments in the spool.
func (x *recovery) files(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(x.dir, ".pgtender-spool"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if name, _, ok := strings.Cut(e.Name(), "~"); ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// holds waits until exactly these segments lie in the spool.
func (x *recovery) holds(t testing.TB, numbers ...pg.SegmentNumber) {
	t.Helper()
	var want []string
	for _, n := range numbers {
		want = append(want, x.b.name(n))
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		got := x.files(t)
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("in the spool: %v, want %v", got, want)
		}
	}
}

// take takes a segment, whose content must be the archived one's.
func (x *recovery) take(t testing.TB, n pg.SegmentNumber) bool {
	t.Helper()
	dest := filepath.Join(x.dir, "RECOVERYXLOG")
	if !x.spool.Take(x.b.name(n), dest, "me") {
		return false
	}
	if got, err := os.ReadFile(dest); err != nil || !slices.Equal(got, x.b.segments[n]) {
		t.Errorf("segment %d differs: %v", n, err)
	}
	return true
}

func TestRecoveryFindsItsSegmentsInTheSpool(t *testing.T) {
	x := startRecovery(t, 14)
	x.ask(t, 4)
	x.prefetch(t, nil)
	for n := pg.SegmentNumber(5); n <= 14; n++ {
		var want []pg.SegmentNumber
		for m := n; m <= min(n+3, 14); m++ { // as much as there is room for
			want = append(want, m)
		}
		x.holds(t, want...)
		x.ask(t, n)
		if !x.take(t, n) {
			t.Fatalf("segment %d is not given", n)
		}
	}
	x.ended(t) // at the archive's end, with nothing left
	if c := x.count.Counts(); c.Get > 10+1 || c.Failed > 0 {
		t.Errorf("calls %+v", c)
	}
}

func TestAJumpBeginsAnew(t *testing.T) {
	x := startRecovery(t, 14)
	x.ask(t, 4)
	x.prefetch(t, nil)
	x.holds(t, 5, 6, 7, 8)
	x.ask(t, 10)
	x.holds(t, 11, 12, 13, 14)
	x.ask(t, 5)
	x.holds(t, 6, 7, 8, 9)
}

// TestWhatIsInTheSpoolIsNotTrusted: it is handed over if it is intact, fresh, and
// for that reader.
func TestWhatIsInTheSpoolIsNotTrusted(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, x *recovery, path string){
		"a flipped bit": func(t *testing.T, _ *recovery, path string) {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			content[len(content)/2] ^= 4
			save(t, path, content)
		},
		"a truncated file": func(t *testing.T, _ *recovery, path string) {
			if err := os.Truncate(path, 1<<19); err != nil {
				t.Fatal(err)
			}
		},
		"another segment under the name": func(t *testing.T, x *recovery, path string) {
			content := x.b.segments[6]
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			save(t, filepath.Join(filepath.Dir(path), x.b.name(5)+"~"+repo.DigestOf(content).String()), content)
		},
		"a history that was looked at long ago": func(t *testing.T, x *recovery, _ string) {
			x.prove(t, "me", time.Now().Add(-6*time.Second))
		},
		"a history that will be looked at": func(t *testing.T, x *recovery, _ string) {
			x.prove(t, "me", time.Now().Add(time.Minute))
		},
		"another reader": func(t *testing.T, x *recovery, _ string) {
			x.prove(t, "you", time.Now())
		},
		"a copy, which pg_rewind makes of its source's": func(t *testing.T, x *recovery, _ string) {
			fresh := filepath.Join(x.dir, ".pgtender-spool", "fresh")
			content, err := os.ReadFile(fresh)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(6 * time.Second) // until it is no proof any more
			save(t, fresh, content)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := startRecovery(t, 6)
			x.ask(t, 4)
			ctx, cancel := context.WithCancel(t.Context())
			p := &archive.Prefetch{
				Repo: x.r, WALDir: x.dir, Reader: "me", Bytes: 4 << 20, Workers: 2, Alive: x.alive.Load,
				Lineage: func(context.Context) (archive.Lineage, error) { return *x.lineage.Load(), nil },
			}
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			x.holds(t, 5, 6)
			x.alive.Store(false) // as if it had been killed: it leaves everything
			cancel()
			<-done
			files, err := filepath.Glob(filepath.Join(x.dir, ".pgtender-spool", x.b.name(5)+"~*"))
			if err != nil || len(files) != 1 {
				t.Fatalf("%v, %v", files, err)
			}
			spoil(t, x, files[0])
			if x.take(t, 5) {
				t.Error("it was handed over")
			}
			x.prove(t, "me", time.Now())
			if !x.take(t, 6) {
				t.Error("what is sound was not")
			}
		})
	}
}

// TestAnotherHistoryEmptiesTheSpool: what was fetched for the one before is not
// handed over once the history has left it.
func TestAnotherHistoryEmptiesTheSpool(t *testing.T) {
	x := startRecovery(t, 14)
	x.ask(t, 4)
	x.prefetch(t, nil)
	x.holds(t, 5, 6, 7, 8)
	left := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: segSize.Start(7) + 5000}}}
	x.lineage.Store(&archive.Lineage{History: left})
	x.holds(t, 5, 6) // and no more: segment 7 is the new timeline's
}

func TestAPrefetchEnds(t *testing.T) {
	t.Run("when nobody asks", func(t *testing.T) {
		x := startRecovery(t, 14)
		x.ask(t, 4)
		x.prefetch(t, func(p *archive.Prefetch) { p.Linger = 200 * time.Millisecond })
		x.ended(t)
	})
	t.Run("with the server, touching nothing more", func(t *testing.T) {
		x := startRecovery(t, 14)
		x.ask(t, 4)
		x.prefetch(t, nil)
		x.holds(t, 5, 6, 7, 8)
		x.alive.Store(false)
		if err := <-x.done; err != nil {
			t.Error(err)
		}
		x.done <- nil
		x.holds(t, 5, 6, 7, 8)
	})
	t.Run("before it begins where another works", func(t *testing.T) {
		x := startRecovery(t, 14)
		x.ask(t, 4)
		x.prefetch(t, nil)
		x.holds(t, 5, 6, 7, 8)
		if err := (&archive.Prefetch{WALDir: x.dir, Alive: x.alive.Load}).Run(t.Context()); !errors.Is(err, archive.ErrBusy) {
			t.Errorf("error %v", err)
		}
	})
}

func TestAPrefetchRemovesWhatAKilledOneLeft(t *testing.T) {
	x := startRecovery(t, 14)
	x.ask(t, 4)
	spool := filepath.Join(x.dir, ".pgtender-spool")
	unfinished := save(t, filepath.Join(spool, "tmp-1"), []byte("x"))
	young := save(t, filepath.Join(spool, ".asked.1.pgtender-tmp"), []byte("x"))
	old := save(t, filepath.Join(spool, ".asked.2.pgtender-tmp"), []byte("x"))
	if err := os.Chtimes(old, longAgo, longAgo); err != nil {
		t.Fatal(err)
	}
	x.prefetch(t, nil)
	x.holds(t, 5, 6, 7, 8)
	for path, want := range map[string]bool{unfinished: false, young: true, old: false} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// longAgo is old by any clock, a fake one too.
var longAgo = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)

func TestWhatAKilledPrefetchLeftIsSweptInTime(t *testing.T) {
	dir := mkdir(t, t.TempDir(), "pg_wal")
	spool := mkdir(t, dir, ".pgtender-spool")
	save(t, filepath.Join(spool, "tmp-1"), []byte("x"))
	save(t, filepath.Join(spool, "asked"), []byte("x"))
	temp := save(t, filepath.Join(dir, ".RECOVERYXLOG.1.pgtender-tmp"), []byte("x"))
	hint := save(t, filepath.Join(dir, ".pgtender-seen.1.pgtender-tmp"), []byte("x"))
	segment := save(t, filepath.Join(dir, "000000010000000000000001"), []byte("x"))
	archive.Sweep(dir)
	if _, err := os.Stat(temp); err != nil {
		t.Error("a fetch that may be at work lost its file")
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { archive.Tidy(ctx, dir); close(done) }()
		synctest.Wait()
		for _, path := range []string{temp, hint, spool, segment} {
			if err := os.Chtimes(path, longAgo, longAgo); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		stop()
		<-done
	})
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "000000010000000000000001" {
		t.Errorf("left are %v, %v", left, err)
	}
}
