package catchup

import (
	"context"
	"fmt"

	"github.com/pgtender/pgtender/internal/pg"
)

// lowerBound gives the position from which on all changes count, on either
// branch, when the directory is made one with a backup that starts at start. It
// is a redo point on the history that both share:
//
//   - All changes before the directory's own redo point are in its files. Not so
//     those before its minimum recovery point or before the end of its replay: a
//     standby that is shut down may skip its last restartpoint.
//   - Past the fork, hint bits of transactions that the other branch does not know
//     may have been set. That is in WAL only for pages that were last changed
//     before the redo point in force (XLogSaveBufferForHint, xloginsert.c), so all
//     pages changed since count: not from the fork on, but from HintRedo on.
//   - Where the backup starts before the fork, all that its branch changed is
//     replayed from there.
//
// why says that there is no such position, or no use in one.
func (l *LocalFacts) lowerBound(start pg.LSN) (lower pg.LSN, why string) {
	switch {
	case l.Unknown != "":
		return 0, l.Unknown
	case !l.Diverged && start < l.Redo:
		return 0, fmt.Sprintf("the directory is ahead of the backup already: at %s, and the backup starts at %s", l.Redo, start)
	case !l.Diverged:
		return l.Redo, ""
	case l.Fork == 0:
		return 0, "the directory shares no history with the leader"
	case !l.HintsLogged:
		return 0, "its history has left the leader's, and neither page checksums nor wal_log_hints are on: hint bits of lost transactions are in no WAL"
	case l.HintRedo == 0:
		return 0, l.HintsUnknown
	}
	lower = min(l.Redo, l.HintRedo)
	if start <= l.Fork {
		lower = min(lower, start)
	}
	return lower, ""
}

// hintRedo finds the redo point that was in force at the fork for every server
// that wrote past it.
//
// A promoted server goes on with the redo point of its last restartpoint until
// its own first checkpoint, and no record says which that is. So of each timeline
// that was written past the fork there must be a checkpoint before the fork, or
// the directory itself must be the server that was promoted and has made none.
func (l *LocalFacts) hintRedo(ctx context.Context, w *walReader, dir string) error {
	l.HintRedo = l.Redo
	if !l.control.WALLogHints || l.own.parameters || l.own.from > l.Fork {
		// All rests on page checksums.
		why := "wal_log_hints may not have been on all the time"
		if l.control.DataChecksumVersion != 0 {
			var err error
			if why, err = l.rewritten(dir); err != nil {
				return err
			}
		}
		if why != "" {
			l.HintRedo, l.HintsUnknown = 0, why
			return nil
		}
	}
	if l.passedAsStandby() {
		redo, why, err := w.decidedBefore(ctx, l.Fork)
		if err != nil {
			return err
		}
		if why != "" {
			l.HintRedo, l.HintsUnknown = 0, "which transactions were in progress at the fork is not known: "+why
			return nil
		}
		l.HintRedo = min(l.HintRedo, redo)
	}
	for _, t := range l.pastFork() {
		begin, _ := l.History.Begin(t)
		checkpointed := l.control.CheckpointCopy.Timeline == t
		switch {
		case checkpointed && l.Redo <= l.Fork:
			// What is in force is never older than a completed checkpoint's.
		case t == l.Timeline && !checkpointed && !l.Standby:
			// It was promoted here and has made no checkpoint: Redo is in force.
		case begin > l.Fork:
			l.HintRedo, l.HintsUnknown = 0, fmt.Sprintf("timeline %s began past the fork, on another server or before its last checkpoint: which hint bits are in WAL is not known", t)
			return nil
		default:
			redo, why, err := w.checkpointBefore(ctx, t, l.Fork)
			if err != nil {
				return err
			}
			if why != "" {
				l.HintRedo, l.HintsUnknown = 0, "which hint bits are in WAL is not known: "+why
				return nil
			}
			l.HintRedo = min(l.HintRedo, redo)
		}
	}
	return nil
}

// passedAsStandby reports whether the server may have been a standby when it came
// to the fork.
//
// A standby logs no hint bits, and does not mark a page as changed for one; but
// they go to disk with a page that replay has changed and no restartpoint has
// written yet (MarkBufferDirtyHint, bufmgr.c). That page may have been changed last
// before the redo point of a checkpoint whose record lies before the fork, and
// written long after it, with a hint about a transaction that was in progress at
// the fork and ended otherwise on the branch that survived. A primary's
// checkpoint has written all such pages before its record is. One that was
// promoted may have a restartpoint under way.
func (l *LocalFacts) passedAsStandby() bool {
	return l.Standby || l.control.CheckpointCopy.Timeline != l.Timeline
}

// pastFork gives the timelines of the directory's history on which WAL was
// written past the fork.
func (l *LocalFacts) pastFork() []pg.Timeline {
	var out []pg.Timeline
	for _, f := range l.History.Forks {
		if end, left := l.History.End(f.Parent); left && end > l.Fork {
			out = append(out, f.Parent)
		}
	}
	return append(out, l.Timeline)
}
