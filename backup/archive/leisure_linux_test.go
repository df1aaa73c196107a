package archive_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

// niceOf reads a thread's id and nice value from its stat file in /proc, see proc(5).
func niceOf(path string) (thread string, nice int, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", 0, err
	}
	thread, _, _ = strings.Cut(string(b), " ")
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest) // from the third on
	if len(fields) < 17 {
		return "", 0, fmt.Errorf("%s: %q is too short", path, b)
	}
	nice, err = strconv.Atoi(fields[16])
	return thread, nice, err
}

// watched notes on which thread each object is read, and how nice that is.
type watched struct {
	storage.Store

	mu      sync.Mutex // guards all below
	nice    map[string]int
	threads map[string]string
	err     error
}

func (s *watched) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	thread, nice, err := niceOf("/proc/thread-self/stat")
	s.mu.Lock()
	if s.nice[key], s.threads[key] = nice, thread; err != nil {
		s.err = err
	}
	s.mu.Unlock()
	return s.Store.Get(ctx, key, off, n)
}

// TestWhatNobodyWaitsForGivesWay: it is fetched by a thread of lower priority, which
// ends with it, so that nothing else is ever done by it.
func TestWhatNobodyWaitsForGivesWay(t *testing.T) {
	sound, inner := repotest.New(t)
	store := &watched{Store: inner, nice: map[string]int{}, threads: map[string]string{}}
	x := startRecoveryFrom(t, 7, sound, store)
	_, usual, err := niceOf("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	if usual == 19 {
		t.Skip("there is no lower priority than the test's own")
	}
	x.ask(t, 4)
	p := x.prefetch(t, func(p *archive.Prefetch) { p.Inclusive, p.Workers = true, 2 })
	x.holds(t, 4, 5, 6, 7)
	store.mu.Lock()
	defer store.mu.Unlock()
	if store.err != nil {
		t.Fatal(store.err)
	}
	for n, want := range map[pg.SegmentNumber]int{4: usual, 5: usual, 6: min(usual+10, 19), 7: min(usual+10, 19)} {
		key := x.keys[n]
		if store.nice[key] != want {
			t.Errorf("segment %d is fetched at nice %d, want %d", n, store.nice[key], want)
		}
		if n < 6 {
			continue
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			// The number may be given anew, to a thread of the usual kind.
			if _, nice, err := niceOf("/proc/self/task/" + store.threads[key] + "/stat"); err != nil || nice == usual {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the thread of segment %d goes on", n)
			}
		}
	}
	x.handed(t, p, x.b.name(4), 4)
}
