package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
)

// Owner binds a cluster's part of the repository to the cluster whose DCS
// holds the same id.
type Owner struct {
	ID      string    `json:"id"` // random text
	Created time.Time `json:"created"`
	Where   string    `json:"where"` // the DCS that holds the id too, for messages
	Reason  string    `json:"reason,omitempty"`
}

// CurrentOwner reads the owner object with the highest sequence number. Where
// there is none the number is 0 and the error nil. Of one that is damaged
// (ErrCorrupt) the number is given too, so that it can be replaced.
func (r *Repo) CurrentOwner(ctx context.Context) (Owner, uint32, error) {
	var last Key
	for o, err := range r.store.List(ctx, r.prefix+"owner/", "") {
		if err != nil {
			return Owner{}, 0, fmt.Errorf("list owners of %s: %w", r.cluster, err)
		}
		k, err := ParseKey(o.Key)
		if err != nil {
			return Owner{}, 0, &CorruptError{Key: o.Key, Offset: -1, What: err.Error()}
		}
		last = k
	}
	if last.Number == 0 {
		return Owner{}, 0, nil
	}
	var o Owner
	if err := r.readJSON(ctx, r.Key(last), docOwner, &o); err != nil {
		if errors.Is(err, ErrCorrupt) {
			return Owner{}, last.Number, &ownerError{err}
		}
		return Owner{}, 0, err
	}
	return o, last.Number, nil
}

// ownerError is a damaged owner object, without which nothing can be written.
type ownerError struct{ error }

func (e *ownerError) Unwrap() error { return e.error }

// Hint says what to do about it.
func (e *ownerError) Hint() string {
	return "if this cluster is the rightful owner: pgtender adopt stores the owner anew"
}

// PutOwner makes o the owner in place of the one numbered seq (0: of none).
// ErrConflict means that somebody else was faster.
func (r *Repo) PutOwner(ctx context.Context, seq uint32, o Owner) error {
	if o.ID == "" || seq == 1<<32-1 {
		return fmt.Errorf("put owner %d of %s: id %q", seq+1, r.cluster, o.ID)
	}
	o.Created = o.Created.UTC().Round(0)
	return r.putJSON(ctx, Key{Kind: KeyOwner, Number: seq + 1}, docOwner, &o)
}

// Event is something said about the cluster's repository or a backup in it.
// Events are never changed; what a pin or an alarm amounts to follows from all
// of them.
type Event struct {
	Kind    string            `json:"kind"` // 1 to 32 letters a-z: pin, annotation, verify, alarm, ack, …
	Subject string            `json:"subject,omitempty"`
	Time    time.Time         `json:"time"` // by the writer's clock
	Text    string            `json:"text,omitempty"`
	Data    map[string]string `json:"data,omitempty"`
}

// StoredEvent is an event with its place.
type StoredEvent struct {
	Event
	Key    string
	ID     BackupID // of the event; has the form of a backup id
	Object storage.Object
	Err    error // why Event could not be read
}

// PutEvent stores an event under a new key, which it gives back.
func (r *Repo) PutEvent(ctx context.Context, e Event) (string, error) {
	if !validEventKind(e.Kind) {
		return "", fmt.Errorf("put event: kind %q is not 1 to 32 letters a-z", e.Kind)
	}
	if e.Time.IsZero() {
		return "", fmt.Errorf("put event %s: it has no time", e.Kind)
	}
	e.Time = e.Time.UTC().Round(0)
	k := Key{Kind: KeyEvent, ID: NewBackupID(e.Time), Event: e.Kind}
	return r.Key(k), r.putJSON(ctx, k, docEvent, &e)
}

// eventLooks is how often events are listed while some are gone once they are
// read.
const eventLooks = 4

// Events lists all events, oldest first. One that cannot be read is listed
// with its error. Who replaces events stores the new one first and then removes
// the old ones; therefore, where one is gone since it was listed, all are listed
// anew.
func (r *Repo) Events(ctx context.Context) ([]StoredEvent, error) {
	for look := 1; ; look++ {
		out, err := r.events(ctx)
		gone := slices.ContainsFunc(out, func(e StoredEvent) bool { return errors.Is(e.Err, storage.ErrNotExist) })
		if err != nil || !gone || look == eventLooks {
			return out, err
		}
	}
}

func (r *Repo) events(ctx context.Context) ([]StoredEvent, error) {
	var out []StoredEvent
	for o, err := range r.store.List(ctx, r.prefix+"event/", "") {
		if err != nil {
			return nil, fmt.Errorf("list events of %s: %w", r.cluster, err)
		}
		out = append(out, StoredEvent{Key: o.Key, Object: o})
	}
	each(listWorkers, len(out), func(i int) {
		e := &out[i]
		k, err := ParseKey(e.Key)
		if err != nil {
			e.Err = &CorruptError{Key: e.Key, Offset: -1, What: err.Error()}
			return
		}
		e.ID = k.ID
		if e.Err = r.readJSON(ctx, e.Key, docEvent, &e.Event); e.Err == nil && e.Event.Kind != k.Event {
			e.Err = &CorruptError{Key: e.Key, Offset: docHead, What: fmt.Sprintf("event of kind %q", e.Event.Kind)}
		}
	})
	return out, storage.ContextError(ctx)
}
