package archive

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// StandbyGrace is how long the server that a standby streams from may take with a
// segment before the standby archives it itself, see [PushOptions]. A push takes
// a fraction of it; and what a leader that is lost had not archived comes no later
// than this from a standby with archive_mode=always.
const StandbyGrace = 5 * time.Second

// offerPause is the time between two questions whether the upstream has archived
// a segment.
const offerPause = time.Second

// Answer is what the repository holds under a segment's name.
type Answer int

// The answers.
const (
	AnswerOther  Answer = iota // something that is not this content, or it could not be asked
	AnswerAbsent               // nothing
	AnswerEqual                // this content
)

// OfferFacts are what is known of a segment that PostgreSQL offers, and of the
// server in whose pg_wal it is, at one moment.
type OfferFacts struct {
	Now     time.Time
	Written time.Time     // the segment's file, last
	Grace   time.Duration // see [PushOptions]
	Answer  Answer
	Standby bool // standby.signal is there: it is not promoted, at least not yet
	Running bool // its postmaster is there and does not shut down
}

// Offer is whether a segment is to be archived from here now.
type Offer struct {
	Wait time.Duration // to look again after this long at the latest; 0: now
	Why  string
}

// DecideOffer says whether a standby leaves a segment to its upstream for a
// moment: both get it whole at the same time, and to send it twice is waste. It
// never waits longer than Grace, and only as long as the upstream may well do it:
// a file that was written before that is a backlog, which must go fast; who is
// promoted has no upstream; and a server that shuts down is not kept from it.
func DecideOffer(f OfferFacts) Offer {
	age := f.Now.Sub(f.Written)
	switch {
	case f.Answer == AnswerEqual:
		return Offer{Why: "it is archived"}
	case f.Answer == AnswerOther:
		return Offer{Why: "what is archived under its name must be looked at"}
	case !f.Standby:
		return Offer{Why: "this server is no standby"}
	case !f.Running:
		return Offer{Why: "this server is stopped, or stopping"}
	case age >= f.Grace:
		return Offer{Why: fmt.Sprintf("the upstream has not archived it within %s", f.Grace)}
	}
	// A clock that was put back makes the file younger than nothing.
	return Offer{Wait: f.Grace - max(0, age), Why: "the upstream most likely archives it"}
}

// yield asks whether the segment of a standby is archived, and waits for its
// upstream to archive it as long as [DecideOffer] says. It gives the result if it
// is. An error means that ctx ended.
func (p *pusher) yield(ctx context.Context, f *segmentFile, own pg.History, name repo.WALName) (PushResult, bool, error) {
	begun := time.Now()
	for {
		result, answer := p.ask(ctx, f, own, name)
		now := time.Now()
		facts := OfferFacts{
			Now: now, Written: f.info.ModTime(), Grace: p.opts.Grace, Answer: answer,
			Standby: p.secondHand(), Running: running(filepath.Dir(p.opts.walDir())),
		}
		if now.Sub(begun) >= p.opts.Grace {
			facts.Grace = 0 // whatever the clock says
		}
		d := DecideOffer(facts)
		if d.Wait <= 0 {
			p.log.DebugContext(ctx, "a standby's segment", "file", p.name, "answer", answer == AnswerEqual, "why", d.Why)
			return result, answer == AnswerEqual, nil
		}
		select {
		case <-ctx.Done():
			return PushResult{}, false, fmt.Errorf("wait for the upstream to archive it: %w", context.Cause(ctx))
		case <-time.After(min(d.Wait, offerPause)):
		}
	}
}

// running reports whether the server of a data directory is there and does not
// shut down, as far as its postmaster.pid tells. An archiver works off all that
// waits before a shutdown ends.
func running(dataDir string) bool {
	content, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return false
	}
	p, err := pg.ParsePostmaster(content)
	return err != nil || p.Status != "stopping"
}
