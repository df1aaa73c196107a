package wal

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/pgtender/pgtender/internal/pg"
)

// RunCarry is what a run of segments leaves unfinished at its two ends, and all
// that a longer chain needs of the run besides the [Info] of each segment: with
// it, a chain that was proved once need not be proved again.
type RunCarry struct {
	// Heads is what the first segments hold of a record that starts before the
	// run, one for each of them, up to the segment in which it ends or was given
	// up. Empty: the run's first page begins with a record.
	Heads []*Head
	// Tail is the record that the run does not complete; nil: it ends with a
	// complete one. TailHeads is what segments behind the tail's hold of it.
	Tail      *Unfinished
	TailHeads []*Head
	// Started is the start of the last record that was not given up, Complete
	// that of the last complete one; 0: not known.
	Started, Complete pg.LSN
}

// Carry gives what the segments of the chain so far leave unfinished.
func (c *Chain) Carry() RunCarry {
	r := RunCarry{Heads: slices.Clone(c.before), Started: c.started, Complete: c.complete}
	if c.open != nil {
		r.Tail, r.TailHeads = c.open, slices.Clone(c.heads)
	}
	return r
}

// AddRun takes a run of segments that a chain of their own has proved. It is
// [Chain.Add] for each, except that records between segments of the run are
// completed already.
func (c *Chain) AddRun(infos []Info, run RunCarry) (Joint, error) {
	edge := max(1, len(run.Heads))
	if n := len(run.Heads); edge > len(infos) || n > 0 && n < len(infos) && run.Heads[n-1].goesOn() {
		return Joint{}, fmt.Errorf("follow WAL to a run of %d segments: its %d heads are not those of one record: %w", len(infos), n, ErrBroken)
	}
	var joint Joint
	for i := range edge {
		var carry Carry
		if i < len(run.Heads) {
			carry.Head = run.Heads[i]
		}
		j, err := c.Add(infos[i], carry)
		if err != nil {
			return Joint{}, err
		}
		if j != (Joint{}) {
			joint = j
		}
	}
	c.last = infos[len(infos)-1]
	if run.Tail != nil {
		c.open, c.heads = run.Tail, slices.Clone(run.TailHeads)
	}
	if run.Complete != 0 {
		c.complete = run.Complete
	}
	switch {
	case run.Started != 0:
		c.started = run.Started
	case slices.ContainsFunc(infos, func(i Info) bool { return i.Last != 0 }):
		c.started = c.complete // what started within the run was given up
	}
	return joint, nil
}

// Encoding of a RunCarry, with numbers and parts as in a [Carry]:
//
//	version (1), started, complete
//	number of heads; for each: 1 if it was overwritten, else 0; head
//	1 if there is a tail, else 0; tail; number of its heads; for each: head
const runVersion = 1

// maxHeads is more segments than the largest record fills.
const maxHeads = maxRecordLen>>20 + 2

// Encode gives the canonical form: equal carries have equal encodings. It has
// no checksum of its own.
func (r RunCarry) Encode() []byte {
	b := []byte{runVersion}
	b = binary.AppendUvarint(b, uint64(r.Started))
	b = binary.AppendUvarint(b, uint64(r.Complete))
	b = binary.AppendUvarint(b, uint64(len(r.Heads)))
	for _, h := range r.Heads {
		flag := byte(0)
		if h.Overwritten {
			flag = 1
		}
		b = h.append(append(b, flag))
	}
	if r.Tail == nil {
		return append(b, 0)
	}
	b = r.Tail.append(append(b, 1))
	b = binary.AppendUvarint(b, uint64(len(r.TailHeads)))
	for _, h := range r.TailHeads {
		b = h.append(b)
	}
	return b
}

// DecodeRunCarry is the inverse of [RunCarry.Encode]. What it accepts encodes
// to the same bytes again; all else is an [ErrCorrupt].
func DecodeRunCarry(b []byte) (RunCarry, error) {
	d := decoder{b: b}
	var r RunCarry
	if v := d.byte(); v != runVersion {
		d.fail("version is %d, not %d", v, runVersion)
	}
	r.Started = pg.LSN(d.uvarint(uint64(pg.MaxLSN)))
	r.Complete = pg.LSN(d.uvarint(uint64(pg.MaxLSN)))
	n := d.uvarint(maxHeads)
	for i := uint64(0); i < n && d.ok(); i++ {
		h := d.head(d.flag())
		if i > 0 {
			d.follows(r.Heads[i-1], h)
		}
		r.Heads = append(r.Heads, h)
	}
	if d.flag() {
		r.Tail = d.unfinished()
		left := r.Tail.Total - r.Tail.Length
		for n := d.uvarint(maxHeads); n > 0 && d.ok(); n-- {
			h := d.head(false)
			if h.Remaining != left || !h.goesOn() {
				d.fail("a tail of which %d bytes are to come goes on with %d of %d bytes", left, h.Length, h.Remaining)
			}
			left -= h.Length
			r.TailHeads = append(r.TailHeads, h)
		}
	}
	if err := d.end(); err != nil {
		return RunCarry{}, fmt.Errorf("decode WAL carry of a run: %w", err)
	}
	return r, nil
}

// flag reads a byte that is 0 or 1.
func (d *decoder) flag() bool {
	v := d.byte()
	if v > 1 {
		d.fail("flag is %d", v)
	}
	return v == 1
}

// follows checks that a head continues what the one before leaves to come.
func (d *decoder) follows(before, h *Head) {
	if !before.goesOn() || h.Remaining != before.Remaining-before.Length {
		d.fail("a head with %d bytes to come follows one with %d of %d", h.Remaining, before.Length, before.Remaining)
	}
}
