package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// Prefetch fetches what recovery will ask for next into the spool of its pg_wal.
// Run is for one goroutine, [Prefetch.HandOver] for any.
type Prefetch struct {
	Repo   *repo.Repo
	WALDir string
	// Lineage gives the history that the reader follows, by a fresh look; Reader
	// tells it from readers that follow another one.
	Lineage func(context.Context) (Lineage, error)
	Reader  string
	// Inclusive: the segment that is asked for is fetched too, for whoever asks
	// waits for it. Otherwise it is fetched elsewhere.
	Inclusive bool
	Bytes     int64 // of segments in the spool at most
	Workers   int   // fetches at the same time that recovery may soon wait for, see [DecideAhead]
	// Alive reports whether somebody may still ask. Once it says no nothing is
	// written any more, for the folder may be about to be removed.
	Alive func() bool
	// Linger is how long nobody may ask before it ends; 0 means half a minute.
	Linger time.Duration
	// Begun is called once the spool is this Prefetch's alone, and what it gives when
	// there is nothing to be handed over any more; nil: nothing is.
	Begun func() (end func())
	Log   *slog.Logger // nil discards

	mu      sync.Mutex // guards all below
	course  int        // changes with the history: what was begun before counts no more
	running map[pg.SegmentNumber]*errand
	failed  error
	desk    desk
}

const (
	defaultLinger = 30 * time.Second
	// tick is how often the spool is looked at, refresh how often the history,
	// and relist how often the archive's end.
	tick    = 20 * time.Millisecond
	refresh = 2 * time.Second
	relist  = time.Second
	// inVain is how long somebody waits for a fetch at leisure before another one is
	// begun: while recovery waits there mostly is a processor for it.
	inVain = 50 * time.Millisecond
)

// ErrBusy means that another Prefetch works at the spool.
var ErrBusy = errors.New("another process fetches ahead")

// Run fetches ahead of the segment that the spool was asked for last, until the
// archive ends, nobody asks any more, or ctx ends. It leaves the spool empty.
func (p *Prefetch) Run(ctx context.Context) error {
	defer p.close()
	s := SpoolIn(p.WALDir)
	release, ok := s.lock()
	if !ok {
		return ErrBusy
	}
	defer release()
	s.begin()
	sweepTemps(p.WALDir)
	if p.Begun != nil {
		defer p.Begun()()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &prefetching{Prefetch: p, spool: s}
	defer func() {
		cancel()
		r.fetches.Wait()
		p.close() // before what was promised is removed
		if p.Alive() {
			s.clear()
		}
	}()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		more, err := r.step(ctx)
		if !more || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-p.woken():
		}
	}
}

// prefetching is a Prefetch at work.
type prefetching struct {
	*Prefetch
	spool   Spool
	lineage Lineage
	size    pg.SegmentSize
	checked time.Time // when lineage was found
	asked   pg.Segment
	next    pg.SegmentNumber // to be fetched
	ahead   []repo.WALObject // listed, from next on
	listed  time.Time        // when; zero: the course has changed

	fetches sync.WaitGroup
}

// step does what is to be done now, and reports whether to go on.
func (r *prefetching) step(ctx context.Context) (more bool, err error) {
	name, at := r.spool.asked()
	linger := r.Linger
	if linger == 0 {
		linger = defaultLinger
	}
	if name == "" || time.Since(at) > linger || !r.Alive() {
		return false, nil
	}
	if time.Since(r.checked) > refresh {
		if err := r.look(ctx); err != nil {
			return false, err
		}
	}
	seg, err := pg.ParseSegment(name, r.size)
	if err != nil {
		return false, err
	}
	if !Serves(r.lineage.History, r.size, seg) {
		r.refuse(name, errForeign)
	}
	r.follow(name, seg)
	if r.listed.IsZero() || len(r.ahead) == 0 && time.Since(r.listed) > relist {
		if err := r.list(ctx); err != nil {
			return false, err
		}
	}
	left := r.fill(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	return left > 0 || len(r.running) > 0 || len(r.ahead) > 0, r.failed
}

// look finds out which history counts, drops what is not of it, and says that
// the rest is fresh.
func (r *prefetching) look(ctx context.Context) error {
	begin := time.Now()
	l, err := r.Lineage(ctx)
	if err != nil {
		return fmt.Errorf("find the history to follow: %w", err)
	}
	if r.size == 0 {
		if r.size, err = SegmentSize(ctx, r.Repo); err != nil {
			return err
		}
		if int64(r.size) > r.Bytes {
			return fmt.Errorf("%d bytes have no room for a segment of %d", r.Bytes, r.size)
		}
	}
	if l.Timeline != r.lineage.Timeline || !l.History.Equal(r.lineage.History) {
		r.mu.Lock()
		r.course++
		r.desk.keep(nil)
		r.mu.Unlock()
		for _, f := range r.spool.files() {
			os.Remove(r.spool.path(f))
		}
		r.lineage, r.asked, r.listed = l, pg.Segment{}, time.Time{}
	}
	r.checked = begin
	if err := r.spool.prove(r.Reader, begin); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.desk.proved = begin
	return nil
}

// follow notes what was asked for. A jump begins anew, and so does somebody who
// waits for what was handed over before.
func (r *prefetching) follow(name string, seg pg.Segment) {
	lacking := r.lacks(name, seg.Number)
	if r.asked.Timeline == 0 || seg.Number < r.asked.Number || seg.Number > r.next || lacking && seg.Number < r.next {
		r.next, r.ahead, r.listed = seg.Number, nil, time.Time{}
		if !r.Inclusive && !lacking {
			r.next++
		}
	}
	r.asked = seg
}

// list finds what is archived from the next segment on.
func (r *prefetching) list(ctx context.Context) error {
	r.ahead, r.listed = nil, time.Now()
	next := r.next
	for o, err := range Along(ctx, r.Repo, r.lineage.History, r.size, next) {
		if err != nil {
			return err
		}
		if o.Segment.Number != next || len(r.ahead) == ahead {
			break // a hole, or enough for now
		}
		r.ahead = append(r.ahead, o)
		next++
	}
	return nil
}

// fill begins fetches as far as there is room, and gives the number of segments
// that lie in the spool.
func (r *prefetching) fill(ctx context.Context) int {
	// What is being fetched comes into the spool and stops to be counted as running
	// under the lock too: it is never missed, but may count twice for a moment.
	r.mu.Lock()
	defer r.mu.Unlock()
	here := map[string]bool{}
	for _, f := range r.spool.files() {
		seg, err := pg.ParseSegment(f[:24], r.size)
		if err == nil && seg.Number >= r.asked.Number && seg.Number < r.next {
			here[f] = true
		} else {
			os.Remove(r.spool.path(f)) // passed by
		}
	}
	r.desk.keep(here)
	r.hurry()
	if len(r.ahead) > 0 && !r.spool.roomy(r.Bytes) {
		r.desk.failAll(errNoRoom)
		return len(here)
	}
	for len(r.ahead) > 0 {
		o := r.ahead[0]
		known := o.Segment.Number < r.asked.Number || r.running[o.Segment.Number] != nil
		way := DecideAhead(r.stock(len(here), o))
		if !known && way == FetchNone {
			break
		}
		r.ahead, r.next = r.ahead[1:], o.Segment.Number+1
		if !known {
			r.begin(ctx, o, way)
		}
	}
	return len(here)
}

// stock gives what o is begun upon, or not. The caller holds the lock.
func (r *prefetching) stock(laid int, o repo.WALObject) Stock {
	s := Stock{Laid: laid, Room: int(r.Bytes / int64(r.size)), Workers: r.Workers, Awaited: r.desk.awaited[o.Segment.Name(r.size)] != nil}
	for _, e := range r.running {
		if e.leisurely {
			s.Leisurely++
		} else {
			s.Hasty++
		}
	}
	return s
}

// errand is one segment that is being fetched. All of it is guarded by the lock.
type errand struct {
	object    repo.WALObject
	course    int
	leisurely bool        // it is fetched at leisure alone
	many      int         // fetches that are at work at it
	laid      bool        // one of them has done it
	fetch     func(Fetch) // begins one
	end       context.CancelFunc
}

// begin has a segment fetched. The caller holds the lock.
func (r *prefetching) begin(ctx context.Context, o repo.WALObject, way Fetch) {
	ctx, end := context.WithCancel(ctx)
	e := &errand{object: o, course: r.course, end: end}
	e.fetch = func(way Fetch) {
		e.many++
		e.leisurely = way == FetchLeisurely
		fetch := func() { r.fetch(ctx, e) }
		if way == FetchLeisurely {
			fetch = func() { atLeisure(func() { r.fetch(ctx, e) }) }
		}
		r.fetches.Go(fetch)
	}
	if r.running == nil {
		r.running = map[pg.SegmentNumber]*errand{}
	}
	r.running[o.Segment.Number] = e
	e.fetch(way)
}

// hurry begins anew what is fetched at leisure and somebody has waited for since, for
// a thread that gives way cannot be made to go first again. Whichever fetch is done
// first counts. The caller holds the lock.
func (r *prefetching) hurry() {
	for _, e := range r.running {
		if w := r.desk.awaited[e.object.Segment.Name(r.size)]; e.leisurely && w != nil && time.Since(w.since) >= inVain {
			e.fetch(FetchHastily)
		}
	}
}

// fetch lays down one segment. What it fails at, whoever asks for the segment
// finds out.
func (r *prefetching) fetch(ctx context.Context, e *errand) {
	key, name := e.object.Object.Key, e.object.Segment.Name(r.size)
	err := r.lay(ctx, e, name)
	if err != nil && ctx.Err() == nil && r.Log != nil {
		r.Log.DebugContext(ctx, "not fetched ahead", "key", key, "error", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e.many--
	if e.many > 0 && !e.laid {
		return // the other one may do it
	}
	e.end()
	if r.running[e.object.Segment.Number] == e { // not one that was begun since
		delete(r.running, e.object.Segment.Number)
	}
	if err != nil && !e.laid {
		r.desk.fail(name, err)
		if !errors.Is(err, repo.ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
			r.failed = err
		}
	}
	r.desk.wake()
}

// lay puts a segment into the spool once it was read back: from then on it is at
// once handed over.
func (r *prefetching) lay(ctx context.Context, e *errand, name string) (err error) {
	f, err := os.CreateTemp(r.spool.dir, layPrefix+"*")
	if err != nil {
		return err
	}
	digest := repo.NewDigester()
	_, err = r.Repo.ReadWAL(ctx, e.object.Object.Key, io.MultiWriter(f, digest))
	err = errors.Join(err, f.Close())
	if err == nil {
		err = intact(f.Name(), name, digest.Digest())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && (e.course != r.course || e.laid) {
		err = fs.ErrNotExist // not on the history that counts now, or another fetch was faster
	}
	if err == nil {
		file := name + "~" + digest.Digest().String()
		if err = os.Rename(f.Name(), r.spool.path(file)); err == nil {
			if err = r.desk.lay(r.spool, name, file); err == nil {
				e.laid = true
			}
			return err
		}
	}
	os.Remove(f.Name())
	return err
}

// IsRecovery reports whether dest is where a recovering server wants a segment,
// which asks for one after the other (RestoreArchivedFile, xlogarchive.c);
// pg_rewind and Patroni name another place.
func IsRecovery(name, dest string) bool {
	return pg.IsSegmentName(name) && strings.HasPrefix(filepath.Base(dest), "RECOVERYXLOG")
}
