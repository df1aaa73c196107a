package archive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// Proof is what is known about the pusher's right to decide a conflict.
type Proof int

// The proofs. Only Leader lets a segment count beside a different one of the
// same name.
const (
	Unknown   Proof = iota // the DCS could not be asked, or its answer is not clear
	NotLeader              // somebody else leads, or nobody
	Leader                 // this member leads, by a fresh look at the right owner's DCS
)

func (p Proof) String() string {
	switch p {
	case Leader:
		return "the leader"
	case NotLeader:
		return "not the leader"
	}
	return "not known to be the leader"
}

// PushOptions say what to push. Path is required; the rest may be zero.
type PushOptions struct {
	// Path is the file as archive_command's %p gives it: relative to the
	// working directory, or absolute as Patroni has it.
	Path string
	// WALDir is where timeline histories and neighbours of the file lie; ""
	// means the file's own directory.
	WALDir string
	// SystemID is the cluster's, by pg_control or Patroni; zero: not known
	// beyond what the repository's part is named after.
	SystemID pg.SystemID
	// Member is this member's name, for alarms.
	Member string

	// CheckOwner refuses by its error to write to a part of the repository
	// that is another cluster's, see the function [CheckOwner]. nil: no check.
	CheckOwner func(context.Context) error
	// Leadership says by a fresh look whether this member leads. It is called
	// only when a segment conflicts with the archived one. An error counts as
	// Unknown; nil: always Unknown.
	Leadership func(context.Context) (Proof, error)
	// Confirm makes sure that the leader's own server has the first length bytes
	// of the file at path, under that name: a copy of the leader, made of its
	// machine or its disk, has the leader's name and its configuration, too. It is
	// asked after Leadership has said Leader. An error counts as Unknown; nil: not
	// asked.
	Confirm func(ctx context.Context, path string, length int64) error

	// Expected says that the segment is likely to be archived, so that asking
	// first is worth a request. A wrong guess costs that request, or an upload.
	Expected bool
	// Grace is how long after it was written a standby's whole segment is left
	// to the server that it streams from; meanwhile it is asked for again and
	// again, see [DecideOffer]. 0: it is asked for once. A history file, and what
	// is backfilled for one, is never waited for.
	Grace time.Duration
	// Assist says that the file is not this server's to offer, or not yet: it
	// is stored if there is nothing under its name, and whatever else is found
	// is an error that raises no alarm and leaves nothing in quarantine.
	Assist bool
	// AcceptDamaged stores a segment in spite of damage inside it. It is for
	// an operator who has looked: recovery will most likely end there, and no
	// incremental backup or catchup leans on it.
	AcceptDamaged bool
	// Pacer decides how hard the segment is compressed, and learns what it took;
	// nil: as the repository is set.
	Pacer *Pacer
	// Recent remembers what was archived, for the index of a group; nil: it is read
	// back from the repository.
	Recent *Recent
	// BackfillBudget bounds the time that the push of a history file may spend
	// on WAL of the timelines before, see [Backfill]; 0 means two minutes. If it
	// does not suffice the push is an error, and its repetition goes on.
	BackfillBudget time.Duration

	Log *slog.Logger // nil discards
}

func (o *PushOptions) walDir() string {
	if o.WALDir != "" {
		return o.WALDir
	}
	return filepath.Dir(o.Path)
}

// Outcome is what became of a pushed file. All outcomes are successes: the
// archive holds the content, or there is none.
type Outcome string

// The outcomes.
const (
	Stored          Outcome = "stored"
	AlreadyArchived Outcome = "already archived"
	StoredBeside    Outcome = "stored beside a different one" // as a proved leader's
	// Quarantined is a file that recovery does not read, of which the archive
	// holds a different one.
	Quarantined Outcome = "kept in quarantine"
	// Unwritten is a segment that was made ready for WAL which never came,
	// since its timeline was left before: there is nothing to archive.
	Unwritten Outcome = "never written"
)

// PushResult tells where a pushed file is now.
type PushResult struct {
	// Name is the file's name in the archive. It is the file's own, except that
	// a timeline's unfinished last segment is archived as .partial whatever it
	// was called.
	Name        string
	Incarnation repo.Incarnation
	Key         string
	Outcome     Outcome
	Backfill    *BackfillResult // of a history file
}

// ConflictError means that a file conflicts with the archived one and that the
// pusher was not proved to be the leader. The content is kept in quarantine,
// but nothing is ever served from there.
type ConflictError struct {
	Name       string
	Existing   string // key of the archived one
	Quarantine string // key of this one
	Proof      Proof
	Cause      error // why the proof is Unknown, if that is known
}

func (e *ConflictError) Error() string {
	s := fmt.Sprintf("%s differs from the archived one (%s), and this member is %s", e.Name, e.Existing, e.Proof)
	if e.Cause != nil {
		s += fmt.Sprintf(" (%v)", e.Cause)
	}
	return s + "; it is kept in quarantine as " + e.Quarantine
}

// Hint says what to do about it.
func (e *ConflictError) Hint() string {
	if hint := finding.Hint(e.Cause); hint != "" {
		return hint
	}
	return "two servers wrote different WAL under one name: find out which one the cluster's history follows (pgtender topology, pgtender info); the leader's is taken as soon as it is proved to lead"
}

// Unwrap makes it a [repo.ErrConflict]; Cause is told in the text only.
func (e *ConflictError) Unwrap() error { return repo.ErrConflict }

// ErrNotArchivable means that a file is none that PostgreSQL archives.
var ErrNotArchivable = errors.New("it is no WAL segment, timeline history or backup history file")

// Push puts one file of pg_wal into the archive. It returns nil once the
// content is in the repository, durably and under its own name or, from a
// proved leader, beside a different one; a .partial or backup history file that
// differs goes to quarantine, with an alarm; of a segment that was never written
// there is nothing to store (see [Unwritten]). Any error means that PostgreSQL must
// keep the file and try again; repeating is always safe. Several may push the
// same file at once.
//
// A segment is read whole and checked before it is stored: its pages must be of
// this cluster and lie where the name says, every record in it must be intact,
// and WAL must go on past it, or its timeline must be known to end in it. See
// [DamagedError] and [IncompleteError] for what is refused.
func Push(ctx context.Context, r *repo.Repo, opts PushOptions) (PushResult, error) {
	return pushAlong(ctx, r, pg.History{}, opts)
}

// pushAlong is Push of a file whose timeline h is known to pass through.
func pushAlong(ctx context.Context, r *repo.Repo, h pg.History, opts PushOptions) (PushResult, error) {
	p := &pusher{repo: r, opts: opts, along: h, log: opts.Log, name: filepath.Base(opts.Path)}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if have := r.Cluster().SystemID; opts.SystemID != 0 && opts.SystemID != have {
		return PushResult{}, finding.WithHint(
			fmt.Errorf("archive %s: this cluster's system identifier is %s, the repository's part is of %s", p.name, opts.SystemID, have),
			"scope and repository of the configuration belong to another cluster")
	}
	result, err := p.push(ctx)
	if err == nil && result.Outcome == AlreadyArchived {
		err = r.Persist(ctx, result.Key) // PostgreSQL gives its own copy away now
	}
	if err != nil {
		return result, fmt.Errorf("archive %s: %w", p.name, err)
	}
	p.log.InfoContext(ctx, "archived", "file", result.Name, "outcome", string(result.Outcome), "timeline", result.Incarnation.String())
	return result, nil
}

type pusher struct {
	repo  *repo.Repo
	opts  PushOptions
	along pg.History // that passes through the file's timeline; zero: not known
	log   *slog.Logger
	name  string
}

// incarnation gives the history of the file's timeline.
func (p *pusher) incarnation(ctx context.Context, t pg.Timeline) (pg.History, error) {
	if own, ok := Ancestor(p.along, t); ok {
		return own, nil
	}
	return HistoryHere(ctx, p.repo, p.opts.walDir(), t)
}

func (p *pusher) push(ctx context.Context) (PushResult, error) {
	name, err := repo.ParseWALName(p.name)
	switch {
	case err != nil:
		return PushResult{}, finding.WithHint(ErrNotArchivable, "archive_command must pass %%p, as in: pgtender archive-push %%p")
	case name.History != 0:
		return p.history(ctx, name.History)
	case name.Backup:
		return p.backupHistory(ctx, name)
	}
	return p.segment(ctx, name)
}

// Owned runs CheckOwner, if there is one.
func (o *PushOptions) Owned(ctx context.Context) error {
	if o.CheckOwner == nil {
		return nil
	}
	return o.CheckOwner(ctx)
}

// refused raises the alarm for damage, of the file or of the archived object in
// its place, which no retry mends.
func (p *pusher) refused(ctx context.Context, err error) error {
	if p.opts.Assist {
		return err
	}
	var damaged *DamagedError
	switch {
	case errors.As(err, &damaged):
	case errors.Is(err, repo.ErrCorrupt):
		err = finding.WithHint(err, "remove the damaged object from the repository; the archiver then stores this file in its place")
	default:
		return err
	}
	alarm := Alarm{Kind: AlarmDamage, Subject: p.name, Member: p.opts.Member, Text: err.Error()}
	if alarmErr := Raise(ctx, p.repo, alarm); alarmErr != nil {
		p.log.WarnContext(ctx, "alarm could not be stored", "file", p.name, "error", alarmErr)
	}
	return err
}
