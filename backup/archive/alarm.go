package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
)

// The kinds of alarms.
const (
	AlarmConflict   = "conflict"   // a leader's WAL counts beside a different one
	AlarmQuarantine = "quarantine" // different WAL of somebody not proved to be leader
	AlarmDamage     = "damage"     // a file was refused that is damaged, or whose archived object is
	AlarmUnreadable = "unreadable" // an event cannot be read, which may be an alarm
)

// Alarm is something about the archive that a person must look at. Every
// command shows it until it is acknowledged.
type Alarm struct {
	ID      repo.BackupID // of the event; set when reading
	Time    time.Time     // set when reading
	Kind    string
	Subject string // file name
	Text    string
	Member  string      // whose file it was
	Digest  repo.Digest // of its content, where that is known

	Existing string // key of the archived file, of conflict and quarantine
	Key      string // key of this one

	Acknowledged bool // set when reading
}

// The kinds of the events that carry alarms and their acknowledgements.
const (
	eventAlarm = "alarm"
	eventAck   = "ack"
)

// Raise stores an alarm, unless the same one is there: an archiver tries again
// for ever, and one alarm is enough.
func Raise(ctx context.Context, r *repo.Repo, a Alarm) error {
	all, err := Alarms(ctx, r)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, a.same) {
		return nil
	}
	data := map[string]string{"kind": a.Kind}
	for k, v := range map[string]string{"member": a.Member, "existing": a.Existing, "key": a.Key} {
		if v != "" {
			data[k] = v
		}
	}
	if !a.Digest.IsZero() {
		data["digest"] = a.Digest.String()
	}
	if _, err := r.PutEvent(ctx, repo.Event{Kind: eventAlarm, Subject: a.Subject, Time: time.Now(), Text: a.Text, Data: data}); err != nil {
		return fmt.Errorf("store alarm about %s: %w", a.Subject, err)
	}
	return nil
}

// same reports whether both are about the same file of the same member.
func (a Alarm) same(o Alarm) bool {
	return a.Kind == o.Kind && a.Subject == o.Subject && a.Member == o.Member && a.Digest == o.Digest && a.Key == o.Key
}

// Alarms lists all alarms, oldest first, acknowledged ones included. An event
// that cannot be read is an alarm of its own, since it may be one.
func Alarms(ctx context.Context, r *repo.Repo) ([]Alarm, error) {
	events, err := r.Events(ctx)
	if err != nil {
		return nil, err
	}
	return AlarmsOf(events), nil
}

// AlarmsOf is Alarms of events that were read before.
func AlarmsOf(events []repo.StoredEvent) []Alarm {
	var out []Alarm
	acknowledged := make(map[string]bool)
	for _, e := range events {
		switch {
		case errors.Is(e.Err, fs.ErrNotExist): // removed since it was listed
		case e.Err != nil:
			out = append(out, Alarm{ID: e.ID, Time: e.Object.Modified, Kind: AlarmUnreadable, Subject: e.Key, Text: "event cannot be read: " + e.Err.Error()})
		case e.Kind == eventAck:
			acknowledged[e.Subject] = true
		case e.Kind == eventAlarm:
			a := Alarm{
				ID: e.ID, Time: e.Time, Kind: e.Data["kind"], Subject: e.Subject, Text: e.Text,
				Member: e.Data["member"], Existing: e.Data["existing"], Key: e.Data["key"],
			}
			if d, err := repo.ParseDigest(e.Data["digest"]); err == nil {
				a.Digest = d
			}
			out = append(out, a)
		}
	}
	for i := range out {
		out[i].Acknowledged = acknowledged[out[i].ID.String()]
	}
	return out
}

// Acknowledge says that somebody has looked at an alarm. by and why are kept.
func Acknowledge(ctx context.Context, r *repo.Repo, id repo.BackupID, by, why string) error {
	all, err := Alarms(ctx, r)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(a Alarm) bool { return a.ID == id }) {
		return fmt.Errorf("acknowledge alarm %s: there is no such alarm", id)
	}
	e := repo.Event{Kind: eventAck, Subject: id.String(), Time: time.Now(), Text: why, Data: map[string]string{"by": by}}
	if _, err := r.PutEvent(ctx, e); err != nil {
		return fmt.Errorf("acknowledge alarm %s: %w", id, err)
	}
	return nil
}
