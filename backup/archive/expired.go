package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

// eventExpired is the kind of the events that say which WAL was removed on
// purpose.
const eventExpired = "expired"

// Expired says which segments were removed on purpose, by incarnation: ranges,
// both ends included, ascending. A segment that is missing there is no hole.
type Expired map[repo.Incarnation][]SegmentRange

// SegmentRange is a run of segments, both ends included.
type SegmentRange struct{ First, Last pg.SegmentNumber }

// Add takes another range of an incarnation.
func (e Expired) Add(i repo.Incarnation, r SegmentRange) {
	all := append(slices.Clone(e[i]), r)
	slices.SortFunc(all, func(a, b SegmentRange) int {
		if a.First < b.First {
			return -1
		}
		return 1
	})
	out := all[:1]
	for _, r := range all[1:] {
		if last := &out[len(out)-1]; r.First <= last.Last+1 {
			last.Last = max(last.Last, r.Last)
		} else {
			out = append(out, r)
		}
	}
	e[i] = out
}

// without gives what is left of spans of an incarnation without what was
// removed on purpose.
func (e Expired) without(i repo.Incarnation, spans []Span) []Span {
	for _, r := range e[i] {
		var left []Span
		for _, s := range spans {
			t, first, last := s.First.Timeline, s.First.Number, s.Last.Number
			if r.Last < first || r.First > last {
				left = append(left, s)
				continue
			}
			if first < r.First {
				left = append(left, span(t, first, r.First-1))
			}
			if last > r.Last {
				left = append(left, span(t, r.Last+1, last))
			}
		}
		spans = left
	}
	return spans
}

// ReadExpired reads which WAL was removed on purpose.
func ReadExpired(ctx context.Context, r *repo.Repo) (Expired, error) {
	events, err := r.Events(ctx)
	if err != nil {
		return nil, err
	}
	e, _ := expired(events)
	return e, nil
}

// expired unites what the events say, and names the events.
func expired(events []repo.StoredEvent) (Expired, []repo.BackupID) {
	out := make(Expired)
	var ids []repo.BackupID
	for _, e := range events {
		// One that cannot be read is an alarm of its own, and what it says is
		// reported as a hole.
		if e.Err != nil || e.Kind != eventExpired {
			continue
		}
		ids = append(ids, e.ID)
		for name, ranges := range e.Data {
			i, err := repo.ParseIncarnation(name)
			if err != nil {
				continue
			}
			for part := range strings.SplitSeq(ranges, ",") {
				first, last, ok := strings.Cut(part, "-")
				a, errA := strconv.ParseUint(first, 16, 64)
				b, errB := strconv.ParseUint(last, 16, 64)
				if ok && errors.Join(errA, errB) == nil && a <= b {
					out.Add(i, SegmentRange{pg.SegmentNumber(a), pg.SegmentNumber(b)})
				}
			}
		}
	}
	return out, ids
}

// NoteExpired says that segments are removed on purpose, before they are. What
// was said earlier is part of it, and goes.
func NoteExpired(ctx context.Context, r *repo.Repo, more Expired) error {
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
	data := make(map[string]string)
	for i, ranges := range all {
		var parts []string
		for _, s := range ranges {
			parts = append(parts, fmt.Sprintf("%X-%X", uint64(s.First), uint64(s.Last)))
		}
		data[i.String()] = strings.Join(parts, ",")
	}
	if _, err := r.PutEvent(ctx, repo.Event{Kind: eventExpired, Time: time.Now(), Data: data}); err != nil {
		return fmt.Errorf("note which WAL is removed: %w", err)
	}
	for _, id := range ids {
		if err := r.Remove(ctx, repo.Key{Kind: repo.KeyEvent, ID: id, Event: eventExpired}); err != nil && !errors.Is(err, storage.ErrNotExist) {
			return err
		}
	}
	return nil
}
