package archive

import (
	"path/filepath"

	"github.com/pgtender/pgtender/internal/pg"
)

// Follower is the server that WAL is fetched for, as far as it decides which
// histories that server can follow: those that hold what it has already.
type Follower struct {
	// History is that of the newest timeline the server has been on; zero if it
	// is not known.
	History pg.History
	// Checkpoint is its latest checkpoint's record, and Recovered how far it
	// must have replayed; zero if that is unset.
	Checkpoint, Recovered pg.Pos
	// WALDir is its pg_wal. A history file in it tells which timeline of a number
	// is meant: restore puts those there that recovery is to follow.
	WALDir string
}

// NewFollower describes the server of a pg_control, whose history files lie in
// walDir.
func NewFollower(walDir string, c *pg.Control) *Follower {
	f := &Follower{
		WALDir:     walDir,
		Checkpoint: pg.Pos{LSN: c.Checkpoint, Timeline: c.CheckpointCopy.Timeline},
		Recovered:  pg.Pos{LSN: c.MinRecovery, Timeline: c.MinRecoveryTLI},
	}
	newest := max(f.Checkpoint.Timeline, f.Recovered.Timeline)
	if newest == 1 {
		f.History = pg.FirstTimeline()
		return f
	}
	f.History, _ = f.local(newest)
	return f
}

// local reads the history of a timeline in pg_wal, if there is one that can be
// read.
func (f *Follower) local(t pg.Timeline) (pg.History, bool) {
	if f == nil || f.WALDir == "" {
		return pg.History{}, false
	}
	content, err := small(filepath.Join(f.WALDir, pg.HistoryName(t)))
	if err != nil {
		return pg.History{}, false
	}
	h, err := pg.ParseHistory(t, content)
	return h, err == nil
}

// follows reports whether the server can follow h. It is PostgreSQL's own
// condition, which stops a server that is given another history at its start
// ("requested timeline is not a child of this server's history",
// InitWalRecovery in xlogrecovery.c). Of a server that is not known it is true.
func (f *Follower) follows(h pg.History) bool {
	if f == nil {
		return true
	}
	if t := f.History.Timeline; t != 0 {
		if own, ok := Ancestor(h, t); !ok || !own.Equal(f.History) {
			return false
		}
	}
	// A checkpoint at the very point of a switch is the new timeline's.
	if end, left := h.End(f.Checkpoint.Timeline); left && f.Checkpoint.LSN >= end {
		return false
	}
	return h.Contains(f.Checkpoint) && (f.Recovered.LSN == 0 || h.Contains(f.Recovered))
}
