package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

// PendingError means that a backup's copy is finished and kept, but that not
// all of its WAL is in the archive, so that it could not be committed.
type PendingError struct {
	Backup  repo.BackupID
	Missing string // file name of the first segment that is not archived; empty: all are, but the timeline is not settled
	Waited  time.Duration
	Why     string
}

func (e *PendingError) Error() string {
	if e.Missing == "" {
		return fmt.Sprintf("backup %s is copied but not committed: after %s it is not certain that the cluster follows its timeline: %s",
			e.Backup, e.Waited.Round(time.Second), e.Why)
	}
	return fmt.Sprintf("backup %s is copied but not committed: after %s its WAL segment %s is not in the archive: %s",
		e.Backup, e.Waited.Round(time.Second), e.Missing, e.Why)
}

// Hint says what to do about it.
func (e *PendingError) Hint() string {
	if e.Missing == "" {
		return "see that the primary can be reached and has archived its timeline's history; the next pgtender backup commits this one, nothing has to be copied again"
	}
	return "make archiving work (look at the primary's log for archive_command); the next pgtender backup commits this one, nothing has to be copied again"
}

// ErrDeadBranch means that the cluster went on from an earlier point than a
// backup's stop, so that it is of no use to the cluster as it is now.
var ErrDeadBranch = errors.New("the cluster left this timeline before the end of the backup")

const (
	pollFirst  = 200 * time.Millisecond
	pollMost   = 5 * time.Second
	sayWaiting = 10 * time.Second // between two records that tell what is waited for
)

// awaitWAL returns nil once all WAL from b's start to its stop is proved to be
// in the archive, on a history that the cluster still follows.
func (t *run) awaitWAL(ctx context.Context, b repo.Backup) error {
	t.phase(PhaseWAL)
	begin := time.Now()
	defer func() { t.result.WAL = time.Since(begin) }()
	said, pause := begin, pollFirst
	var lateSince time.Time // when the missing segment was first seen whole in pg_wal
	missing := pg.Segment{Timeline: b.Start.Timeline, Number: b.SegmentSize.SegmentOf(b.Start.LSN)}
	for {
		s, err := t.walState(ctx, &b)
		if err != nil {
			return err
		}
		if s.archErr != nil {
			s.missing = missing // not known anew
		} else if s.missing != missing {
			missing, lateSince = s.missing, time.Time{}
		}
		if s.whole() && lateSince.IsZero() {
			lateSince = time.Now()
		}
		s.late = s.whole() && time.Since(lateSince) >= t.ArchiveGrace
		step, why := s.next()
		switch step {
		case walProved:
			return nil
		case walDead:
			return fmt.Errorf("backup %s stopped at %s: %w", b.ID, b.Stop, ErrDeadBranch)
		case walSwitch:
			if err := t.switchWAL(ctx, &s); err != nil {
				why = err.Error()
			}
		case walStore:
			if err := t.storeWAL(ctx, &s); err != nil {
				why = err.Error()
			}
		}
		if waited := time.Since(begin); waited >= t.ArchiveTimeout {
			pending := &PendingError{Backup: b.ID, Waited: waited, Why: t.whyMissing(ctx, &s, why)}
			if !s.covered {
				pending.Missing = s.missing.Name(s.size)
			}
			return pending
		}
		if time.Since(said) >= sayWaiting {
			said = time.Now()
			t.Log.InfoContext(ctx, "waiting for WAL to be archived", "backup", b.ID.String(), "segment", s.missing.Name(s.size), "why", why)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		pause = min(pause*3/2, pollMost)
	}
}

// walState is one look at where a backup's WAL is.
type walState struct {
	size    pg.SegmentSize
	last    pg.SegmentNumber // the segment that holds the last byte before the stop
	covered bool             // all of it is proved to be in the archive
	missing pg.Segment       // the first that is not, if not covered
	archErr error            // why the archive could not be judged

	// The primary, if it could be asked.
	primary    pg.Pos // insert position
	primaryErr error
	// moved: the primary is on another timeline than the stop. Then led says
	// that its archived history leads through the backup, and dead that it is
	// archived and does not.
	moved, led, dead bool
	// left: the primary could not be asked, and the archived histories say that
	// the stop's timeline was left before it.
	left bool

	local pg.LSN // up to which the source's pg_wal is whole
	late  bool   // the missing segment has been whole there for longer than the archiver's grace
}

// whole reports whether the missing segment is whole in the source's pg_wal.
func (s *walState) whole() bool {
	return !s.covered && s.archErr == nil && s.local >= s.size.Start(s.missing.Number+1)
}

type walStep int

const (
	walWait walStep = iota
	walProved
	walDead
	walSwitch // the primary has to end its segment
	walStore  // from the source's own pg_wal
)

// next decides what to do about the WAL, and says why.
func (s *walState) next() (walStep, string) {
	switch {
	case s.moved && s.dead:
		return walDead, "the cluster left the backup's timeline before its stop"
	case s.archErr != nil:
		return walWait, s.archErr.Error()
	case s.covered && s.moved && !s.led:
		return walWait, fmt.Sprintf("the primary is on timeline %s, whose history is not in the archive yet", s.primary.Timeline)
	case s.covered && s.left:
		return walWait, fmt.Sprintf("the archive knows a timeline that left the backup's before its stop, and the primary cannot be asked whether it is on it: %v", s.primaryErr)
	case s.covered:
		return walProved, "all of it is archived"
	case s.late:
		return walStore, "the archiver has not stored it, though it is whole in the source's pg_wal"
	case s.primary.Timeline == s.missing.Timeline && s.size.SegmentOf(s.primary.LSN) == s.missing.Number && s.size.Offset(s.primary.LSN) > 0:
		return walSwitch, "the primary still writes to it"
	case s.primaryErr != nil && !s.whole():
		return walWait, fmt.Sprintf("it is not whole yet as far as is known, and the primary cannot be asked: %v", s.primaryErr)
	}
	return walWait, "the archiver has not stored it yet"
}

// walState looks at the archive, the primary and the source. Only what no
// further look can mend is an error.
func (t *run) walState(ctx context.Context, b *repo.Backup) (walState, error) {
	s := walState{size: b.SegmentSize, last: b.SegmentSize.SegmentBefore(b.Stop.LSN)}
	// The primary first: a history that it had then, and has archived, is seen.
	s.primary, s.primaryErr = t.askPrimary(ctx)
	c, err := covered(ctx, b, t.lines)
	switch {
	case ctx.Err() != nil:
		return s, context.Cause(ctx)
	case err != nil && !storage.Retryable(err):
		return s, err
	}
	s.archErr, s.missing = err, c.Missing
	s.covered = err == nil && c.Reaches(b.Stop.LSN)
	if s.moved = s.primary.Timeline != 0 && s.primary.Timeline != b.Stop.Timeline; s.moved {
		if s.led, s.dead, err = t.followed(ctx, b, s.primary.Timeline); err != nil {
			s.archErr = err
		}
	}
	if s.covered && s.primaryErr != nil {
		lines, err := t.lines.all(ctx)
		s.archErr, s.left = err, abandoned(b, lines)
	}
	s.local = t.localWAL(ctx)
	return s, storage.ContextError(ctx)
}

// localWAL gives the position up to which the source's pg_wal is whole, 0 if
// the source cannot be asked now. Backup mode has ended, so a new session
// serves as well as the old one.
func (t *run) localWAL(ctx context.Context) pg.LSN {
	pos, err := t.conn.Positions(ctx)
	switch {
	case err != nil:
		if conn, err := t.Source(ctx); err == nil {
			t.conn.Close()
			t.conn = conn
		}
		return 0
	case pos.InRecovery:
		return max(pos.Receive, pos.Replay)
	}
	return pos.Flush
}

// followed says what the archive knows of the primary's timeline: whether one
// of its histories leads through b, and whether there are some and none does.
func (t *run) followed(ctx context.Context, b *repo.Backup, primary pg.Timeline) (led, dead bool, err error) {
	all, err := t.lines.all(ctx)
	if err != nil {
		return false, false, err
	}
	known := 0
	for _, h := range all {
		if h.Timeline == primary {
			known++
			led = led || archive.LeadsThrough(h, b)
		}
	}
	return led, known > 0 && !led, nil
}

// onPrimary runs f on the primary. A source that is the primary is asked itself.
func (t *run) onPrimary(ctx context.Context, f func(*server.Conn) error) error {
	if t.Primary == nil {
		return f(t.conn)
	}
	conn, err := t.Primary(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(conn)
}

func (t *run) askPrimary(ctx context.Context) (at pg.Pos, err error) {
	err = t.onPrimary(ctx, func(conn *server.Conn) error {
		info, err := conn.Info(ctx)
		if err != nil {
			return err
		}
		pos, err := conn.Positions(ctx)
		if err != nil {
			return err
		}
		if info.InRecovery || pos.InRecovery || info.SystemID != t.facts.Server.SystemID {
			return errors.New("it is not the primary of this cluster")
		}
		at = pg.Pos{Timeline: info.Timeline, LSN: pos.Insert}
		return nil
	})
	return at, err
}

func (t *run) switchWAL(ctx context.Context, s *walState) error {
	return t.onPrimary(ctx, func(conn *server.Conn) error {
		at, err := conn.SwitchWAL(ctx)
		if err == nil {
			t.Log.InfoContext(ctx, "ended the primary's WAL segment, which the backup needs", "segment", s.missing.Name(s.size), "lsn", at.String())
		}
		return err
	})
}

// storeWAL archives the missing segment, and those after it that are whole,
// from the source's own pg_wal.
func (t *run) storeWAL(ctx context.Context, s *walState) error {
	for g := s.missing; g.Number <= s.last && s.local >= s.size.Start(g.Number+1); g.Number++ {
		o := t.Archive
		o.WALDir = filepath.Join(t.DataDir, "pg_wal")
		o.Path = filepath.Join(o.WALDir, g.Name(s.size))
		if o.Log == nil {
			o.Log = t.Log
		}
		_, err := archive.Push(ctx, t.Repo, o)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%s is not in the source's pg_wal either: %w", g.Name(s.size), err)
		case err != nil:
			return err
		}
		t.Log.InfoContext(ctx, "stored a WAL segment from the source's pg_wal, since the archiver is late", "segment", g.Name(s.size))
	}
	return nil
}

// whyMissing adds what the primary's archiver says.
func (t *run) whyMissing(ctx context.Context, s *walState, why string) string {
	err := t.onPrimary(ctx, func(conn *server.Conn) error {
		info, err := conn.Info(ctx)
		if err != nil {
			return err
		}
		stats, err := conn.ArchiverStats(ctx)
		switch {
		case err != nil:
			return err
		case info.ArchiveMode == "off":
			why += "; archive_mode is off on the primary"
		case info.ArchiveCommand == "" && info.ArchiveLibrary == "":
			why += "; the primary has no archive_command"
		case stats.LastFailedAt.After(stats.LastArchivedAt):
			why += fmt.Sprintf("; archive_command fails on the primary, last for %s at %s", stats.LastFailed, stats.LastFailedAt.Format(time.RFC3339))
		case stats.LastArchived != "":
			why += fmt.Sprintf("; the primary's archiver last reported success for %s at %s, which is not proof that it went to this repository", stats.LastArchived, stats.LastArchivedAt.Format(time.RFC3339))
		}
		return nil
	})
	if err != nil && s.primaryErr == nil {
		why += fmt.Sprintf("; the primary cannot be asked why: %v", err)
	}
	return why
}
