package catchup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/durable"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// ReplayFacts say whether WAL alone makes old data follow the leader.
type ReplayFacts struct {
	Closed  string `json:"closed,omitempty"`  // why not
	MayPass bool   `json:"may_pass,omitzero"` // WAL that is archived later may open it
	Bytes   int64  `json:"bytes,omitzero"`    // of archived WAL, as stored, at most
}

// replay finds out whether WAL leads from the directory to what the leader has.
func (f *Facts) replay(ctx context.Context, r *repo.Repo) (*ReplayFacts, error) {
	l, leader := f.Local, f.Leader
	if l.Unknown == "" && !l.Diverged && l.Timeline == leader.History.Timeline && l.End > leader.Flush {
		l.Unknown = fmt.Sprintf("it goes on to %s on the leader's timeline, and the leader only to %s", l.End, leader.Flush)
	}
	switch {
	case l.Unknown != "":
		return &ReplayFacts{Closed: l.Unknown}, nil
	case l.Diverged:
		return &ReplayFacts{Closed: fmt.Sprintf("it went on to %s on timeline %s, which the leader's history left at %s", l.End, l.Timeline, l.Fork)}, nil
	}
	if err := f.missing(f.Dir.Missing); err != nil {
		// Recovery makes what it does not find, and goes on.
		return &ReplayFacts{Closed: err.Error(), MayPass: true}, nil
	}
	if l.inVain(f.Dir.Path) && f.Rung != ByReplay {
		return &ReplayFacts{Closed: fmt.Sprintf("WAL alone was tried before, and the data still goes to %s only", l.End)}, nil
	}
	size := l.control.SegmentSize
	cover, err := archive.Coverage(ctx, r, leader.History, size, l.Redo)
	if err != nil {
		return nil, fmt.Errorf("see what the archive holds from %s on: %w", l.Redo, err)
	}
	out := &ReplayFacts{Bytes: cover.Bytes}
	own := &ownSegments{dir: filepath.Join(f.Dir.Path, "pg_wal"), history: leader.History, size: size, begun: map[pg.SegmentNumber]bool{}}
	at, need, asked := size.Start(size.SegmentOf(l.Redo)), leader.need(size), cover.Until
	for at < need {
		if cover.Until > at {
			at = cover.Until
			continue
		}
		here, err := own.holds(size.SegmentOf(at))
		switch {
		case err != nil:
			return nil, err
		case here:
			at += pg.LSN(size)
		case at == asked:
			missing := pg.Segment{Timeline: archive.SegmentTimeline(leader.History, size, size.SegmentOf(at)), Number: size.SegmentOf(at)}
			out.MayPass = true
			out.Closed = fmt.Sprintf("%s is neither in pg_wal nor archived, and the leader has WAL from %s on", missing.Name(size), need)
			return out, nil
		default:
			if cover, err = archive.Coverage(ctx, r, leader.History, size, at); err != nil {
				return nil, fmt.Errorf("see what the archive holds from %s on: %w", at, err)
			}
			asked = at
			out.Bytes += cover.Bytes
		}
	}
	return out, nil
}

// ownSegments are those of a history in a pg_wal.
type ownSegments struct {
	dir     string
	history pg.History
	size    pg.SegmentSize
	begun   map[pg.SegmentNumber]bool // those that were looked at
}

// holds reports whether pg_wal has the segment as recovery would read it, and all
// of it: the one in which the directory's own WAL ends leads nowhere.
func (s *ownSegments) holds(n pg.SegmentNumber) (bool, error) {
	own, err := s.begins(n)
	if err != nil || !own {
		return false, err
	}
	// The next one is written to when this one is full or was switched from.
	next, err := s.begins(n + 1)
	if err != nil || next {
		return next, err
	}
	in, err := os.Open(s.file(n))
	if err != nil {
		return false, fmt.Errorf("look at pg_wal: %w", err)
	}
	defer in.Close() // opened for reading
	found, err := wal.InspectFile(in, int64(s.size), wal.Expect{})
	switch {
	case unreadable(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read %s: %w", in.Name(), err)
	}
	return found.Info.Complete(), nil
}

// begins reports whether pg_wal has a segment, and not one that was recycled.
func (s *ownSegments) begins(n pg.SegmentNumber) (bool, error) {
	if own, known := s.begun[n]; known {
		return own, nil
	}
	own, err := holdsOwnWAL(s.file(n))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look at pg_wal: %w", err)
	}
	s.begun[n] = own
	return own, nil
}

func (s *ownSegments) file(n pg.SegmentNumber) string {
	return filepath.Join(s.dir, pg.Segment{Timeline: archive.SegmentTimeline(s.history, s.size, n), Number: n}.Name(s.size))
}

// follow makes a standby of old data that WAL alone brings up to the leader. Not
// a byte of the data is changed.
func (r *runner) follow(ctx context.Context) error {
	dir := r.at("pg_wal")
	if err := r.histories(ctx, dir); err != nil {
		return err
	}
	if err := r.leaveBranches(ctx, dir); err != nil {
		return err
	}
	for _, name := range []string{"recovery.signal", "promote"} {
		if err := r.files.Remove(r.at(name)); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	if err := r.settings(); err != nil {
		return err
	}
	return tried{r.plan.Local.Redo, r.plan.Local.End}.write(r.dir())
}

// tried says how far data went when it was left to WAL. Whoever calls again while
// it goes no further was not helped: replay stops at a damaged page, perhaps.
type tried struct {
	Redo pg.LSN `json:"redo"`
	End  pg.LSN `json:"end"`
}

func (t tried) write(dir string) error {
	b, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode what was tried: %w", err)
	}
	return durable.FS{}.WriteFile(workPath(dir, replayedName), append(b, '\n'), 0o600)
}

// inVain reports whether WAL alone was tried from the same point before.
func (l *LocalFacts) inVain(dir string) bool {
	b, err := os.ReadFile(workPath(dir, replayedName))
	return err == nil && parseTried(b) == tried{l.Redo, l.End}
}

// parseTried gives the zero value for what nobody wrote.
func parseTried(b []byte) (t tried) {
	if json.Unmarshal(b, &t) != nil {
		return tried{}
	}
	return t
}

// leaveBranches takes WAL out of pg_wal that recovery must not read: a standby
// may have received some of a timeline past the point where the leader's history
// left it, and would replay it before it looks for the next timeline.
func (r *runner) leaveBranches(ctx context.Context, dir string) error {
	l := r.plan.Local
	if !l.Standby {
		return nil // its WAL ends before the fork
	}
	size, h := l.control.SegmentSize, r.plan.Lineage.History
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look at pg_wal: %w", err)
	}
	for _, e := range entries {
		seg, err := pg.ParseSegment(e.Name(), size)
		if err != nil || archive.Serves(h, size, seg) || seg.Number < size.SegmentOf(l.Redo) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if own, err := holdsOwnWAL(path); err != nil {
			return fmt.Errorf("look at pg_wal: %w", err)
		} else if own {
			if err := r.save(ctx, path, false); err != nil {
				return err
			}
		}
		if err := r.files.Remove(path); err != nil {
			return fmt.Errorf("remove WAL of a branch that was left: %w", err)
		}
	}
	return nil
}
