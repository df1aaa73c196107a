package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// FaultKind says what is wrong at a position of a history in the archive.
type FaultKind string

// The kinds of faults. Recovery ends at the first three; the others concern
// only what incremental backups and catchup need to know.
const (
	FaultMissing   FaultKind = "missing"   // a segment is not archived
	FaultDamaged   FaultKind = "damaged"   // an object is not what was written
	FaultBroken    FaultKind = "broken"    // two segments are not one log
	FaultUnread    FaultKind = "unread"    // archived as it was, damaged perhaps
	FaultUntracked FaultKind = "untracked" // changes that no block map can name
	FaultIndex     FaultKind = "index"     // an index object does not say what its segments' objects do
	// FaultMinimal is what [Verify] finds an untracked one to be by its records:
	// WAL written under wal_level=minimal. No recovery goes past it, either.
	FaultMinimal FaultKind = "minimal"
)

// Fault is where the archive's knowledge of a history ends.
type Fault struct {
	Kind    FaultKind
	Segment pg.Segment
	// At is the first position that is not covered: the segment's start, or the
	// start of a record before it that goes on in it.
	At  pg.LSN
	Err error
	// Through is the last record of the segment that concerns recovery, of
	// FaultMinimal alone: what begins behind it is not concerned.
	Through pg.LSN
}

func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap gives Err.
func (f *Fault) Unwrap() error { return f.Err }

// joiner chains steps and unites their changes.
type joiner struct {
	walk    *walk
	chain   wal.Chain
	changes *wal.BlockMap // nil: not wanted
	// fullPageWritesOff says that a record said so.
	fullPageWritesOff bool
}

// at gives the first position whose changes are not known yet, if the next
// segment begins at start.
func (j *joiner) at(start pg.LSN) pg.LSN {
	if open, ok := j.chain.OpenAt(); ok {
		return open
	}
	return start
}

// add takes the next step. A fault says that coverage ends; after it the joiner
// goes on with what follows as if nothing had been before. own says whether the
// step's own changes count, or only those of a record that goes on in it.
func (j *joiner) add(ctx context.Context, s *step, own bool) (*Fault, error) {
	if s.err != nil {
		f := &Fault{Segment: s.segment, At: j.at(j.walk.size.Start(s.segment.Number)), Err: s.err}
		switch {
		case errors.Is(s.err, fs.ErrNotExist):
			f.Kind = FaultMissing
		case errors.Is(s.err, repo.ErrCorrupt):
			f.Kind = FaultDamaged
		default:
			f.Kind = FaultUnread
		}
		j.chain = wal.Chain{}
		return f, nil
	}
	fault := &Fault{Segment: pg.Segment{Timeline: s.headers[0].Incarnation.Timeline, Number: s.first()}, At: j.at(s.infos[0].Start)}
	joint, err := j.chain.AddRun(s.infos, s.carry)
	if errors.Is(err, wal.ErrCut) {
		if err = j.readRecord(ctx, fault.At); err == nil {
			j.chain = wal.Chain{} // the record proves that its segments follow each other
			joint, err = j.chain.AddRun(s.infos, s.carry)
		}
	}
	if err != nil {
		switch {
		case errors.Is(err, errUntracked) || errors.Is(err, wal.ErrCut):
			fault.Kind = FaultUntracked
		case errors.Is(err, wal.ErrBroken) || errors.Is(err, wal.ErrCorrupt) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, repo.ErrCorrupt):
			fault.Kind = FaultBroken
		default:
			return nil, err
		}
		fault.Err = err
		j.chain = wal.Chain{}
		if _, err := j.chain.AddRun(s.infos, s.carry); err != nil {
			j.chain = wal.Chain{}
		}
		return fault, nil
	}
	return j.unite(s, joint, own, fault), nil
}

// unite takes the changes of a step that continues the chain.
func (j *joiner) unite(s *step, joint wal.Joint, own bool, fault *Fault) *Fault {
	if done := joint.Completed; done != nil {
		if done.Flags.BreaksChain() {
			fault.Kind, fault.Err = FaultUntracked, fmt.Errorf("record at %s: %w", done.Record.Start, errUntracked)
			return fault
		}
		j.merge(done.Map)
		j.fullPageWritesOff = j.fullPageWritesOff || done.Flags&wal.FlagFullPageWritesOff != 0
	}
	if !own {
		return nil
	}
	if s.changes == nil {
		fault.Kind, fault.At = FaultUntracked, s.infos[0].Start
		fault.Err = fmt.Errorf("segment %s: %w", s.headers[0].Name(), errUntracked)
		return fault
	}
	j.merge(s.changes)
	for i := range s.infos {
		j.fullPageWritesOff = j.fullPageWritesOff || s.infos[i].Flags&wal.FlagFullPageWritesOff != 0
	}
	return nil
}

func (j *joiner) merge(m *wal.BlockMap) {
	if j.changes != nil {
		j.changes.Merge(m)
	}
}

// readRecord takes the changes of a record that is too large for carries from
// the WAL itself.
func (j *joiner) readRecord(ctx context.Context, at pg.LSN) error {
	source := &Source{Repo: j.walk.repo, History: j.walk.history, SegmentSize: j.walk.size}
	r := wal.NewReader(source, at, wal.ReaderOptions{History: j.walk.history, SegmentSize: j.walk.size, SystemID: j.walk.repo.Cluster().SystemID})
	defer r.Close() // opened for reading
	rec, err := r.Next(ctx)
	if err == io.EOF {
		err = r.Reason()
	}
	if err != nil {
		return fmt.Errorf("read the record at %s: %w", at, err)
	}
	if rec.Start != at {
		return fmt.Errorf("read the record at %s: the next one is at %s: %w", at, rec.Start, wal.ErrBroken)
	}
	changes := new(wal.BlockMap)
	flags, err := changes.Record(rec)
	j.merge(changes)
	if err == nil && flags.BreaksChain() {
		err = fmt.Errorf("record at %s: %w", at, errUntracked)
	}
	return err
}
