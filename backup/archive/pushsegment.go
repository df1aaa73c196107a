package archive

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// segment archives a whole segment, or a .partial one. Where it is likely to be
// archived the repository is asked first, elsewhere the put itself tells.
func (p *pusher) segment(ctx context.Context, name repo.WALName) (PushResult, error) {
	f, err := openSegment(p.opts.Path)
	if err != nil {
		return PushResult{}, err
	}
	defer f.Close() // opened for reading
	own, err := p.incarnation(ctx, name.Timeline())
	if err != nil {
		return PushResult{}, err
	}
	if p.opts.Expected || p.secondHand() {
		if result, ok, err := p.yield(ctx, f, own, name); ok || err != nil {
			return result, err
		}
	}
	owned, begun := make(chan error, 1), time.Now()
	go func() { owned <- p.opts.Owned(ctx) }()
	d, err := p.encode(ctx, f, name, own)
	ownerErr := <-owned
	if d != nil {
		defer d.Close()
	}
	switch {
	case ownerErr != nil: // first: not even an alarm belongs into another cluster's part
		return PushResult{}, ownerErr
	case errors.Is(err, errUnwritten):
		return PushResult{Name: name.String(), Incarnation: repo.IncarnationOf(own), Outcome: Unwritten}, nil
	case err != nil:
		return PushResult{}, p.refused(ctx, err)
	}
	encoded := time.Now()
	result, err := p.put(ctx, d)
	if err == nil && result.Outcome == Stored {
		p.opts.Pacer.took(encoded.Sub(begun), time.Since(encoded))
		p.opts.Recent.add(result.Key, d.WALMeta)
	}
	if err == nil && result.Outcome != AlreadyArchived {
		p.index(ctx, &d.Header)
	}
	return result, err
}

// secondHand reports whether the file is a standby's, whose upstream has most
// likely archived it. A wrong answer costs a request or an upload, no more.
func (p *pusher) secondHand() bool {
	_, err := os.Stat(filepath.Join(filepath.Dir(p.opts.walDir()), "standby.signal"))
	return err == nil
}

// encode checks and encodes the segment.
func (p *pusher) encode(ctx context.Context, f *segmentFile, name repo.WALName, own pg.History) (*repo.WALData, error) {
	r := p.repo
	if pace := p.opts.Pacer.pace(); pace.Hasty {
		r = r.Hastily()
		p.log.DebugContext(ctx, "compressing in haste", "file", p.name, "why", pace.Why)
	}
	content := r.TakeWAL(f, f.length)
	defer content.Close() // nothing is lost with it
	j, err := p.judge(ctx, f, content, name, own)
	if err != nil {
		return nil, err
	}
	d, err := content.Encode(j.header, j.blockMap, j.carry)
	if err != nil {
		return nil, err
	}
	return d, f.unchanged()
}

// put stores an encoded segment unless it is there already.
func (p *pusher) put(ctx context.Context, d *repo.WALData) (PushResult, error) {
	h := &d.Header
	result := PushResult{Name: h.Name().String(), Incarnation: h.Incarnation, Key: p.repo.WALKey(h), Outcome: Stored}
	created, err := p.repo.CreateWAL(ctx, result.Key, d)
	switch {
	case err == nil:
		if !created {
			result.Outcome = AlreadyArchived
		}
		return result, nil
	case errors.Is(err, repo.ErrConflict):
	case errors.Is(err, repo.ErrCorrupt):
		// What lies there is not this segment whatever it was, and the
		// archiver of a leader must not wait for ever.
	default:
		// The answer may have been lost, and then everything is in order.
		if existing, readErr := p.repo.ReadWALHeader(ctx, result.Key); readErr == nil && existing.Equal(h) && p.repo.Persist(ctx, result.Key) == nil {
			return result, nil
		}
		return PushResult{}, err
	}
	c := contender{
		result: result, finding: err, digest: h.Digest, length: int64(h.End - h.SegmentSize.Start(h.Segment)), quarantine: p.repo.WALQuarantineKey(h),
		putQuarantine: func() error { return p.repo.PutWAL(ctx, p.repo.WALQuarantineKey(h), d) },
	}
	if h.Flags&repo.WALPartial == 0 {
		c.beside = p.repo.WALConflictKey(h)
		c.putBeside = func() error { return p.repo.PutWAL(ctx, c.beside, d) }
		c.there = func() bool {
			existing, err := p.repo.ReadWALHeader(ctx, c.beside)
			return err == nil && existing.Equal(h)
		}
	}
	return p.conflict(ctx, c)
}
