package catchup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// LocalFacts say how far the data of a stopped data directory goes, and on
// which history.
type LocalFacts struct {
	StateAs  string      `json:"state"` // as pg_controldata prints it
	Timeline pg.Timeline `json:"timeline"`
	History  pg.History  `json:"-"` // of Timeline
	// Redo is where recovery of the directory as it is would start: all changes
	// from before it are in the data files.
	Redo pg.LSN `json:"redo"`
	// End is the furthest that a page of it can be: the minimum recovery point
	// of a standby, the end of valid WAL of a primary.
	End pg.LSN `json:"end"`
	// Standby says that pg_control is a standby's.
	Standby bool `json:"standby"`
	// HintsLogged says that no page changes without WAL: page checksums are on,
	// or wal_log_hints is.
	HintsLogged bool `json:"hints_logged"`

	// Fork is where the directory's history leaves the leader's, pg.MaxLSN if it
	// does not. The directory is diverged if it has gone past it.
	Fork     pg.LSN `json:"-"`
	Diverged bool   `json:"diverged"`
	// HintRedo is a redo point from before the fork that was in force at the fork
	// wherever changes were made past it: hint bits that were set past the fork on
	// pages last changed before HintRedo are in WAL. Of a diverged directory; 0:
	// HintsUnknown says why there is none.
	HintRedo     pg.LSN `json:"hint_redo,omitzero"`
	HintsUnknown string `json:"-"`
	// Lost is what only the branch that is given up has.
	Lost *Lost `json:"lost,omitempty"`

	// Unknown says why the rest is not known, or does not say how far the pages
	// go. Then they can only be compared one by one.
	Unknown string `json:"unknown,omitempty"`

	control pg.Control
	own     *ownWAL // of a directory that is diverged, or whose end WAL tells
}

// Lost is what a directory has written after its history had left the leader's.
type Lost struct {
	Timeline pg.Timeline `json:"timeline"`
	From     pg.LSN      `json:"from"` // the fork
	To       pg.LSN      `json:"to"`
	Commits  int         `json:"commits"`
	First    time.Time   `json:"first,omitzero"` // of the commits
	Last     time.Time   `json:"last,omitzero"`
	// Uncounted says why Commits is not all, "" if it is.
	Uncounted string `json:"uncounted,omitempty"`
}

func (l *Lost) String() string {
	if l.Uncounted != "" {
		return fmt.Sprintf("WAL of timeline %s from %s to %s (%s)", l.Timeline, l.From, l.To, l.Uncounted)
	}
	return fmt.Sprintf("%d commits in WAL of timeline %s from %s to %s", l.Commits, l.Timeline, l.From, l.To)
}

// examine looks at the stopped data directory of a member of the cluster.
func examine(ctx context.Context, r *repo.Repo, dir string, leader *LeaderFacts) (*LocalFacts, error) {
	l := &LocalFacts{Fork: pg.MaxLSN}
	_, err := os.Lstat(filepath.Join(dir, "backup_label"))
	labelled := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look at data directory: %w", err)
	}
	if _, l.control, err = pg.ReadControl(ctx, dir); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		l.Unknown = fmt.Sprintf("pg_control cannot be read: %v", err)
		return l, nil
	}
	l.fill()
	switch {
	case labelled:
		l.Unknown = "it has a backup_label: a copy in which no server has run yet"
	case l.control.BackupStart != 0 || l.control.BackupEndRequired || l.control.BackupEnd != 0:
		l.Unknown = "it is a restored copy that has not become consistent: how far its pages go is not known"
	}
	if l.Unknown != "" {
		return l, nil
	}
	if err := l.lineage(ctx, r, dir); err != nil || l.Unknown != "" {
		return l, err
	}
	l.Fork = l.History.Common(leader.History).LSN
	if err := l.extent(ctx, r, dir); err != nil || l.Unknown != "" {
		return l, err
	}
	return l, l.confirm(ctx, r, dir, leader)
}

// fill takes what pg_control says.
func (l *LocalFacts) fill() {
	c := &l.control
	l.StateAs = c.State.String()
	// After a promotion the new timeline is noted with the minimum recovery point
	// before a checkpoint has it (CreateEndOfRecoveryRecord, xlog.c).
	l.Timeline = max(c.CheckpointCopy.Timeline, c.MinRecoveryTLI)
	l.Redo = c.CheckpointCopy.Redo
	l.Standby = c.State == pg.StateShutDownInRecovery || c.State == pg.StateArchiveRecovery
	l.HintsLogged = c.Checksums() || c.WALLogHints
}

// followed reports whether the directory is that of a standby on the leader's
// history; not if nothing is known about it.
func (l *LocalFacts) followed() bool {
	return l != nil && l.Unknown == "" && !l.Diverged && l.Standby
}

// lineage finds the history of the directory's timeline: a server keeps it in
// pg_wal.
func (l *LocalFacts) lineage(ctx context.Context, r *repo.Repo, dir string) error {
	if l.Timeline == 1 {
		l.History = pg.FirstTimeline()
		return nil
	}
	content, err := os.ReadFile(filepath.Join(dir, "pg_wal", pg.HistoryName(l.Timeline)))
	if err == nil {
		if l.History, err = pg.ParseHistory(l.Timeline, content); err != nil {
			l.Unknown = fmt.Sprintf("the history of its timeline %s cannot be read: %v", l.Timeline, err)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read history of timeline %s: %w", l.Timeline, err)
	}
	all, err := r.Histories(ctx)
	if err != nil {
		return fmt.Errorf("list archived timeline histories: %w", err)
	}
	var found []repo.Incarnation
	for _, i := range all {
		if i.Timeline == l.Timeline {
			found = append(found, i)
		}
	}
	if len(found) != 1 {
		// Two timelines of one number are two histories.
		l.Unknown = fmt.Sprintf("the history of its timeline %s is not in pg_wal, and %d are archived", l.Timeline, len(found))
		return nil
	}
	l.History, _, err = r.History(ctx, found[0])
	if err != nil {
		return fmt.Errorf("read archived history of timeline %s: %w", l.Timeline, err)
	}
	return nil
}

// extent finds how far the pages can be, and what is past the fork.
func (l *LocalFacts) extent(ctx context.Context, r *repo.Repo, dir string) error {
	w := l.reader(r, dir)
	if l.Standby {
		// No page is written before the minimum recovery point is past it
		// (UpdateMinRecoveryPoint, xlog.c).
		l.End = max(l.control.MinRecovery, l.Redo)
		if l.Diverged = l.End > l.Fork; !l.Diverged {
			return nil
		}
	}
	from := l.Redo
	if l.Fork < from && uint64(from-l.Fork) <= countAtMost {
		from = l.Fork // to count what is lost
	}
	own, err := w.read(ctx, from, l.Standby, l.End)
	if err != nil {
		return err
	}
	if l.Standby {
		own.end = l.End
	} else if own.why == "" {
		if own.why, err = w.goesOn(ctx, own.end); err != nil {
			return err
		}
	}
	l.own, l.End = own, own.end
	if why := l.short(own); why != "" {
		l.Unknown = why
		return nil
	}
	if l.Diverged = l.End > l.Fork; !l.Diverged {
		return nil
	}
	l.Lost = own.lost(l)
	return l.hintRedo(ctx, w, dir)
}

// countAtMost is how many bytes of WAL from before the last checkpoint are read
// only to count what is lost.
const countAtMost = 4 << 30

// short says why the WAL that was read cannot be all that the pages rest on.
func (l *LocalFacts) short(own *ownWAL) string {
	c := &l.control
	switch {
	case own.why != "":
		return own.why
	case own.end <= c.Checkpoint:
		return fmt.Sprintf("its WAL ends at %s, before its last checkpoint at %s", own.end, c.Checkpoint)
	case own.end < c.MinRecovery:
		return fmt.Sprintf("its WAL ends at %s, before the minimum recovery point %s", own.end, c.MinRecovery)
	}
	return ""
}
