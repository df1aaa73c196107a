package archive_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// inclusive is how an agent fetches ahead.
func inclusive(p *archive.Prefetch) { p.Inclusive = true }

// handed has a segment handed over and puts it where recovery wants it, as a command
// does.
func (x *recovery) handed(t testing.TB, p *archive.Prefetch, name string, n pg.SegmentNumber) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	path, err := p.HandOver(ctx, name)
	dest := filepath.Join(x.dir, "RECOVERYXLOG")
	if err == nil {
		err = os.Rename(filepath.Join(x.dir, path), dest)
	}
	if err != nil {
		t.Fatalf("segment %s: %v", name, err)
	}
	if got, err := os.ReadFile(dest); err != nil || !slices.Equal(got, x.b.segments[n]) {
		t.Errorf("segment %s differs: %v", name, err)
	}
}

func TestWhoeverWaitsIsHandedSegmentAfterSegment(t *testing.T) {
	x := startRecovery(t, 14)
	x.ask(t, 4)
	// As many workers as there is room: at leisure nothing is fetched, so nothing twice.
	p := x.prefetch(t, func(p *archive.Prefetch) { p.Inclusive, p.Workers = true, 4 })
	for n := pg.SegmentNumber(4); n <= 14; n++ {
		x.handed(t, p, x.b.name(n), n)
	}
	x.ended(t)
	if c := x.count.Counts(); c.Get > 11+1 || c.Failed > 0 {
		t.Errorf("each segment is fetched once: calls %+v", c)
	}
	if path, err := p.HandOver(t.Context(), x.b.name(15)); err == nil {
		t.Errorf("%s is handed over by nobody", path)
	}
	if left := x.files(t); len(left) != 0 {
		t.Errorf("in the spool: %v", left)
	}
}

// TestWhatWasTakenIsFetchedAgain for a server that begins anew, or that goes back to
// the archive after it streamed: at once, not when nothing else is to be had.
func TestWhatWasTakenIsFetchedAgain(t *testing.T) {
	for name, change := range map[string]func(*archive.Prefetch){"for all": inclusive, "ahead of who fetches itself": nil} {
		t.Run(name, func(t *testing.T) {
			x := startRecovery(t, 14)
			x.ask(t, 4)
			p := x.prefetch(t, change)
			for _, n := range []pg.SegmentNumber{5, 6, 6, 6, 7, 5, 6, 12, 12} {
				x.handed(t, p, x.b.name(n), n)
			}
		})
	}
}

// tick waits until the clock by which the file system notes changes, which is a coarse
// one, has gone on.
func (x *recovery) tick(t testing.TB) {
	t.Helper()
	now := func() time.Time {
		info, err := os.Stat(save(t, filepath.Join(x.dir, "now"), nil))
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	for begun := now(); !now().After(begun); {
		time.Sleep(time.Millisecond)
	}
}

// TestOnlyWhatIsAsItWasLaidDownIsHandedOver: a file that was touched since is fetched
// again.
func TestOnlyWhatIsAsItWasLaidDownIsHandedOver(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"other bytes, of the same length": func(path string) error {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content[len(content)/2] ^= 4
			return os.WriteFile(path, content, 0o600)
		},
		"another file under the name": func(path string) error {
			content, err := os.ReadFile(path)
			return errors.Join(err, os.Remove(path), os.WriteFile(path, content[:len(content)/2], 0o600))
		},
		"a folder": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"nothing":  os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			x := startRecovery(t, 8)
			x.ask(t, 4)
			p := x.prefetch(t, inclusive)
			x.holds(t, 4, 5, 6, 7)
			files, err := filepath.Glob(filepath.Join(x.dir, ".pgtender-spool", x.b.name(5)+"~*"))
			if err != nil || len(files) != 1 {
				t.Fatalf("%v, %v", files, err)
			}
			x.tick(t)
			if err := spoil(files[0]); err != nil {
				t.Fatal(err)
			}
			x.handed(t, p, x.b.name(5), 5)
		})
	}
}

// TestWhatCannotBeHandedOverIsSaidAtOnce: whoever waits has to fetch it then.
func TestWhatCannotBeHandedOverIsSaidAtOnce(t *testing.T) {
	second := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: segSize.Start(7) + 5000}}}
	for _, c := range []struct {
		name string
		make func(t *testing.T, x *recovery, p *archive.Prefetch)
		ask  string // the name; "" for segment 6
		want error  // nil: any
	}{
		{name: "what is not on the history", ask: "000000020000000000000006"},
		{name: "what the history took from another timeline", make: func(_ *testing.T, x *recovery, _ *archive.Prefetch) {
			x.lineage.Store(&archive.Lineage{History: second})
		}, ask: "000000010000000000000008"},
		{name: "what is not archived", ask: "00000001000000000000000E"},
		{name: "what is no segment", ask: "00000002.history"},
		{name: "what has no room", make: func(_ *testing.T, _ *recovery, p *archive.Prefetch) { p.Bytes = int64(segSize) - 1 }},
		{name: "what the disk has no room for", make: func(_ *testing.T, _ *recovery, p *archive.Prefetch) { p.Bytes = 1 << 61 }},
		{name: "what is damaged", make: func(t *testing.T, x *recovery, _ *archive.Prefetch) { flip(t, x.count, x.keys[6], 5000, 1) }, want: repo.ErrCorrupt},
		{name: "what nobody knows the history of", make: func(_ *testing.T, _ *recovery, p *archive.Prefetch) {
			p.Lineage = func(context.Context) (archive.Lineage, error) { return archive.Lineage{}, fs.ErrPermission }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sound, store := openMem(t) // which may be damaged
			x := startRecoveryFrom(t, 12, sound, store)
			x.ask(t, 6)
			p := x.prefetch(t, func(p *archive.Prefetch) {
				p.Inclusive = true
				if c.make != nil {
					c.make(t, x, p)
				}
			})
			name := c.ask
			if name == "" {
				name = x.b.name(6)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			path, err := p.HandOver(ctx, name)
			if err == nil || ctx.Err() != nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s, %v", path, err)
			}
		})
	}
}

// TestAStaleHistoryHandsNothingOver: nobody looked whether another one counts by now.
func TestAStaleHistoryHandsNothingOver(t *testing.T) {
	x := startRecovery(t, 8)
	synctest.Test(t, func(t *testing.T) {
		x.ask(t, 4)
		var looks atomic.Int32
		stuck := make(chan struct{})
		p := x.prefetch(t, func(p *archive.Prefetch) {
			p.Inclusive = true
			p.Lineage = func(context.Context) (archive.Lineage, error) {
				if looks.Add(1) > 1 {
					<-stuck // as a DCS that does not answer
				}
				return *x.lineage.Load(), nil
			}
		})
		x.handed(t, p, x.b.name(4), 4)
		time.Sleep(4 * time.Second)
		x.handed(t, p, x.b.name(5), 5)
		time.Sleep(2 * time.Second)
		if path, err := p.HandOver(t.Context(), x.b.name(6)); err == nil || looks.Load() != 2 {
			t.Errorf("%s, %v after %d looks", path, err, looks.Load())
		}
		close(stuck)
		synctest.Wait()
		x.handed(t, p, x.b.name(6), 6)
	})
}

func TestWhoeverWaitsIsLetGo(t *testing.T) {
	t.Run("with the one that fetches", func(t *testing.T) {
		x := startRecovery(t, 8)
		x.ask(t, 4)
		waits := make(chan struct{})
		p := x.prefetch(t, func(p *archive.Prefetch) {
			p.Inclusive = true
			p.Lineage = func(context.Context) (archive.Lineage, error) {
				<-waits
				x.alive.Store(false) // the server is gone
				return *x.lineage.Load(), fs.ErrPermission
			}
		})
		got := make(chan error, 1)
		go func() { _, err := p.HandOver(t.Context(), x.b.name(4)); got <- err }()
		close(waits)
		if err := <-got; err == nil {
			t.Error("something is handed over")
		}
		<-x.done
		x.done <- nil
	})
	t.Run("with its own patience", func(t *testing.T) {
		p := &archive.Prefetch{WALDir: t.TempDir()}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if path, err := p.HandOver(ctx, "000000010000000000000004"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s, %v", path, err)
		}
	})
}
