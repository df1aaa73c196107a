package agent

import (
	"fmt"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/internal/pg"
)

// Role is the member's part in archiving, by a fresh look at the cluster.
type Role int

// The roles.
const (
	RoleUnknown  Role = iota // the cluster could not be asked, or its answer is not clear
	RoleNoLeader             // nobody leads
	RoleLeader               // this member
	RoleReplica              // another member leads, and this one follows it
)

func (r Role) String() string {
	return [...]string{"unknown", "no leader", "leader", "replica"}[r]
}

// Facts are what is known of the member's WAL at one moment.
type Facts struct {
	Now  time.Time
	Size pg.SegmentSize
	// End is the position up to which the server has WAL: flushed on a primary,
	// received or replayed on a standby.
	End pg.LSN
	// Movable is the position up to which a slot can be advanced: flushed on a
	// primary, replayed on a standby.
	Movable pg.LSN
	Held    pg.LSN // where the slot stands; 0: there is none
	// Missing are the whole segments in pg_wal that the archive lacks, in order.
	Missing []archive.LocalSegment
	// Unasked says why the archive could not be asked; Missing means nothing
	// then.
	Unasked error

	Role    Role
	Grace   time.Duration // after which a segment is late
	MaxHold int64         // bytes of WAL that the slot may hold; 0: there is no slot
}

// Decision is what to hold and what to archive from here.
type Decision struct {
	// Hold is where the slot is to stand.
	Hold pg.LSN
	// Lapsed says that WAL which is not archived is let go, for the slot would
	// hold more than it may.
	Lapsed bool
	// Push are the segments to archive from here, in order.
	Push []pg.Segment
	Why  string
}

// Decide says up to where WAL may be let go, and what is late.
//
// A standby's segments are as good as its leader's: a walsender sends what is
// flushed. So where nobody leads they are pushed at once, for their only copy
// may be here; otherwise the leader has its grace. What lies past a fork that
// nobody here knows of yet becomes an orphan, which readers never take.
func Decide(f Facts) Decision {
	if f.Unasked != nil {
		d := Decision{Hold: f.Held, Why: fmt.Sprintf("what is archived is not known: %v", f.Unasked)}
		return d.limited(f)
	}
	d := Decision{Hold: f.Size.Start(f.Size.SegmentOf(f.End)), Why: "every whole segment is archived"}
	if len(f.Missing) > 0 {
		d.Hold = f.Size.Start(f.Missing[0].Number)
		d.Why = fmt.Sprintf("%d segments are not archived yet, from %s on", len(f.Missing), f.Missing[0].Name(f.Size))
	}
	d = d.limited(f)
	for _, s := range f.Missing {
		if f.late(s, d.Hold) {
			d.Push = append(d.Push, s.Segment)
		}
	}
	return d
}

// late reports whether a segment is to be archived from here, if WAL is held from
// hold on.
func (f *Facts) late(s archive.LocalSegment, hold pg.LSN) bool {
	if f.Role == RoleNoLeader {
		return true
	}
	unheld := f.MaxHold > 0 && f.Size.Start(s.Number+1) <= hold
	return unheld && f.Role != RoleLeader || f.Now.Sub(time.Unix(s.Written, 0)) >= f.Grace
}

// limited bounds what is held. A slot never goes back, and on a standby not
// past what is replayed.
func (d Decision) limited(f Facts) Decision {
	if least := f.End - min(f.End, pg.LSN(max(f.MaxHold, 0))); f.MaxHold > 0 && d.Hold < least {
		d.Lapsed = len(f.Missing) > 0 || f.Unasked != nil
		d.Why += fmt.Sprintf("; more than %d bytes would have to be held", f.MaxHold)
		d.Hold = least
	}
	d.Hold = max(f.Held, min(d.Hold, f.Movable))
	return d
}
