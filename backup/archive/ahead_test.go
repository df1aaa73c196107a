package archive_test

import (
	"context"
	"io"
	"sync"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

func TestWhatIsFetchedAhead(t *testing.T) {
	for _, c := range []struct {
		name  string
		stock archive.Stock
		want  archive.Fetch
	}{
		{"nothing is there", archive.Stock{Room: 8, Workers: 4}, archive.FetchHastily},
		{"not all workers are busy", archive.Stock{Hasty: 3, Room: 8, Workers: 4}, archive.FetchHastily},
		{"all are", archive.Stock{Hasty: 4, Room: 8, Workers: 4}, archive.FetchNone},
		{"what lies ready counts like what is coming", archive.Stock{Laid: 2, Hasty: 2, Room: 8, Workers: 4}, archive.FetchNone},
		{"recovery has taken one", archive.Stock{Laid: 1, Hasty: 2, Room: 8, Workers: 4}, archive.FetchHastily},
		{"enough lies ready", archive.Stock{Laid: 4, Room: 8, Workers: 4}, archive.FetchLeisurely},
		{"enough lies ready, and one is coming", archive.Stock{Laid: 4, Leisurely: 1, Room: 8, Workers: 4}, archive.FetchNone},
		{"the one at leisure is counted too", archive.Stock{Laid: 3, Leisurely: 1, Room: 8, Workers: 4}, archive.FetchNone},
		{"recovery takes faster than it comes at leisure", archive.Stock{Laid: 2, Leisurely: 1, Room: 8, Workers: 4}, archive.FetchHastily},
		{"there is no room", archive.Stock{Laid: 7, Leisurely: 1, Room: 8, Workers: 4}, archive.FetchNone},
		{"there is less room than workers", archive.Stock{Laid: 1, Hasty: 1, Room: 2, Workers: 4}, archive.FetchNone},
		{"there is no room at all, though it is awaited", archive.Stock{Workers: 4, Awaited: true}, archive.FetchNone},
		{"it is awaited, whatever lies ready", archive.Stock{Laid: 5, Leisurely: 1, Room: 8, Workers: 4, Awaited: true}, archive.FetchHastily},
		{"it is awaited, and all workers are busy", archive.Stock{Hasty: 4, Room: 8, Workers: 4, Awaited: true}, archive.FetchNone},
		{"one worker", archive.Stock{Room: 8, Workers: 1}, archive.FetchHastily},
		{"one worker, and one segment lies ready", archive.Stock{Laid: 1, Room: 8, Workers: 1}, archive.FetchLeisurely},
		{"no number of workers is one", archive.Stock{Room: 8}, archive.FetchHastily},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := archive.DecideAhead(c.stock); got != c.want {
				t.Errorf("%+v: %d, want %d", c.stock, got, c.want)
			}
		})
	}
}

// TestAsMuchIsFetchedAsRecoveryTakes: whatever a fetch and the replay of a segment
// take, recovery waits for nothing that the workers could have fetched in time, and
// no more are at work than that needs.
func TestAsMuchIsFetchedAsRecoveryTakes(t *testing.T) {
	const workers, room, moments = 4, 8, 4000
	for _, c := range []struct {
		name          string
		fetch, replay int // moments
		atOnce        int // fetches, at most, once recovery goes
	}{
		{"replay takes far longer", 10, 100, 1},
		{"replay takes as long and a bit", 10, 12, 1},
		{"a fetch takes longer", 15, 10, 2},
		{"a fetch takes three times as long", 30, 10, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := archive.Stock{Room: room, Workers: workers}
			var ends []int // of the fetches
			waited, busy, most := 0, 0, 0
			for now := range moments {
				for i := 0; i < len(ends); i++ {
					if ends[i] != now {
						continue
					}
					ends = append(ends[:i], ends[i+1:]...)
					i--
					s.Laid++
					if s.Leisurely > 0 { // the kinds take equally long here, so either will do
						s.Leisurely--
					} else {
						s.Hasty--
					}
				}
				switch warm := now > moments/4; {
				case busy > 0:
					busy--
				case s.Laid > 0:
					s.Laid--
					busy = c.replay - 1
				case warm:
					waited++
				}
				for way := archive.DecideAhead(s); way != archive.FetchNone; way = archive.DecideAhead(s) {
					ends = append(ends, now+c.fetch)
					if way == archive.FetchHastily {
						s.Hasty++
					} else {
						s.Leisurely++
					}
				}
				if now > moments/4 {
					most = max(most, len(ends))
				}
			}
			if waited > 0 || most > c.atOnce {
				t.Errorf("recovery waited %d moments of %d, and up to %d were fetched at once, want %d", waited, moments, most, c.atOnce)
			}
		})
	}
}

// slowOnce is a store whose first reading of an object lasts until it is given up, as
// that of a thread which never gets a processor.
type slowOnce struct {
	storage.Store
	key   string
	begun chan struct{} // closed when that is read

	mu    sync.Mutex
	reads int // guarded by mu
}

func (s *slowOnce) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if key == s.key {
		s.mu.Lock()
		s.reads++
		first := s.reads == 1
		s.mu.Unlock()
		if first {
			close(s.begun)
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
	}
	return s.Store.Get(ctx, key, off, n)
}

// TestWhatIsFetchedAtLeisureIsFetchedInHasteOnceSomebodyWaits, for a thread's priority
// cannot be raised again.
func TestWhatIsFetchedAtLeisureIsFetchedInHasteOnceSomebodyWaits(t *testing.T) {
	sound, inner := repotest.New(t)
	store := &slowOnce{Store: inner, begun: make(chan struct{})}
	x := startRecoveryFrom(t, 8, sound, store)
	store.key = x.keys[5]
	x.ask(t, 4)
	p := x.prefetch(t, func(p *archive.Prefetch) { p.Inclusive, p.Workers = true, 1 })
	<-store.begun // beyond the one worker's segment, so at leisure
	x.holds(t, 4)
	for n := pg.SegmentNumber(4); n <= 8; n++ {
		x.handed(t, p, x.b.name(n), n)
	}
	x.ended(t)
	if store.mu.Lock(); store.reads != 2 {
		t.Errorf("%d readings", store.reads)
	}
	store.mu.Unlock()
}
