package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/agent"
	"github.com/pgtender/pgtender/internal/pg"
)

const small = pg.SegmentSize(1 << 20)

func name(n pg.SegmentNumber) string { return pg.Segment{Timeline: 1, Number: n}.Name(small) }

// walDir makes a pg_wal with segments first to last that wait for the archiver.
func walDir(t testing.TB, first, last pg.SegmentNumber) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "archive_status"), 0o700); err != nil {
		t.Fatal(err)
	}
	for n := first; n <= last; n++ {
		write(t, filepath.Join(dir, name(n)), int64(small))
		write(t, filepath.Join(dir, "archive_status", name(n)+".ready"), 0)
	}
	return dir
}

func write(t testing.TB, path string, size int64) {
	t.Helper()
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
}

// recorder is an archive that keeps names, and fails where it is told to.
type recorder struct {
	mu       sync.Mutex
	archived []string
	fail     error
	hold     chan struct{} // if set: an attempt waits for it
	most, at int           // attempts at the same time
	late     []string      // of archived: those that nobody else is waited for
	expected int           // of archived: those that the repository is asked for first
}

func (r *recorder) archive(ctx context.Context, path string, how agent.How) (archive.PushResult, error) {
	r.mu.Lock()
	r.at++
	r.most = max(r.most, r.at)
	hold := r.hold
	r.mu.Unlock()
	defer func() { r.mu.Lock(); r.at--; r.mu.Unlock() }()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return archive.PushResult{}, context.Cause(ctx)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return archive.PushResult{}, r.fail
	}
	r.archived = append(r.archived, filepath.Base(path))
	if how.Late {
		r.late = append(r.late, filepath.Base(path))
	}
	if how.Expected {
		r.expected++
	}
	return archive.PushResult{Outcome: archive.Stored}, nil
}

func (r *recorder) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Clone(r.archived)
	slices.Sort(out)
	return out
}

// all gives the names in the order in which they were archived.
func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.archived)
}

// pusher gives a pusher whose work ends with the test.
func pusher(t testing.TB, dir string, r *recorder, ahead int) (*agent.Pusher, context.Context) {
	t.Helper()
	life, cancel := context.WithCancel(context.Background())
	p := &agent.Pusher{WALDir: dir, Archive: r.archive, Timeout: time.Minute, Ahead: archive.AheadOptions{Segments: ahead, Bytes: 1 << 40, Workers: 2}}
	t.Cleanup(func() { cancel(); p.Wait() })
	return p, life
}

func TestWhatWaitsIsArchivedOnce(t *testing.T) {
	dir, r := walDir(t, 4, 9), &recorder{}
	p, life := pusher(t, dir, r, 64)
	for n := pg.SegmentNumber(4); n <= 9; n++ {
		if _, err := p.Push(t.Context(), life, filepath.Join(dir, name(n))); err != nil {
			t.Fatal(err)
		}
	}
	var want []string
	for n := pg.SegmentNumber(4); n <= 9; n++ {
		want = append(want, name(n))
	}
	if got := r.names(); !slices.Equal(got, want) {
		t.Errorf("archived %v", got)
	}
	if s := p.Stats(); s.Archived != 6 || s.Answered != 6 || s.Failed != 0 {
		t.Errorf("%+v", s)
	}
	if r.most > 3 { // two workers, and one that is asked for
		t.Errorf("%d at the same time", r.most)
	}
}

// TestAFileThatWasWrittenAnewIsLookedAtAnew: the answer for a name is no answer
// for another file.
func TestAFileThatWasWrittenAnewIsLookedAtAnew(t *testing.T) {
	dir, r := walDir(t, 4, 4), &recorder{}
	p, life := pusher(t, dir, r, 0)
	path := filepath.Join(dir, name(4))
	push := func(want int) {
		t.Helper()
		if _, err := p.Push(t.Context(), life, path); err != nil {
			t.Fatal(err)
		}
		if got := len(r.names()); got != want {
			t.Errorf("archived %d times, want %d", got, want)
		}
	}
	push(1)
	push(1)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	write(t, path, int64(small))
	push(2)
}

// TestWhatIsRememberedIsForPostgreSQL: an operator pushes a segment again because
// its object is gone, and a keeper because a listing lacks it. Memory is no answer
// to them.
func TestWhatIsRememberedIsForPostgreSQL(t *testing.T) {
	dir, r := walDir(t, 4, 4), &recorder{}
	p, life := pusher(t, dir, r, 0)
	path := filepath.Join(dir, name(4))
	push := func(what string, want int) {
		t.Helper()
		if _, err := p.Push(t.Context(), life, path); err != nil {
			t.Fatal(err)
		}
		if got := len(r.names()); got != want {
			t.Errorf("%s: archived %d times, want %d", what, got, want)
		}
	}
	push("PostgreSQL", 1)
	push("PostgreSQL again", 1)
	if got := p.Late(t.Context(), life, []string{name(4)}); got[name(4)] != nil || len(r.names()) != 2 {
		t.Errorf("a keeper: %v, archived %d times, want 2", got, len(r.names()))
	}
	if err := os.Rename(filepath.Join(dir, "archive_status", name(4)+".ready"), filepath.Join(dir, "archive_status", name(4)+".done")); err != nil {
		t.Fatal(err)
	}
	if r.expected != 0 {
		t.Errorf("%d of what was new was expected to be there", r.expected)
	}
	push("an operator", 3)
	push("an operator again", 4)
	if r.expected != 2 {
		t.Errorf("%d of what PostgreSQL had archived was expected to be there, want 2", r.expected)
	}
}

func TestAFailureIsNoAnswer(t *testing.T) {
	dir, r := walDir(t, 4, 9), &recorder{fail: errors.New("the store is down")}
	p, life := pusher(t, dir, r, 64)
	path := filepath.Join(dir, name(4))
	if _, err := p.Push(t.Context(), life, path); !errors.Is(err, r.fail) {
		t.Errorf("error %v", err)
	}
	r.mu.Lock()
	r.fail = nil
	r.mu.Unlock()
	if outcome, err := p.Push(t.Context(), life, path); err != nil || outcome != archive.Stored {
		t.Errorf("again: %q, %v", outcome, err)
	}
}

func TestARefusedPath(t *testing.T) {
	dir, other, r := walDir(t, 4, 4), walDir(t, 4, 4), &recorder{}
	p, life := pusher(t, dir, r, 0)
	for what, path := range map[string]string{
		"another pg_wal":    filepath.Join(other, name(4)),
		"a history":         filepath.Join(dir, "00000002.history"),
		"a partial segment": filepath.Join(dir, name(4)+".partial"),
		"a backup history":  filepath.Join(dir, name(4)+".00000028.backup"),
		"no name":           filepath.Join(dir, "PG_VERSION"),
		"no file":           filepath.Join(dir, name(5)),
		"a folder":          filepath.Join(dir, "archive_status"),
	} {
		if _, err := p.Push(t.Context(), life, path); err == nil {
			t.Errorf("%s was archived", what)
		}
	}
	if got := r.names(); len(got) > 0 {
		t.Errorf("archived %v", got)
	}
}

// TestACommandThatGoesAwayLeavesTheWorkGoing: its repetition finds it done.
func TestACommandThatGoesAwayLeavesTheWorkGoing(t *testing.T) {
	dir, r := walDir(t, 4, 4), &recorder{hold: make(chan struct{})}
	p, life := pusher(t, dir, r, 0)
	path := filepath.Join(dir, name(4))
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("gone"))
	if _, err := p.Push(gone, life, path); err == nil {
		t.Error("an answer")
	}
	close(r.hold)
	if _, err := p.Push(t.Context(), life, path); err != nil {
		t.Error(err)
	}
	if got := r.names(); len(got) != 1 {
		t.Errorf("archived %v", got)
	}
}

func TestLateOnesAreArchivedUnasked(t *testing.T) {
	dir, r := walDir(t, 4, 6), &recorder{}
	p, life := pusher(t, dir, r, 0)
	got := p.Late(t.Context(), life, []string{name(4), name(6), name(7)})
	if got[name(4)] != nil || got[name(6)] != nil || got[name(7)] == nil || len(got) != 3 {
		t.Errorf("results %v", got)
	}
	if names := fmt.Sprint(r.names()); names != fmt.Sprint([]string{name(4), name(6)}) {
		t.Errorf("archived %s", names)
	}
	if _, err := p.Push(t.Context(), life, filepath.Join(dir, name(5))); err != nil {
		t.Fatal(err)
	}
	if slices.Sort(r.late); !slices.Equal(r.late, []string{name(4), name(6)}) {
		t.Errorf("%v were archived as late", r.late)
	}
}

// TestWhatIsNeededFirstIsArchivedFirst: PostgreSQL comes for one after the other.
func TestWhatIsNeededFirstIsArchivedFirst(t *testing.T) {
	dir, r := walDir(t, 4, 40), &recorder{}
	life, cancel := context.WithCancel(context.Background())
	p := &agent.Pusher{WALDir: dir, Archive: r.archive, Timeout: time.Minute, Ahead: archive.AheadOptions{Segments: 64, Bytes: 1 << 40, Workers: 1}}
	t.Cleanup(func() { cancel(); p.Wait() })
	for _, n := range []pg.SegmentNumber{4, 40} {
		if _, err := p.Push(t.Context(), life, filepath.Join(dir, name(n))); err != nil {
			t.Fatal(err)
		}
	}
	got := slices.DeleteFunc(r.all(), func(n string) bool { return n == name(40) }) // asked for in between
	if !slices.IsSorted(got) {
		t.Errorf("archived in the order %v", got)
	}
}
