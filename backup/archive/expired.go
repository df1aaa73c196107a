package archive

import (
	"context"
	"fmt"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
)

// eventExpired is the kind of the events that say which WAL was removed on
// purpose.
const eventExpired = "expired"

// ReadExpired reads which WAL was removed on purpose. A segment that is missing
// there is no hole.
func ReadExpired(ctx context.Context, r *repo.Repo) (SegmentSet, error) {
	events, err := r.Events(ctx)
	if err != nil {
		return nil, err
	}
	e, _ := expired(events)
	return e, nil
}

// expired unites what the events say, and names the events.
func expired(events []repo.StoredEvent) (SegmentSet, []repo.BackupID) {
	out := make(SegmentSet)
	var ids []repo.BackupID
	for _, e := range events {
		// One that cannot be read is an alarm of its own, and what it says is
		// reported as a hole.
		if e.Err != nil || e.Kind != eventExpired {
			continue
		}
		ids = append(ids, e.ID)
		for name := range e.Data {
			i, err := repo.ParseIncarnation(name)
			if err != nil {
				continue
			}
			for _, r := range SegmentRanges(e.Data, i) {
				out.Add(i, r)
			}
		}
	}
	return out, ids
}

// NoteExpired says that segments are removed on purpose, before they are. What
// was said earlier is part of it, and goes.
func NoteExpired(ctx context.Context, r *repo.Repo, more SegmentSet) error {
	events, err := r.Events(ctx)
	if err != nil {
		return err
	}
	all, ids := expired(events)
	for i, ranges := range more {
		for _, s := range ranges {
			all.Add(i, s)
		}
	}
	if _, err := r.PutEvent(ctx, repo.Event{Kind: eventExpired, Time: time.Now(), Data: all.Data()}); err != nil {
		return fmt.Errorf("note which WAL is removed: %w", err)
	}
	for _, id := range ids {
		if err := r.Remove(ctx, repo.Key{Kind: repo.KeyEvent, ID: id, Event: eventExpired}); err != nil {
			return err
		}
	}
	return nil
}
