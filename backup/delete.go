package backup

import (
	"context"
	"fmt"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
)

// DeleteOptions say how a backup is deleted by name.
type DeleteOptions struct {
	By      string // who wants it
	Reason  string
	Lineage archive.LineageOptions
}

// KeptError says why a backup is not deleted.
type KeptError struct {
	Backup repo.BackupID
	Why    string
	Advice string
}

func (e *KeptError) Error() string {
	return fmt.Sprintf("backup %s is not deleted: %s", e.Backup, e.Why)
}

// Hint says what to do about it.
func (e *KeptError) Hint() string { return e.Advice }

// Delete condemns one backup, whatever the policy says. It can no longer be
// used; an expire after the grace period removes it, and of its packs those
// that no other backup leans on. Until then a pin brings it back. The error is
// a [*KeptError] if it has to stay.
func Delete(ctx context.Context, r *repo.Repo, id repo.BackupID, o DeleteOptions) error {
	if _, err := exists(ctx, r, id); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	now, err := r.StoreTime(ctx)
	if err != nil {
		return fmt.Errorf("delete backup %s: %w", id, err)
	}
	s, err := ReadStock(ctx, r, Policy{}, now, o.Lineage)
	if err != nil {
		return fmt.Errorf("delete backup %s: %w", id, err)
	}
	if err := deletable(s, id); err != nil {
		return err
	}
	reason := "deleted by name"
	if o.By != "" {
		reason += " by " + o.By
	}
	if o.Reason != "" {
		reason += ": " + o.Reason
	}
	return r.Condemn(ctx, repo.Condemnation{Subject: id.String(), Reason: reason, Data: map[string]string{keyBy: "delete"}})
}

// deletable gives the reason against a deletion by name, nil if there is none.
func deletable(s *Stock, id repo.BackupID) error {
	d := &decider{s: s, e: &Expiry{stock: s}, wal: newWALIndex(s)}
	d.markers()
	d.judge()
	kept := func(why, advice string, args ...any) error {
		return &KeptError{Backup: id, Why: why, Advice: fmt.Sprintf(advice, args...)}
	}
	m := s.Marks[id]
	switch {
	case m.Pin.Holds(s.Now):
		return kept("it is pinned", "pgtender pin %s --remove takes the pin off", id)
	case id == d.lastGood:
		return kept("it is the newest good backup", "take a new backup first")
	case d.reads[id] || d.readsAny:
		return kept("it is being restored", "wait until the restore has ended")
	case d.parents[id] || d.running[id]:
		return kept("a running backup builds on it", "wait until the backup has ended")
	}
	if c := d.condemned(id); c != nil && c.Data[keyBy] != "" {
		return kept("it is deleted already", "pgtender expire removes it after the grace period")
	}
	return nil
}
