package catchup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
)

// ReplicaOptions say how a replica is made for Patroni. Gather and Run are used
// for each attempt.
type ReplicaOptions struct {
	Gather GatherOptions // Purpose and Broken are set by CreateReplica
	Run    RunOptions
	// Planned, if not nil, is called with each plan before it is carried out.
	Planned func(Plan)

	Log *slog.Logger // nil discards
}

// CreateReplica makes the data directory that Patroni asks for with
// create_replica_methods, and returns nil once the server can be started.
//
// Patroni removes the directory when the command fails, the last method's even
// with keep_data, and tries all methods again without a pause (Ha.clone,
// patroni/ha.py). So what can pass is waited for here: see [RetryDecision].
//
// When ctx ends it returns within seconds; Patroni gives a command ten.
func CreateReplica(ctx context.Context, o ReplicaOptions) error {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	o.Gather.Purpose = Replica
	broken := maps.Clone(o.Gather.Broken)
	if broken == nil {
		broken = map[repo.BackupID]error{}
	}
	suspect := map[repo.BackupID]bool{}
	noMaps := o.Gather.NoMaps
	return persist(ctx, log, func(ctx context.Context) (Facts, Result, error) {
		o.Gather.Broken, o.Gather.NoMaps = maps.Clone(broken), noMaps
		f, r, err := o.attempt(ctx)
		if errors.Is(err, ErrDoubt) {
			noMaps = "an attempt has found that they do not fit: " + err.Error()
		}
		if damaged(err) {
			// Once may have been the way here. A second time, another backup
			// is taken, although what was fetched is lost.
			if suspect[r.Backup] {
				broken[r.Backup] = err
			}
			suspect[r.Backup] = true
		}
		if err == nil {
			log.InfoContext(ctx, "replica restored", "way", string(r.Rung), "backup", r.Backup, "files", r.Files, "bytes", r.Bytes,
				"kept_files", r.Kept, "resumed_files", r.Resumed, "wal_segments", r.Segments, "duration", r.Duration)
		}
		return f, r, err
	})
}

func (o *ReplicaOptions) attempt(ctx context.Context) (Facts, Result, error) {
	f, err := Gather(ctx, o.Gather)
	if err != nil {
		return f, Result{}, err
	}
	p, err := Decide(f)
	if err != nil {
		return f, Result{}, err
	}
	if o.Planned != nil {
		o.Planned(p)
	}
	r, err := Run(ctx, p, o.Run)
	return f, r, err
}

// damaged reports whether an error says that the backup is.
func damaged(err error) bool {
	return errors.Is(err, repo.ErrCorrupt) || errors.Is(err, repo.ErrVersion) || errors.Is(err, storage.ErrNotExist)
}

// persist makes attempts as long as the decision is to go on.
func persist(ctx context.Context, log *slog.Logger, attempt func(context.Context) (Facts, Result, error)) error {
	since := time.Now()
	var first *Facts
	var last error
	for {
		f, r, err := attempt(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ended(ctx, last)
		}
		last = err
		if first == nil || first.Dir.State == "" {
			first = &f // "" says that the directory could not be looked at
		}
		if r.Files > 0 {
			since = time.Now()
		}
		d := RetryDecision(*first, err, since, time.Now())
		if !d.Again {
			return fmt.Errorf("%w (no further attempt: %s)", err, d.Reason)
		}
		log.WarnContext(ctx, "replica could not be made, trying again", "error", err, "after", d.After, "because", d.Reason)
		select {
		case <-ctx.Done():
			return ended(ctx, last)
		case <-time.After(d.After):
		}
	}
}

// ended is the error of attempts that were ended from outside; why the last one
// had failed is what the reader of the log wants to know.
func ended(ctx context.Context, last error) error {
	if last == nil {
		return storage.ContextError(ctx)
	}
	return fmt.Errorf("%w; the last attempt had failed: %w", storage.ContextError(ctx), last)
}

// Retry is the decision what to do after a failed attempt.
type Retry struct {
	Again  bool
	After  time.Duration
	Reason string
}

// patience is how long attempts go on without a gain where the directory was
// empty: the method after this one in Patroni's list gets its turn then.
const patience = 10 * time.Minute

// RetryDecision decides whether another attempt is made after err. first are
// the facts that the first attempt found, since is the time of the start or of
// the last attempt that brought files. It is pure.
func RetryDecision(first Facts, err error, since, now time.Time) Retry {
	var refusal *RefusalError
	waited := now.Sub(since)
	r := Retry{Again: true, After: min(max(waited/4, time.Second), 30*time.Second)}
	// A directory that could not be looked at may hold old data.
	switch old := first.Dir.State != DirEmpty && (first.Dir.State != DirUnfinished || first.Dir.precious()); {
	case errors.As(err, &refusal) && refusal.Permanent:
		r = Retry{Reason: "nothing was touched, and no retry mends this"}
	case errors.Is(err, errTaken):
		r = Retry{Reason: "the directory is not this run's any more"}
	case errors.Is(err, ErrLocked):
		// Giving up would make Patroni remove what the other run writes.
		r.Reason = "the other run may still finish"
	case old:
		r.Reason = "giving up would remove the old data"
	case waited < patience:
		r.Reason = fmt.Sprintf("it may pass; given up %s after the last gain", patience)
	default:
		r = Retry{Reason: fmt.Sprintf("nothing was gained for %s, and another method may do", waited.Round(time.Second))}
	}
	return r
}
