package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
)

// What is to be removed is condemned first, by an event, and removed by a later
// look at the repository: so whoever begins to use a backup sees the event, or
// whoever removes sees the marker. docs/architecture.md has the argument.

// Verdict is how a condemnation ended. There is at most one, whoever is faster.
type Verdict string

// The verdicts.
const (
	Undecided Verdict = ""         // it stands, and can still be taken back
	Pardoned  Verdict = "pardoned" // it does not count any more
	Removing  Verdict = "removing" // its subject is being removed, for good
)

// ErrCondemned means that a backup is condemned: it is about to be removed, and
// nobody may begin to use it.
var ErrCondemned = errors.New("it is condemned and about to be removed")

// The kinds of the events that condemn, and that say how it ended.
const (
	eventCondemn = "condemn"
	eventVerdict = "verdict"
)

// Condemnation is something that is to be removed from the repository.
type Condemnation struct {
	ID      BackupID // of the event; set when reading
	Subject string   // a backup id, or what else the caller calls it
	Reason  string
	Data    map[string]string

	Since   time.Time // by the store's clock; set when reading
	Verdict Verdict   // set when reading
	Err     error     // why it could not be read; Subject is not known then
}

// Condemn stores a condemnation.
func (r *Repo) Condemn(ctx context.Context, c Condemnation) error {
	_, err := r.PutEvent(ctx, Event{Kind: eventCondemn, Subject: c.Subject, Time: time.Now(), Text: c.Reason, Data: c.Data})
	if err != nil {
		return fmt.Errorf("condemn %s: %w", c.Subject, err)
	}
	return nil
}

// Condemnations lists all condemnations, oldest first by the store's clock,
// pardoned ones included.
func (r *Repo) Condemnations(ctx context.Context) ([]Condemnation, error) {
	var out []Condemnation
	verdicts := make(map[BackupID]Verdict)
	for o, err := range r.store.List(ctx, r.prefix+"event/", "") {
		if err != nil {
			return nil, fmt.Errorf("list condemnations of %s: %w", r.cluster, err)
		}
		k, err := ParseKey(o.Key)
		switch {
		case err != nil: // it is reported by whoever reads all events
		case k.Event == eventCondemn:
			out = append(out, Condemnation{ID: k.ID, Since: o.Modified})
		case k.Event == eventVerdict:
			verdicts[k.ID] = Removing // until it is read
		}
	}
	each(listWorkers, len(out), func(i int) {
		c := &out[i]
		var e Event
		if c.Err = r.readJSON(ctx, r.eventKey(c.ID, eventCondemn), docEvent, &e); c.Err == nil {
			c.Subject, c.Reason, c.Data = e.Subject, e.Text, e.Data
		}
		if _, ok := verdicts[c.ID]; c.Err != nil || !ok {
			return
		}
		switch v, err := r.verdict(ctx, c.ID); {
		case errors.Is(err, storage.ErrNotExist):
		case err != nil:
			c.Err = err
		default:
			c.Verdict = v
		}
	})
	if err := storage.ContextError(ctx); err != nil {
		return nil, err
	}
	// One that is gone was carried out or forgotten since the listing.
	out = slices.DeleteFunc(out, func(c Condemnation) bool { return errors.Is(c.Err, storage.ErrNotExist) })
	slices.SortStableFunc(out, func(a, b Condemnation) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

func (r *Repo) eventKey(id BackupID, kind string) string {
	return r.Key(Key{Kind: KeyEvent, ID: id, Event: kind})
}

func (r *Repo) verdict(ctx context.Context, id BackupID) (Verdict, error) {
	key := r.eventKey(id, eventVerdict)
	var e Event
	if err := r.readJSON(ctx, key, docEvent, &e); err != nil {
		return Undecided, err
	}
	switch v := Verdict(e.Text); v {
	case Pardoned, Removing:
		return v, nil
	}
	return Undecided, &CorruptError{Key: key, Offset: docHead, What: fmt.Sprintf("verdict %q", e.Text)}
}

// Settle ends a condemnation with a verdict, unless it has one, and gives the
// one in force. Of several that settle the same one at the same time, all get
// the same answer.
func (r *Repo) Settle(ctx context.Context, c Condemnation, v Verdict) (Verdict, error) {
	if v != Pardoned && v != Removing {
		return Undecided, fmt.Errorf("settle condemnation %s: %q is no verdict", c.ID, string(v))
	}
	k := Key{Kind: KeyEvent, ID: c.ID, Event: eventVerdict}
	// Nothing in it depends on who writes it or when, so that a repetition
	// after a lost answer finds its own bytes.
	err := r.putJSON(ctx, k, docEvent, &Event{Kind: eventVerdict, Subject: c.Subject, Time: c.ID.Time(), Text: string(v)})
	switch {
	case err == nil:
		return v, nil
	case errors.Is(err, ErrConflict):
		if v, err = r.verdict(ctx, c.ID); err == nil {
			return v, nil
		}
	}
	return Undecided, fmt.Errorf("settle condemnation of %s: %w", c.Subject, err)
}

// ForgetCondemnation removes a condemnation and its verdict, for whoever knows
// that its subject is gone, or that it was pardoned.
func (r *Repo) ForgetCondemnation(ctx context.Context, id BackupID) error {
	for _, kind := range []string{eventCondemn, eventVerdict} {
		if err := r.Remove(ctx, Key{Kind: KeyEvent, ID: id, Event: kind}); err != nil {
			return err
		}
	}
	return nil
}

// CheckCondemned is an [ErrCondemned] if one of the backups (or generations
// without a manifest) is condemned. Whoever is about to lean on a backup calls
// it after its marker is stored; [Repo.Heartbeat] does so for the backup that a
// marker names. A condemnation that cannot be read may be about any of them.
func (r *Repo) CheckCondemned(ctx context.Context, ids ...BackupID) error {
	all, err := r.Condemnations(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		switch {
		case c.Verdict == Pardoned:
		case c.Err != nil:
			return fmt.Errorf("whether a backup is condemned cannot be told: %w", c.Err)
		case slices.ContainsFunc(ids, func(id BackupID) bool { return c.Subject == id.String() }):
			return fmt.Errorf("backup %s: %w: %s", c.Subject, ErrCondemned, c.Reason)
		}
	}
	return nil
}

// errFenced means that a tombstone lies in place of a manifest.
var errFenced = fmt.Errorf("the backup was given up before it was complete: %w", storage.ErrNotExist)

// tombstone is what lies under the key of a manifest that shall never be.
type tombstone struct {
	ID BackupID `json:"id"`
}

// Fence makes sure that a backup which has no manifest never gets one, whatever
// a process that was only paused still does, and reports true. If there is a
// manifest it reports false.
func (r *Repo) Fence(ctx context.Context, id BackupID) (bool, error) {
	k := Key{Kind: KeyManifest, ID: id}
	err := r.putJSON(ctx, k, docTombstone, &tombstone{id})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, ErrConflict):
		// A manifest, or a tombstone of another release.
		fenced, err := r.fenced(ctx, id)
		if err == nil {
			return fenced, nil
		}
		return false, fmt.Errorf("fence backup %s: %w", id, err)
	}
	return false, fmt.Errorf("fence backup %s: %w", id, err)
}

func (r *Repo) fenced(ctx context.Context, id BackupID) (bool, error) {
	head, err := r.readRange(ctx, r.Key(Key{Kind: KeyManifest, ID: id}), 0, int64(len(docMagic)))
	return err == nil && string(head) == docMagic, err
}

// Fences lists the tombstones, with the store's time.
func (r *Repo) Fences(ctx context.Context) (map[BackupID]storage.Object, error) {
	out := make(map[BackupID]storage.Object)
	for o, err := range r.store.List(ctx, r.prefix+"manifest/", "") {
		if err != nil {
			return nil, fmt.Errorf("list tombstones of %s: %w", r.cluster, err)
		}
		k, err := ParseKey(o.Key)
		if err != nil || o.Size > maxTombstone {
			continue
		}
		switch fenced, err := r.fenced(ctx, k.ID); {
		case errors.Is(err, storage.ErrNotExist):
		case err != nil:
			return nil, err
		case fenced:
			out[k.ID] = o
		}
	}
	return out, nil
}

// maxTombstone is more than a tombstone takes, and less than a manifest, which
// has a description, a generation and an end.
const maxTombstone = docHead + 200

// EventClock is the kind of the events that [Repo.StoreTime] stores for a moment.
const EventClock = "clock"

// StoreTime tells the store's clock, by storing a small object and looking at
// it.
func (r *Repo) StoreTime(ctx context.Context) (now time.Time, err error) {
	key, err := r.PutEvent(ctx, Event{Kind: EventClock, Time: time.Now()})
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for the store's time: %w", err)
	}
	defer func() {
		if removeErr := r.store.Delete(ctx, key); removeErr != nil {
			err = errors.Join(err, fmt.Errorf("remove %s: %w", key, removeErr))
		}
	}()
	for o, err := range r.store.List(ctx, key, "") {
		switch {
		case err != nil:
			return time.Time{}, fmt.Errorf("ask for the store's time: %w", err)
		case o.Key == key:
			return o.Modified, nil
		}
	}
	return time.Time{}, fmt.Errorf("ask for the store's time: %s was just stored and is not listed", key)
}

// isTombstone reports whether an object begins as a document does.
func isTombstone(head []byte) bool { return bytes.HasPrefix(head, []byte(docMagic)) }

// leansOn gives the backup that a marker names.
func leansOn(m Marker) BackupID {
	switch m := m.(type) {
	case Running:
		return m.Parent
	case Reader:
		return m.Backup
	}
	return 0
}

// refuseCondemned is called by Heartbeat once the marker is stored.
func (h *heart) refuseCondemned(ctx context.Context) error {
	id := leansOn(h.marker)
	if id.IsZero() {
		return nil
	}
	err := h.repo.CheckCondemned(ctx, id)
	if err != nil && ctx.Err() == nil {
		err = errors.Join(err, h.remove(ctx))
	}
	return err
}
