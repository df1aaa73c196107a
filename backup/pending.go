package backup

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// FinishPending commits the backups of earlier runs that had everything but
// their WAL, as far as it has arrived since, and gives their ids. One that still
// waits, or is damaged, is logged and left as it is: it keeps nobody from taking
// a new one. The error is that of the listing, or ctx's.
func FinishPending(ctx context.Context, r *repo.Repo, log *slog.Logger) ([]repo.BackupID, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	pending, err := r.Pending(ctx)
	if err != nil {
		return nil, err
	}
	l := &lineages{repo: r}
	var done []repo.BackupID
	for _, p := range pending {
		err := p.Err
		if err == nil {
			err = finish(ctx, &p.Backup, l)
		}
		switch {
		case ctx.Err() != nil:
			return done, context.Cause(ctx)
		case err != nil:
			log.WarnContext(ctx, "an earlier backup stays pending", "key", p.Object.Key, "error", err)
		default:
			log.InfoContext(ctx, "committed an earlier backup, whose WAL has arrived", "backup", p.ID.String())
			done = append(done, p.ID)
		}
	}
	return done, nil
}

// finish commits one pending backup, if its WAL is there and the cluster is not
// known to have gone on from an earlier point. Nobody is asked who the primary
// is: the run that made the backup has done so.
func finish(ctx context.Context, b *repo.Backup, l *lineages) error {
	lines, err := l.all(ctx)
	if err != nil {
		return err
	}
	if abandoned(b, lines) {
		return fmt.Errorf("it stopped at %s: %w", b.Stop, ErrDeadBranch)
	}
	c, err := covered(ctx, b, l)
	if err != nil {
		return err
	}
	if !c.Reaches(b.Stop.LSN) {
		return fmt.Errorf("WAL segment %s is not in the archive", c.Missing.Name(b.SegmentSize))
	}
	_, err = l.repo.CommitPending(ctx, b.ID)
	return err
}

// covered follows the archive from b's start towards its stop, along the
// history b knows or, where that does not lead there, that of a later timeline
// which b lies on: after a failover the segment with the switch point exists as
// the new timeline's only. Where all of it is there, every segment's header has
// been read. Where it is not, the cover is the one that comes furthest, of the
// newest timeline.
func covered(ctx context.Context, b *repo.Backup, l *lineages) (archive.Cover, error) {
	best, err := archive.Coverage(ctx, l.repo, b.StopHistory(), b.SegmentSize, b.Start.LSN)
	if err != nil {
		return archive.Cover{}, err
	}
	if !best.Reaches(b.Stop.LSN) {
		lines, err := l.all(ctx)
		if err != nil {
			return archive.Cover{}, err
		}
		for _, h := range lines {
			if h.Timeline == b.Stop.Timeline || !archive.LeadsThrough(h, b) {
				continue
			}
			c, err := archive.Coverage(ctx, l.repo, h, b.SegmentSize, b.Start.LSN)
			if err != nil {
				return archive.Cover{}, err
			}
			if c.Until >= best.Until {
				best = c
			}
		}
	}
	if best.Reaches(b.Stop.LSN) {
		err = proveHeaders(ctx, l.repo, best.History, b)
	}
	return best, err
}

// abandoned reports whether archived histories say that b's timeline was left
// before b's stop, and none that it was left later. The WAL up to the stop may be
// archived all the same, by the leader that was left behind.
func abandoned(b *repo.Backup, lines []pg.History) bool {
	left := false
	for _, h := range lines {
		own, ok := archive.Ancestor(h, b.Stop.Timeline)
		switch {
		case h.Timeline == b.Stop.Timeline || !ok || !own.Equal(b.StopHistory()):
		case archive.LeadsThrough(h, b):
			return false
		default:
			left = true
		}
	}
	return left
}

// lineages are the archived histories. It keeps those it has read, for they
// never change and are asked for at each look at the archive.
type lineages struct {
	repo *repo.Repo
	read map[repo.Incarnation]pg.History
}

// all gives every archived history, ascending by timeline.
func (l *lineages) all(ctx context.Context) ([]pg.History, error) {
	incarnations, err := l.repo.Histories(ctx)
	if err != nil {
		return nil, fmt.Errorf("list archived timeline histories: %w", err)
	}
	out := make([]pg.History, 0, len(incarnations))
	for _, i := range incarnations {
		h, ok := l.read[i]
		if !ok {
			if h, _, err = l.repo.History(ctx, i); err != nil {
				return nil, fmt.Errorf("read archived history of timeline %s: %w", i, err)
			}
			if l.read == nil {
				l.read = make(map[repo.Incarnation]pg.History)
			}
			l.read[i] = h
		}
		out = append(out, h)
	}
	return out, nil
}

// headerReads is how many WAL headers are read at the same time.
const headerReads = 8

// proveHeaders reads the header of every segment of b, of the object that would
// be served: a listing knows names only.
func proveHeaders(ctx context.Context, r *repo.Repo, h pg.History, b *repo.Backup) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(headerReads)
	size := b.SegmentSize
	next, last := size.SegmentOf(b.Start.LSN), size.SegmentBefore(b.Stop.LSN)
	var listErr error
	for o, err := range archive.Along(ctx, r, h, size, next) {
		if listErr = err; err != nil || o.Segment.Number != next || next > last {
			break
		}
		next++
		g.Go(func() error {
			header, err := r.ReadWALHeader(ctx, o.Object.Key)
			if err != nil {
				return fmt.Errorf("prove WAL: %w", err)
			}
			if err := judgeHeader(&header, o.Object.Key, min(b.Stop.LSN, size.Start(o.Segment.Number+1))); err != nil {
				return &unfitError{err}
			}
			return nil
		})
	}
	err := g.Wait() // first: a failure in there ends the listing too
	switch {
	case err != nil:
		return err
	case listErr != nil:
		return fmt.Errorf("prove WAL: %w", listErr)
	case next <= last:
		missing := pg.Segment{Timeline: archive.SegmentTimeline(h, size, next), Number: next}
		return &unfitError{fmt.Errorf("prove WAL: segment %s was listed, and is gone", missing.Name(size))}
	}
	return nil
}

// unfitError says that archived WAL is not what a backup needs, as opposed to a
// store that does not answer.
type unfitError struct{ error }

func (e *unfitError) Unwrap() error { return e.error }

// judgeHeader refuses an archived segment whose WAL does not reach to, which is
// at most its end.
func judgeHeader(h *repo.WALHeader, key string, to pg.LSN) error {
	const unchecked = repo.WALChainBreak | repo.WALNoRecordStart
	switch {
	case h.Flags&unchecked == unchecked:
		// What archive.Push stores when it is told to accept damage.
		return finding.WithHint(fmt.Errorf("%s was archived although it is damaged: replay would end there, before the backup is consistent", key),
			"take a new backup: it does not need this segment")
	case h.End < to && h.Flags&repo.WALSwitch == 0:
		return fmt.Errorf("the WAL in %s ends at %s, the backup needs it up to %s", key, h.End, to)
	}
	return nil
}
