package archive

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// Backlog is what is known at one moment of a member that archives.
type Backlog struct {
	// Waiting is how many segments wait behind the one that is being archived,
	// as far as they are counted: see [Pacer.Look].
	Waiting int
	// Encode and Store are how long a segment took of late to be checked and
	// compressed, and to be stored; 0: not known yet.
	Encode, Store time.Duration
}

// Pace is how segments are compressed.
type Pace struct {
	Hasty bool // in less time, and larger: see [repo.Repo.Hastily]
	Why   string
}

// farBehind is how many segments wait where time counts more than room: a quarter of
// a gigabyte of WAL, or more where segments are larger, that a leader cannot recycle.
const farBehind = 16

// DecidePace says how to compress the next segment. A backlog is a danger to the
// disk of the leader, and it is worked off faster where the processor is what
// takes the time; where the way to the repository is, larger objects would only
// make it last longer.
func DecidePace(b Backlog) Pace {
	switch {
	case b.Waiting < farBehind:
		return Pace{Why: fmt.Sprintf("%d segments wait, fewer than %d", b.Waiting, farBehind)}
	case b.Store > b.Encode:
		return Pace{Why: fmt.Sprintf("%d segments wait, but storing one takes %s and compressing it %s", b.Waiting, b.Store, b.Encode)}
	}
	return Pace{Hasty: true, Why: fmt.Sprintf("%d segments wait", b.Waiting)}
}

// Pacer keeps a [Backlog] while segments are archived. A nil one has none. It is
// safe for concurrent use.
type Pacer struct {
	mu      sync.Mutex
	backlog Backlog // guarded by mu
}

// Look counts the segments that wait behind the one of that name, up to as many as
// make a difference, whatever is archived ahead of the archiver.
func (p *Pacer) Look(walDir, name string) {
	if p != nil {
		p.Waits(len(Waiting(walDir, name, AheadOptions{Segments: farBehind, Bytes: math.MaxInt64})))
	}
}

// Waits notes how many segments wait.
func (p *Pacer) Waits(n int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.backlog.Waiting = n
}

// pace decides for the next segment.
func (p *Pacer) pace() Pace {
	if p == nil {
		return Pace{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return DecidePace(p.backlog)
}

// took notes what one segment took. Each counts an eighth, the first in full.
func (p *Pacer) took(encode, store time.Duration) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b := &p.backlog
	if b.Encode == 0 {
		b.Encode, b.Store = encode, store
		return
	}
	b.Encode += (encode - b.Encode) / 8
	b.Store += (store - b.Store) / 8
}
