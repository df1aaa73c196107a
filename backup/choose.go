package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// Preview says what Take would do now, and changes nothing. Where the backup
// will start only the server knows, when it has started: here it is taken to be
// the source's position, so a standby that makes no restartpoint in time may
// force another parent, or a full backup.
func Preview(ctx context.Context, o Options) (Plan, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Plan{}, err
	}
	t := &run{Options: o, lines: &lineages{repo: o.Repo}, dry: true}
	if t.conn, err = t.Source(ctx); err != nil {
		return Plan{}, fmt.Errorf("connect to the server of %s: %w", t.DataDir, err)
	}
	defer t.conn.Close()
	if t.facts, err = inspect(ctx, t.Options, t.conn); err != nil {
		return Plan{}, err
	}
	if t.plan, err = Decide(t.facts); err != nil {
		return Plan{}, err
	}
	at, err := t.position(ctx)
	if err == nil {
		err = t.choose(ctx, at)
	}
	return t.plan, err
}

// position gives the point that the source has reached.
func (t *run) position(ctx context.Context) (pg.Pos, error) {
	pos, err := t.conn.Positions(ctx)
	if err != nil {
		return pg.Pos{}, err
	}
	at := pg.Pos{Timeline: t.facts.Server.Timeline, LSN: pos.Insert}
	if pos.InRecovery {
		at.LSN = pos.Replay
	}
	return at, nil
}

// expect finds the parent that the backup will most likely have, for the
// running marker, and refuses where there can be none and must be one. Nothing
// has been asked of the server yet.
func (t *run) expect(ctx context.Context) error {
	if t.Kind == FullOnly || !t.marked.IsZero() {
		return nil
	}
	at, err := t.position(ctx)
	if err != nil {
		return err
	}
	q, err := t.candidates(ctx, at, true)
	if err != nil {
		return err
	}
	if _, err := decideKind(q); err != nil || q.parent == nil {
		return err
	}
	t.marked = q.parent.ID
	return nil
}

// otherParentError means that the backup must begin anew, with a running marker
// that names another parent.
type otherParentError struct{ parent repo.BackupID }

func (e *otherParentError) Error() string {
	return fmt.Sprintf("the parent is %s, which the running marker does not name", e.parent)
}

// hold makes sure that the parent is the one that the running marker names.
// Only on a standby that made no restartpoint it is not, as a rule.
func (t *run) hold(q *question) error {
	switch {
	case q.parent == nil || q.parent.ID == t.marked || t.dry:
		return nil
	case !t.settled:
		return &otherParentError{q.parent.ID}
	}
	q.rejected = slices.Insert(q.rejected, 0, Rejected{q.parent.ID, "is the parent of none of the attempts"})
	q.parent = nil
	return nil
}

// choose decides the kind of a backup that starts at at, and brings together
// what an incremental one needs: its parent, and what changed since.
func (t *run) choose(ctx context.Context, at pg.Pos) error {
	q := question{request: FullOnly}
	t.parent, t.blocks = nil, nil
	var told Told
	var err error
	for t.Kind != FullOnly && t.parent == nil {
		if q, err = t.candidates(ctx, at, false); err != nil {
			return err
		}
		if err := t.hold(&q); err != nil {
			return err
		}
		if q.parent == nil {
			break
		}
		if err := t.openParent(ctx, q.parent.ID); err != nil {
			return err
		}
	}
	if q.parent != nil {
		if told, err = t.track(ctx, &q, at); err != nil {
			return fmt.Errorf("find what changed since backup %s: %w", t.parent.ID(), err)
		}
	}
	a, err := decideKind(q)
	t.plan.Rejected = q.rejected
	if err != nil {
		return err
	}
	t.plan.Kind, t.plan.Method, t.plan.Why = a.kind, a.method, a.why
	if a.kind == repo.Full {
		t.parent, t.blocks = nil, nil
		return nil
	}
	t.plan.Parent = q.parent.ID
	if a.method == ByMaps {
		t.plan.Told = &told
	} else {
		t.blocks = nil
	}
	return nil
}

// candidates looks for the parent of a backup that starts at at. pending says
// whether one counts that may still be committed before the backup starts.
func (t *run) candidates(ctx context.Context, at pg.Pos, pending bool) (question, error) {
	q := question{request: t.Kind, noFallback: t.NoFallback}
	listed, err := t.Repo.Backups(ctx)
	if err != nil {
		return q, err
	}
	if pending {
		more, err := t.Repo.Pending(ctx)
		if err != nil {
			return q, err
		}
		listed = append(listed, more...)
		slices.SortStableFunc(listed, func(a, b repo.Listed) int { return cmp.Compare(a.ID, b.ID) })
	}
	q.none = len(listed) == 0
	history, _, err := historyOf(ctx, t.DataDir, at.Timeline, t.lines)
	if err != nil {
		return q, err
	}
	from := beginning{at: at, history: history, control: t.facts.Control}
	marks, err := ReadMarks(ctx, t.Repo)
	if errors.Is(err, repo.ErrCorrupt) {
		// What verifications found cannot be told. It is for expire to stop there.
		t.Log.WarnContext(ctx, "whether a backup was found damaged cannot be told", "error", err)
		err = nil
	}
	if err != nil {
		return q, err
	}
	var backups []repo.Backup
	for _, l := range listed {
		m := marks[l.ID]
		switch why, unfit := t.unfit[l.ID]; {
		case l.Err != nil:
			q.rejected = append(q.rejected, Rejected{l.ID, fmt.Sprintf("cannot be used: %v", l.Err)})
		case unfit:
			q.rejected = append(q.rejected, Rejected{l.ID, why})
		default:
			if v := m.lost(); v != nil && v.Lost == LostContent {
				q.rejected = append(q.rejected, Rejected{l.ID, "was found damaged: " + v.Faults})
				continue
			}
			backups = append(backups, l.Backup)
		}
	}
	var rejected []Rejected
	q.parent, rejected = chooseParent(backups, from, t.marked)
	q.rejected = append(q.rejected, rejected...)
	slices.SortStableFunc(q.rejected, func(a, b Rejected) int { return cmp.Compare(b.Backup, a.Backup) })
	q.scan = q.parent != nil && scanSafe(q.parent, from.control)
	return q, nil
}

// openParent opens the parent that was chosen and proves that all its packs are
// there. One that is not whole is unfit from now on, which is for verify to tell
// of.
func (t *run) openParent(ctx context.Context, id repo.BackupID) error {
	m, err := t.Repo.OpenManifest(ctx, id)
	if err == nil {
		err = m.Prove(ctx)
	}
	switch {
	case err == nil:
		t.parent = m
		return nil
	case errors.Is(err, repo.ErrCorrupt) || errors.Is(err, fs.ErrNotExist):
		t.Log.WarnContext(ctx, "a backup is not whole and cannot be the parent", "backup", id.String(), "error", err)
		if t.unfit == nil {
			t.unfit = make(map[repo.BackupID]string)
		}
		t.unfit[id] = fmt.Sprintf("is not whole: %v", err)
		return nil
	}
	return err
}

// track finds what WAL changed between the parent's start and at. Where a
// segment on the way has two contents, the parent may be of one branch and the
// source of the other, under the same name: then it is no parent.
func (t *run) track(ctx context.Context, q *question, at pg.Pos) (told Told, err error) {
	history, _, err := historyOf(ctx, t.DataDir, at.Timeline, t.lines)
	if err != nil {
		return Told{}, err
	}
	from, size := q.parent.Start.LSN, t.facts.Control.SegmentSize
	split, err := archive.Ambiguous(ctx, t.Repo, history, size, from, at.LSN)
	if err != nil {
		return Told{}, err
	}
	if len(split) > 0 {
		why := fmt.Sprintf("starts before WAL segment %s, which is archived with different contents", split[0].Name(size))
		q.rejected = slices.Insert(q.rejected, 0, Rejected{q.parent.ID, why})
		q.parent = nil
		return Told{}, nil
	}
	k := &tracker{repo: t.Repo, history: history, size: size, dataDir: t.DataDir, conn: t.conn}
	t.blocks, told, q.gap, err = k.changes(ctx, from, at.LSN)
	return told, err
}

// divide decides how much of each file is stored.
func (t *run) divide(ctx context.Context, files []*file, c *copier) error {
	if t.parent != nil {
		err := attach(ctx, t.parent, files)
		if errors.Is(err, repo.ErrCorrupt) {
			err = t.withoutParent(ctx, files, err)
		}
		if err != nil {
			return err
		}
	}
	if t.parent == nil {
		for _, f := range files {
			t.total += f.entry.Size
		}
		return nil
	}
	control := t.facts.Control
	c.selector = &selector{parent: &t.parent.Backup, blocks: t.blocks, block: int64(control.BlockSize), segment: control.RelSegBlocks}
	if t.blocks == nil {
		c.selector.fresh = freshDatabases(&t.parent.Backup, files)
	}
	c.overlays = overlaysOn(t.parent)
	t.total = c.selector.distribute(files)
	return nil
}

// withoutParent goes on with a full backup, if it may, when the parent turns
// out to be damaged.
func (t *run) withoutParent(ctx context.Context, files []*file, damage error) error {
	t.Log.WarnContext(ctx, "the parent backup is damaged", "backup", t.plan.Parent.String(), "error", damage)
	q := question{request: t.Kind, noFallback: t.NoFallback, rejected: []Rejected{{t.plan.Parent, fmt.Sprintf("is damaged: %v", damage)}}}
	a, err := decideKind(q)
	if err != nil {
		return err
	}
	for _, f := range files {
		f.base = nil
	}
	t.plan.Kind, t.plan.Why, t.plan.Parent, t.plan.Method, t.plan.Told = a.kind, a.why, 0, "", nil
	t.plan.Rejected = append(q.rejected, t.plan.Rejected...)
	t.parent, t.blocks = nil, nil
	return nil
}
