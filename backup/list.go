package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

// Status says what a listed backup is good for.
type Status string

// The statuses.
const (
	Complete Status = "complete"
	Pending  Status = "pending" // copied, but its WAL is not in the archive; no backup yet
	Damaged  Status = "damaged" // its manifest is not what was written
	// Unreadable is one whose manifest could not be read: the store failed or
	// refused, or a newer release wrote it. It may be sound.
	Unreadable Status = "unreadable"
	// Condemned: expire or delete is about to remove it, nobody may begin to
	// use it.
	Condemned Status = "condemned"
)

// Summary is one backup in a listing. Its JSON keys are stable.
type Summary struct {
	ID     repo.BackupID `json:"id,omitzero"` // zero if not even the key can be read
	Status Status        `json:"status"`
	Key    string        `json:"key"` // of the manifest
	// Error says what is wrong with a damaged or unreadable one, or why one is
	// condemned.
	Error string `json:"error,omitempty"`
	// Backup is what the manifest says, nil for a damaged or unreadable one.
	Backup *repo.Backup `json:"backup,omitempty"`
}

// List lists the backups of one cluster, oldest first, those that wait for WAL
// and those that are damaged included.
func List(ctx context.Context, r *repo.Repo) ([]Summary, error) {
	committed, err := r.Backups(ctx)
	if err != nil {
		return nil, err
	}
	pending, err := r.Pending(ctx)
	if err != nil {
		return nil, err
	}
	// One that was pending in one listing and committed in the other is shown
	// as committed.
	pending = slices.DeleteFunc(pending, func(p repo.Listed) bool {
		return slices.ContainsFunc(committed, func(c repo.Listed) bool { return c.ID == p.ID && !c.ID.IsZero() })
	})
	out := make([]Summary, 0, len(committed)+len(pending))
	for _, l := range committed {
		out = append(out, summary(l, Complete))
	}
	for _, l := range pending {
		if errors.Is(l.Err, storage.ErrNotExist) {
			continue // committed or given up since the listing
		}
		out = append(out, summary(l, Pending))
	}
	slices.SortStableFunc(out, func(a, b Summary) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

func summary(l repo.Listed, status Status) Summary {
	s := Summary{ID: l.ID, Status: status, Key: l.Object.Key}
	switch {
	case errors.Is(l.Err, repo.ErrCondemned):
		s.Status, s.Error = Condemned, l.Err.Error()
	case l.Err != nil:
		s.Status, s.Error = Unreadable, l.Err.Error()
		if errors.Is(l.Err, repo.ErrCorrupt) || errors.Is(l.Err, storage.ErrNotExist) {
			s.Status = Damaged
		}
		return s
	}
	b := l.Backup
	s.Backup = &b
	return s
}

// UnusableError says why a backup cannot serve a history.
type UnusableError struct {
	Backup repo.BackupID
	Why    string
}

func (e *UnusableError) Error() string {
	return fmt.Sprintf("backup %s cannot be used: %s", e.Backup, e.Why)
}

// Usable reports, as an [*UnusableError], why b cannot be the beginning of
// something that is to end on target: the whole of b, from start to stop, must
// lie on that history, and its WAL be archived along it. c is the archive's
// coverage of target from b's start on, or from earlier.
func Usable(b *repo.Backup, c archive.Cover, target pg.History) error {
	no := func(format string, args ...any) error {
		return &UnusableError{b.ID, fmt.Sprintf(format, args...)}
	}
	own, ok := archive.Ancestor(target, b.Stop.Timeline)
	switch {
	case !ok:
		return no("it is of timeline %s, which timeline %s does not descend from", b.Stop.Timeline, target.Timeline)
	case !own.Equal(b.StopHistory()):
		return no("its timeline %s is another one than the timeline %s that timeline %s descends from", b.Stop.Timeline, b.Stop.Timeline, target.Timeline)
	case !target.Contains(b.Stop), !target.Contains(b.Start):
		left, _ := target.End(b.Stop.Timeline)
		return no("timeline %s left timeline %s at %s, before the backup's stop at %s", target.Timeline, b.Stop.Timeline, left, b.Stop.LSN)
	case !c.History.Equal(target) || c.From > b.Start.LSN:
		return no("what the archive holds for timeline %s from %s on is not known", target.Timeline, b.Start.LSN)
	case !c.Reaches(b.Stop.LSN):
		return no("WAL segment %s, which it needs to become consistent, is not in the archive", c.Missing.Name(b.SegmentSize))
	}
	return nil
}
