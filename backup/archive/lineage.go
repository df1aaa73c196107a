package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// LineageOptions say whose history counts. The first source that knows wins:
// Timeline, Leader, the repository.
//
// The repository may hold a stray timeline: one that a copy of the cluster began
// and archived. While it has no sibling nothing there tells it from the one that
// the cluster went on to. So a reader goes by the repository alone only where
// it must, and what is known besides narrows it down: a [LastLeaderError] to
// timelines that descend from the last leader's, a Follower to those that it can
// follow.
type LineageOptions struct {
	// Timeline is a timeline chosen by the caller; 0 means none. Where there are
	// several of the number, Incarnation tells which if it has an ancestry, else
	// the Follower's own history file.
	Timeline    pg.Timeline
	Incarnation repo.Incarnation
	// Leader gives the history of the current leader by a fresh look, or the
	// zero History if nobody leads. An error means that it cannot be known
	// now; it may be a [LastLeaderError]. nil: there is nobody to ask.
	Leader func(context.Context) (pg.History, error)
	// Follower is the server that asks; nil: none, or it is not known.
	Follower *Follower
}

// LastLeaderError says that nobody leads, or that who leads has not said yet on
// which timeline, and what the DCS remembers of the last leader.
type LastLeaderError struct {
	Last  pg.History // the cluster went on from here, if at all
	Cause error
}

func (e *LastLeaderError) Error() string {
	return fmt.Sprintf("%v; the last leader known was on timeline %s", e.Cause, e.Last.Timeline)
}

// Unwrap gives the cause.
func (e *LastLeaderError) Unwrap() error { return e.Cause }

// Lineage is the history to follow, and who said so.
type Lineage struct {
	pg.History
	Source string // who said so: one of the constants, or what else a caller went by

	follower *Follower // that it was resolved for
}

// The sources of a [Lineage].
const (
	SourceTimeline   = "--timeline" // the caller chose a timeline
	SourceLeader     = "leader"     // the current leader's, by a fresh look
	SourceRepository = "repository" // the archived histories
)

// AmbiguousError says that the repository alone cannot tell which history is
// the surviving one.
type AmbiguousError struct{ Candidates []repo.Incarnation }

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("the repository holds %d timelines of which none descends from the others: %v", len(e.Candidates), e.Candidates)
}

// Hint says what to do about it.
func (e *AmbiguousError) Hint() string {
	return "name the one to follow as it is written here (restore: --target-timeline, wal verify: --timeline); pgtender info on a member shows which one the leader is on"
}

// dcsWait is how long a question to the DCS may take. One that hangs is down:
// it must neither stop archiving nor use up a fetch's few seconds.
const dcsWait = 2 * time.Second

// fresh asks the DCS something.
func fresh[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dcsWait, fmt.Errorf("the DCS did not answer within %s", dcsWait))
	defer cancel()
	return ask(ctx)
}

// ResolveLineage finds the history to follow.
func ResolveLineage(ctx context.Context, r *repo.Repo, opts LineageOptions) (Lineage, error) {
	var last pg.History
	if opts.Timeline == 0 && opts.Leader != nil {
		h, err := fresh(ctx, opts.Leader)
		var remembered *LastLeaderError
		switch {
		case ctx.Err() != nil:
			return Lineage{}, context.Cause(ctx)
		case err == nil && h.Timeline != 0:
			return Lineage{History: h, Source: SourceLeader}, nil
		case errors.As(err, &remembered):
			last = remembered.Last
		}
		// Not known now: the archived histories decide.
	}
	histories, err := archivedHistories(ctx, r)
	if err != nil {
		return Lineage{}, err
	}
	if opts.Timeline != 0 {
		h, err := chooseLineage(opts.Timeline, opts.among(histories))
		return Lineage{History: h, Source: SourceTimeline}, err
	}
	h, err := chooseTip(narrow(histories, last, opts.Follower))
	if err != nil && last.Timeline != 0 && opts.Follower.follows(last) {
		h, err = last, nil // several went on from there, so nobody knows more
	}
	return Lineage{History: h, Source: SourceRepository, follower: opts.Follower}, err
}

// among leaves of several histories of the chosen timeline's number the one that
// is meant, if that is known.
func (o *LineageOptions) among(histories []pg.History) []pg.History {
	own, known := o.Follower.local(o.Timeline)
	return slices.DeleteFunc(slices.Clone(histories), func(h pg.History) bool {
		switch {
		case h.Timeline != o.Timeline:
			return false
		case o.Incarnation.Ancestry != [8]byte{}:
			return repo.IncarnationOf(h) != o.Incarnation
		}
		return known && !h.Equal(own)
	})
}

// narrow leaves the histories that the cluster may have gone on to after its last
// leader, and of these the ones that the follower can follow. One that can follow
// none has diverged: it learns what the others do.
func narrow(histories []pg.History, last pg.History, f *Follower) []pg.History {
	if f != nil && f.History.Timeline != 0 {
		histories = append(histories, f.History)
	}
	if last.Timeline != 0 {
		histories = append(histories, last)
		histories = slices.DeleteFunc(histories, func(h pg.History) bool { return !h.Equal(last) && !descends(h, last) })
	}
	followed := slices.DeleteFunc(slices.Clone(histories), func(h pg.History) bool { return !f.follows(h) })
	if len(followed) == 0 {
		followed = histories
	}
	return slices.CompactFunc(slices.SortedFunc(slices.Values(followed), compareHistories), pg.History.Equal)
}

// compareHistories puts equal ones side by side.
func compareHistories(a, b pg.History) int {
	return cmp.Or(cmp.Compare(a.Timeline, b.Timeline), slices.CompareFunc(a.Forks, b.Forks, func(x, y pg.Fork) int {
		return cmp.Or(cmp.Compare(x.Parent, y.Parent), cmp.Compare(x.Switch, y.Switch))
	}))
}

// archivedHistories reads every archived history, and adds timeline 1, which
// has no file.
func archivedHistories(ctx context.Context, r *repo.Repo) ([]pg.History, error) {
	incarnations, err := r.Histories(ctx)
	if err != nil {
		return nil, fmt.Errorf("list archived timeline histories: %w", err)
	}
	out := []pg.History{pg.FirstTimeline()}
	for _, i := range incarnations {
		h, _, err := r.History(ctx, i)
		if err != nil {
			return nil, fmt.Errorf("read archived history of timeline %s: %w", i, err)
		}
		out = append(out, h)
	}
	return out, nil
}

// chooseLineage decides for the archived history of the timeline asked for. Two
// of one number the repository cannot tell apart.
func chooseLineage(asked pg.Timeline, histories []pg.History) (pg.History, error) {
	var found []pg.History
	for _, h := range histories {
		if h.Timeline == asked {
			found = append(found, h)
		}
	}
	switch len(found) {
	case 0:
		return pg.History{}, finding.WithHint(fmt.Errorf("timeline %s: %w", asked, ErrNoHistory), "pgtender info lists the timelines that are archived")
	case 1:
		return found[0], nil
	}
	return pg.History{}, &AmbiguousError{incarnations(found)}
}

// chooseTip decides for the history that descends from all others. Where two
// branches both have no descendant nobody can know which survived.
func chooseTip(histories []pg.History) (pg.History, error) {
	tips := slices.DeleteFunc(slices.Clone(histories), func(h pg.History) bool {
		return slices.ContainsFunc(histories, func(o pg.History) bool { return descends(o, h) })
	})
	if len(tips) != 1 {
		return pg.History{}, &AmbiguousError{incarnations(tips)}
	}
	return tips[0], nil
}

// ErrNoHistory means that a timeline's history file is not archived.
var ErrNoHistory = errors.New("its history is not in the repository")

// descends reports whether o is a later timeline of the same line as h.
func descends(o, h pg.History) bool {
	own, ok := Ancestor(o, h.Timeline)
	return ok && o.Timeline != h.Timeline && own.Equal(h)
}

func incarnations(histories []pg.History) []repo.Incarnation {
	out := make([]repo.Incarnation, len(histories))
	for i, h := range histories {
		out[i] = repo.IncarnationOf(h)
	}
	return out
}

// Serves reports whether a reader that follows h may have segment g: h takes
// the segment's WAL from the file of g's timeline. What lies at or past the
// point where h left the timeline is not served, the segment with a switch
// point comes from the new timeline.
func Serves(h pg.History, size pg.SegmentSize, g pg.Segment) bool {
	return SegmentTimeline(h, size, g.Number) == g.Timeline
}

// ServesHistory reports whether a reader that follows l may have the history
// file of o.
//
// That of l itself and its ancestors always. A descendant's not if the leader
// said which history counts: it is a stray one, and a standby, which follows the
// latest timeline it finds (rescanLatestTimeLine, xlogrecovery.c), would leave
// the leader for it. Elsewhere l may be a moment old, and a descendant is how
// recovery goes on, but never one that the server that asks cannot follow: given
// that, it stops at its start, and would do so until somebody leads.
//
// Under a chosen timeline every later number is served, whatever its branch.
// Recovery to a timeline given by number reads no later history than that, and
// at its end looks for the first number that no history file has
// (findNewestTimeLine, timeline.c): "absent" would have it take one that is in
// use.
func ServesHistory(l Lineage, o pg.History) bool {
	own, ok := Ancestor(l.History, o.Timeline)
	switch {
	case ok:
		return own.Equal(o)
	case l.Source == SourceLeader:
		return false
	case l.Source == SourceTimeline && o.Timeline > l.Timeline:
		return true
	}
	return descends(o, l.History) && l.follower.follows(o)
}

// LeadsThrough reports whether a server that follows h has been through the
// whole of b: h has b's own ancestry, as equal timeline numbers are no proof,
// and had not left b's timeline before b's stop.
func LeadsThrough(h pg.History, b *repo.Backup) bool {
	own, ok := Ancestor(h, b.Stop.Timeline)
	return ok && own.Equal(b.StopHistory()) && h.Contains(b.Start) && h.Contains(b.Stop)
}
