package archive

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// DamagedError means that a segment is not what PostgreSQL wrote, and recovery
// would end inside it. It is refused: an archive that took it would say "ok" to
// a loss, while the servers still have what the WAL did to their data, and
// standbys perhaps a sound copy.
type DamagedError struct {
	Path string
	Err  error // a *wal.CorruptError, which names the position
}

func (e *DamagedError) Error() string { return fmt.Sprintf("%s is damaged: %v", e.Path, e.Err) }

// Unwrap gives Err.
func (e *DamagedError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *DamagedError) Hint() string {
	return "compare with the same file in a standby's pg_wal and put that one in its place; if no good one exists, archive-push --accept-damaged stores it as it is, and a new full backup must follow"
}

// IncompleteError means that WAL ends inside a segment although nothing is known
// of its timeline having been left there. A standby that archives meets this
// for a moment when its upstream is promoted, until it has the new timeline's
// history.
type IncompleteError struct {
	Path string
	End  pg.LSN // where WAL ends
	Why  string // what stands there
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("WAL ends at %s inside %s (%s), and no history file says that the timeline was left there", e.End, e.Path, e.Why)
}

// judged is a segment that may be archived, with what is stored about it.
type judged struct {
	header          repo.WALHeader
	blockMap, carry []byte
}

// judge checks a segment, as the encoder reads it, and decides as what it is archived.
func (p *pusher) judge(ctx context.Context, f *segmentFile, content *repo.WALIntake, name repo.WALName, own pg.History) (*judged, error) {
	seg, err := pg.ParseSegment(name.Segment, f.size)
	if err != nil {
		return nil, fmt.Errorf("%w: the file says that segments have %d bytes", err, f.size)
	}
	expect := wal.Expect{SystemID: p.repo.Cluster().SystemID, SegmentSize: f.size, Segment: seg, Unfinished: true}
	in, err := wal.InspectPieces(content, f.length, expect)
	switch {
	case err != nil && !name.Partial && p.unwritten(f, own, seg):
		return nil, errUnwritten
	case errors.Is(err, wal.ErrForeign):
		return nil, finding.WithHint(err, "the file is not what its name and this configuration say; check scope and repository, and that nothing else writes into pg_wal")
	case errors.Is(err, wal.ErrCorrupt) && name.Partial:
		// Recovery never reads a .partial file; it is kept for people, who
		// get what there is.
		return unchecked(f, seg, own, repo.WALPartial|repo.WALUnchecked, p.repo), nil
	case errors.Is(err, wal.ErrCorrupt) && p.opts.AcceptDamaged:
		return unchecked(f, seg, own, repo.WALChainBreak|repo.WALNoRecordStart, p.repo), nil
	case errors.Is(err, wal.ErrCorrupt):
		return nil, &DamagedError{p.opts.Path, err}
	case err != nil:
		return nil, err
	}
	if !name.Partial && in.Info.Complete() {
		return p.accept(f, seg, own, in, false)
	}
	if left, ok := leftIn(ctx, p.repo, p.opts.walDir(), own, f.size, seg); ok {
		expect.Until = left
		if until, err := wal.InspectFile(f, f.length, expect); err == nil {
			return p.accept(f, seg, own, until, true)
		}
	} else if !name.Partial {
		return p.ended(f, seg, own, in)
	}
	return p.unfinished(f, seg, own, in)
}

// unfinished archives what there is of a timeline's last segment.
func (p *pusher) unfinished(f *segmentFile, seg pg.Segment, own pg.History, in *wal.Inspection) (*judged, error) {
	if in.Info.End == in.Info.Start { // no record is whole
		return unchecked(f, seg, own, repo.WALPartial|repo.WALUnchecked, p.repo), nil
	}
	return p.accept(f, seg, own, in, true)
}

// ended judges a segment under its full name in which WAL ends for no known
// reason. If the next segment exists, WAL does go on, and so the end is damage.
func (p *pusher) ended(f *segmentFile, seg pg.Segment, own pg.History, in *wal.Inspection) (*judged, error) {
	if p.unwritten(f, own, seg) {
		return nil, errUnwritten
	}
	if !followed(p.opts.walDir(), f.size, seg) {
		if p.leftBefore(f.size, own, seg) {
			// A standby has what a lost leader sent last, and another standby
			// that had less was promoted. There is no more to come, and nobody
			// else may have it.
			return p.unfinished(f, seg, own, in)
		}
		return nil, &IncompleteError{p.opts.Path, in.Info.End, in.Info.Remark}
	}
	if p.opts.AcceptDamaged {
		return unchecked(f, seg, own, repo.WALChainBreak|repo.WALNoRecordStart, p.repo), nil
	}
	return nil, &DamagedError{p.opts.Path, fmt.Errorf("WAL ends at %s, but the next segment exists: %s: %w", in.Info.End, in.Info.Remark, wal.ErrCorrupt)}
}

// accept makes the header of a sound segment.
func (p *pusher) accept(f *segmentFile, seg pg.Segment, own pg.History, in *wal.Inspection, partial bool) (*judged, error) {
	info := &in.Info
	for _, t := range []pg.Timeline{info.FirstTimeline, info.LastTimeline} {
		if _, ok := own.Begin(t); !ok {
			return nil, finding.WithHint(
				fmt.Errorf("it has pages of timeline %s, which the history of timeline %s does not know: %w", t, own.Timeline, wal.ErrForeign),
				"compare the history file in pg_wal with the archived ones")
		}
	}
	j := &judged{header: f.header(p.repo, seg, own, walFlags(info)), carry: in.Carry.Encode()}
	if partial {
		j.header.Flags |= repo.WALPartial
	}
	if !info.Flags.BreaksChain() {
		j.blockMap = in.Map.Encode()
	}
	j.header.End = info.End
	j.header.FirstRecord, j.header.FirstPrev, j.header.LastRecord, j.header.LastComplete = info.First, info.FirstPrev, info.Last, info.LastComplete
	j.header.BlockSize, j.header.FirstTimeline, j.header.LastTimeline = uint32(info.BlockSize), info.FirstTimeline, info.LastTimeline
	return j, nil
}

// unchecked archives a segment whole, without a claim about its content.
func unchecked(f *segmentFile, seg pg.Segment, own pg.History, flags repo.WALFlags, r *repo.Repo) *judged {
	return &judged{header: f.header(r, seg, own, flags)}
}
