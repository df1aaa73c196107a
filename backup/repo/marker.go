package repo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
)

// Running is the marker of a backup that is being written: its packs, and
// those of its parent, are not garbage.
type Running struct {
	ID      BackupID  `json:"id"`
	Parent  BackupID  `json:"parent,omitzero"`
	Member  string    `json:"member"`
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Process string    `json:"process,omitempty"` // tells it from others of that number
	Started time.Time `json:"started"`
	Beat    time.Time `json:"beat"` // set by Heartbeat
	Stage   string    `json:"stage,omitempty"`
}

// Reader is the marker of a restore that reads: what it needs must not expire.
type Reader struct {
	ID      BackupID  `json:"id"`              // its own; see NewBackupID
	Backup  BackupID  `json:"backup,omitzero"` // the one it reads; zero: any
	Member  string    `json:"member,omitempty"`
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Beat    time.Time `json:"beat"` // set by Heartbeat
}

// Marker is what [Repo.Heartbeat] can keep alive: Running or Reader.
type Marker interface {
	marker(beat time.Time) (Key, docKind, any)
}

func (m Running) marker(beat time.Time) (Key, docKind, any) {
	m.Started, m.Beat = m.Started.UTC().Round(0), beat
	return Key{Kind: KeyRunning, ID: m.ID}, docRunning, &m
}

func (m Reader) marker(beat time.Time) (Key, docKind, any) {
	m.Started, m.Beat = m.Started.UTC().Round(0), beat
	return Key{Kind: KeyReader, ID: m.ID}, docReader, &m
}

// Beat says how often a marker is renewed and for how long that may fail.
type Beat struct {
	Period time.Duration // 0 means a minute
	// Lapse is how old the last marker stored may become before f is told to
	// stop; 0 means ten periods. It must be well below the grace period of
	// whoever removes garbage.
	Lapse time.Duration
}

// Heartbeat stores a marker, runs f and renews the marker meanwhile. It fails
// at once if the first marker cannot be stored, or if the backup that the
// marker names is condemned ([ErrCondemned]). Where it cannot be renewed for
// b.Lapse, f's context ends with [ErrMarkerLost]. When f has returned and ctx
// goes on, the markers are removed; otherwise they grow old by themselves.
func (r *Repo) Heartbeat(ctx context.Context, m Marker, b Beat, f func(context.Context) error) error {
	if b.Period <= 0 {
		b.Period = time.Minute
	}
	if b.Lapse <= 0 {
		b.Lapse = 10 * b.Period
	}
	h := &heart{repo: r, marker: m, beat: b}
	if err := h.adopt(ctx); err != nil {
		return err
	}
	if err := h.renew(ctx); err != nil {
		return fmt.Errorf("store marker: %w", err)
	}
	if err := h.refuseCondemned(ctx); err != nil {
		return err
	}
	work, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.run(work, cancel)
	}()
	err := f(work)
	lost := context.Cause(work)
	cancel(nil)
	<-done
	if ctx.Err() == nil {
		err = errors.Join(err, h.remove(ctx))
	}
	if errors.Is(lost, ErrMarkerLost) && !errors.Is(err, ErrMarkerLost) {
		err = errors.Join(lost, err)
	}
	return err
}

// heart is one marker being kept alive.
type heart struct {
	repo   *Repo
	marker Marker
	beat   Beat
	seq    uint32    // the last number tried
	oldest uint32    // the first number not removed yet
	last   time.Time // start of the last renewal that succeeded
}

// adopt finds the markers that an earlier, killed run left under the same id:
// theirs are the numbers below ours.
func (h *heart) adopt(ctx context.Context) error {
	k, _, _ := h.marker.marker(time.Time{})
	if !k.ID.valid() {
		return fmt.Errorf("%s marker without an id", k.Kind)
	}
	prefix := fmt.Sprintf("%s%s/%s/", h.repo.prefix, k.Kind, k.ID)
	for o, err := range h.repo.store.List(ctx, prefix, "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		found, err := ParseKey(o.Key)
		if err != nil {
			return &CorruptError{Key: o.Key, Offset: -1, What: err.Error()}
		}
		if h.oldest == 0 {
			h.oldest = found.Number
		}
		h.seq = found.Number
	}
	return nil
}

func (h *heart) run(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(h.beat.Period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// A renewal that hangs must not outlive the lapse.
		attempt, stop := context.WithDeadline(ctx, h.last.Add(h.beat.Lapse))
		err := h.renew(attempt)
		stop()
		if err == nil || ctx.Err() != nil {
			continue
		}
		h.repo.log.Warn("running marker could not be renewed", "cluster", h.repo.cluster.String(), "error", err)
		if time.Since(h.last) >= h.beat.Lapse {
			cancel(fmt.Errorf("%w: %w", ErrMarkerLost, err))
			return
		}
	}
}

// renew stores the next marker and removes the ones before it.
func (h *heart) renew(ctx context.Context) error {
	now := time.Now()
	k, kind, v := h.marker.marker(now.UTC().Round(0))
	h.seq++
	k.Number = h.seq
	if err := h.repo.putJSON(ctx, k, kind, v); err != nil {
		return err
	}
	h.last = now
	return h.removeBelow(ctx, h.seq)
}

func (h *heart) removeBelow(ctx context.Context, seq uint32) error {
	k, _, _ := h.marker.marker(time.Time{})
	for h.oldest = max(h.oldest, 1); h.oldest < seq; h.oldest++ {
		k.Number = h.oldest
		if err := h.repo.store.Delete(ctx, h.repo.Key(k)); err != nil {
			return fmt.Errorf("remove old marker: %w", err)
		}
	}
	return nil
}

func (h *heart) remove(ctx context.Context) error { return h.removeBelow(ctx, h.seq+1) }

// Marked is a marker found in the repository: the newest of its id.
type Marked[T any] struct {
	Marker T
	ID     BackupID
	// Renewed is the store's time of the newest marker: the only age that
	// counts.
	Renewed time.Time
	// Err is why Marker could not be read; it counts all the same. One that
	// is not there (storage.ErrNotExist) has been renewed or removed meanwhile.
	Err error
}

// RunningBackups lists the markers of running backups, dead ones included.
func (r *Repo) RunningBackups(ctx context.Context) ([]Marked[Running], error) {
	return listMarkers[Running](ctx, r, KeyRunning, docRunning)
}

// Readers lists the markers of running restores, dead ones included.
func (r *Repo) Readers(ctx context.Context) ([]Marked[Reader], error) {
	return listMarkers[Reader](ctx, r, KeyReader, docReader)
}

func listMarkers[T any](ctx context.Context, r *Repo, kind KeyKind, doc docKind) ([]Marked[T], error) {
	var out []Marked[T]
	var keys []string
	for o, err := range r.store.List(ctx, r.prefix+string(kind)+"/", "") {
		if err != nil {
			return nil, fmt.Errorf("list %s markers of %s: %w", kind, r.cluster, err)
		}
		k, err := ParseKey(o.Key)
		if err != nil {
			return nil, &CorruptError{Key: o.Key, Offset: -1, What: err.Error()}
		}
		if n := len(out); n > 0 && out[n-1].ID == k.ID {
			out[n-1].Renewed, keys[n-1] = o.Modified, o.Key
			continue
		}
		out, keys = append(out, Marked[T]{ID: k.ID, Renewed: o.Modified}), append(keys, o.Key)
	}
	each(listWorkers, len(out), func(i int) {
		out[i].Err = r.readJSON(ctx, keys[i], doc, &out[i].Marker)
	})
	return out, storage.ContextError(ctx)
}

// RemoveMarker removes all markers of one backup (KeyRunning) or restore
// (KeyReader), for whoever has found it dead.
func (r *Repo) RemoveMarker(ctx context.Context, kind KeyKind, id BackupID) error {
	if kind != KeyRunning && kind != KeyReader {
		return fmt.Errorf("remove markers: %s objects are none", kind)
	}
	prefix := r.prefix + string(kind) + "/" + id.String() + "/"
	for o, err := range r.store.List(ctx, prefix, "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		if err := r.store.Delete(ctx, o.Key); err != nil {
			return fmt.Errorf("remove %s: %w", o.Key, err)
		}
	}
	return nil
}
