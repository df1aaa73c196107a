package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/finding"
)

// The kinds of the events that say something about a backup.
const (
	eventPin        = "pin"
	eventAnnotation = "annotation"
	eventVerify     = "verify"
)

// The keys of a pin's data.
const (
	pinUntil   = "until"   // RFC 3339, absent: for ever
	pinRemoved = "removed" // "true": the pin was taken off
)

// keyBy says who is behind an event. In a condemnation it means that it was
// asked for by name, so that no policy takes it back.
const keyBy = "by"

// Pin keeps a backup from expiring.
type Pin struct {
	Until  time.Time `json:"until,omitzero"` // zero: for ever
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

// Holds reports whether the pin is in force at a time.
func (p *Pin) Holds(now time.Time) bool {
	return p != nil && (p.Until.IsZero() || now.Before(p.Until))
}

// Marks is what people and verifications have said about one backup.
type Marks struct {
	Pin         *Pin              `json:"pin,omitempty"` // also one that has run out
	Annotations map[string]string `json:"annotations,omitempty"`
	// Verified are the newest results, by depth: quick, deep, restore.
	Verified map[string]VerifyMark `json:"verified,omitempty"`
}

// VerifyMark is the result of one verification, as it is kept in the repository.
type VerifyMark struct {
	Time   time.Time `json:"time"`
	OK     bool      `json:"ok"`
	Faults string    `json:"faults,omitempty"` // how many, and the first
	// Lost says what keeps the backup from being restored; "" where a fault
	// leaves it whole, as a hole in the WAL behind it does.
	Lost Loss   `json:"lost,omitempty"`
	By   string `json:"by,omitempty"`
}

// Loss is what a backup lacks, or has only damaged.
type Loss string

// The losses.
const (
	LostContent Loss = "content" // packs or manifest: what builds on it lacks the same
	LostWAL     Loss = "wal"     // that makes it consistent
)

// worse gives the one that concerns more.
func (l Loss) worse(than Loss) bool { return l == LostContent || l == LostWAL && than == "" }

// lost gives the newest result of a verification that found a loss, nil if there
// is none, or if a later one that saw as much found the backup in order.
func (m *Marks) lost() *VerifyMark {
	var out *VerifyMark
	for depth, v := range m.Verified {
		if v.Lost == "" || out != nil && !(v.Lost.worse(out.Lost) || v.Lost == out.Lost && v.Time.After(out.Time)) {
			continue
		}
		refuted := false
		for other, w := range m.Verified {
			refuted = refuted || w.OK && w.Time.After(v.Time) && (depth == DepthQuick || other != DepthQuick)
		}
		if !refuted {
			out = &v
		}
	}
	return out
}

// ReadMarks gives the marks of all backups that have some.
func ReadMarks(ctx context.Context, r *repo.Repo) (map[repo.BackupID]Marks, error) {
	events, err := r.Events(ctx)
	if err != nil {
		return nil, err
	}
	return marks(events)
}

// marks folds events, oldest first, into what is in force. An event that cannot
// be read may be a pin, so that nothing can be said without it.
func marks(events []repo.StoredEvent) (map[repo.BackupID]Marks, error) {
	out := make(map[repo.BackupID]Marks)
	// Ids tell seconds only.
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b repo.StoredEvent) int { return a.Time.Compare(b.Time) })
	for _, e := range events {
		if e.Err != nil {
			if errors.Is(e.Err, storage.ErrNotExist) {
				continue
			}
			err := fmt.Errorf("what is pinned cannot be told: %w", e.Err)
			if errors.Is(err, repo.ErrCorrupt) {
				err = finding.WithHint(err, "remove the damaged object by hand if it is known not to matter")
			}
			return nil, err
		}
		id, err := repo.ParseBackupID(e.Subject)
		if err != nil {
			continue
		}
		m := out[id]
		switch e.Kind {
		case eventPin:
			m.Pin = nil
			if e.Data[pinRemoved] == "" {
				m.Pin = &Pin{By: e.Data[keyBy], Reason: e.Text}
				if until := e.Data[pinUntil]; until != "" {
					// One that cannot be read holds for ever.
					m.Pin.Until, _ = time.Parse(time.RFC3339, until)
				}
			}
		case eventAnnotation:
			m.Annotations = maps.Clone(m.Annotations)
			for k, v := range e.Data {
				if v == "" {
					delete(m.Annotations, k)
				} else {
					if m.Annotations == nil {
						m.Annotations = make(map[string]string)
					}
					m.Annotations[k] = v
				}
			}
		case eventVerify:
			if m.Verified == nil {
				m.Verified = make(map[string]VerifyMark)
			}
			m.Verified[e.Data["depth"]] = VerifyMark{Time: e.Time, OK: e.Data["ok"] == "true", Faults: e.Text, Lost: Loss(e.Data["lost"]), By: e.Data[keyBy]}
		default:
			continue
		}
		out[id] = m
	}
	return out, nil
}

// exists makes sure that there is such a backup, pending and damaged ones
// included.
func exists(ctx context.Context, r *repo.Repo, id repo.BackupID) (Summary, error) {
	list, err := List(ctx, r)
	if err != nil {
		return Summary{}, err
	}
	for _, s := range list {
		if s.ID == id {
			return s, nil
		}
	}
	return Summary{}, &absentError{id}
}

// absentError is the error of an id that no backup has. It matches
// [storage.ErrNotExist].
type absentError struct{ id repo.BackupID }

func (e *absentError) Error() string        { return fmt.Sprintf("the repository holds no backup %s", e.id) }
func (e *absentError) Hint() string         { return "pgtender info lists the backups" }
func (e *absentError) Is(target error) bool { return target == storage.ErrNotExist }

// say stores another event about a backup. Of two events the one with the later
// time counts, so its time is the present, or just behind what was said before, by
// a host whose clock is ahead.
func say(ctx context.Context, r *repo.Repo, said repo.Event) error {
	events, err := r.Events(ctx)
	if err != nil {
		return err
	}
	said.Time = time.Now()
	for _, e := range events {
		if e.Err == nil && e.Kind == said.Kind && e.Subject == said.Subject && !e.Time.Before(said.Time) {
			said.Time = e.Time.Add(time.Millisecond)
		}
	}
	_, err = r.PutEvent(ctx, said)
	return err
}

// SetPin pins a backup, in place of a pin that it has. A condemned backup is
// pardoned by it, unless its removal has begun: then it is refused.
func SetPin(ctx context.Context, r *repo.Repo, id repo.BackupID, p Pin) error {
	switch s, err := exists(ctx, r, id); {
	case err != nil:
		return fmt.Errorf("pin: %w", err)
	case s.Status == Pending:
		return finding.WithHint(fmt.Errorf("pin backup %s: it waits for its WAL, and is no backup yet", id), "pin it once it is complete")
	}
	e := repo.Event{Kind: eventPin, Subject: id.String(), Text: p.Reason, Data: map[string]string{}}
	if !p.Until.IsZero() {
		e.Data[pinUntil] = p.Until.UTC().Format(time.RFC3339)
	}
	if p.By != "" {
		e.Data[keyBy] = p.By
	}
	if err := say(ctx, r, e); err != nil {
		return fmt.Errorf("pin backup %s: %w", id, err)
	}
	// The pin first, then the condemnations: one that comes later comes from an
	// expire that has not seen the pin, and the next one takes it back.
	return pardon(ctx, r, id)
}

// pardon settles all condemnations of a backup so that it stays.
func pardon(ctx context.Context, r *repo.Repo, id repo.BackupID) error {
	all, err := r.Condemnations(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.Err != nil || c.Subject != id.String() || c.Verdict == repo.Pardoned {
			continue
		}
		v, err := r.Settle(ctx, c, repo.Pardoned)
		switch {
		case err != nil:
			return err
		case v != repo.Pardoned:
			return fmt.Errorf("pin backup %s: it is too late, its removal has begun: %w", id, repo.ErrCondemned)
		}
	}
	return nil
}

// RemovePin takes the pin off a backup.
func RemovePin(ctx context.Context, r *repo.Repo, id repo.BackupID, by string) error {
	if _, err := exists(ctx, r, id); err != nil {
		return fmt.Errorf("take the pin off: %w", err)
	}
	err := say(ctx, r, repo.Event{Kind: eventPin, Subject: id.String(), Data: map[string]string{pinRemoved: "true", keyBy: by}})
	if err != nil {
		return fmt.Errorf("take the pin off backup %s: %w", id, err)
	}
	return nil
}

// Annotate notes something about a backup. An empty value takes a note off.
func Annotate(ctx context.Context, r *repo.Repo, id repo.BackupID, notes map[string]string) error {
	if _, err := exists(ctx, r, id); err != nil {
		return fmt.Errorf("annotate: %w", err)
	}
	for k := range notes {
		if k == "" {
			return fmt.Errorf("annotate backup %s: a note without a name", id)
		}
	}
	if err := say(ctx, r, repo.Event{Kind: eventAnnotation, Subject: id.String(), Data: notes}); err != nil {
		return fmt.Errorf("annotate backup %s: %w", id, err)
	}
	return nil
}
