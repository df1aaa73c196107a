package wal_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// split gives the two parts of a record that lies across segments 5 and 6.
func split(t *testing.T, rmgr, info uint8, refs []ref, main []byte) (*wal.Unfinished, *wal.Head) {
	t.Helper()
	b := newBuilder(15, segStart)
	b.random(rand.New(rand.NewPCG(20, 1)), segmentEnd(1)-40000)
	b.record(10, 0, nil, make([]byte, int(segmentEnd(1)-b.at)-400-5*24)) // up to about the segment's end
	b.record(rmgr, info, refs, main)
	b.switchSegment()
	parts := inspectAll(t, b)
	if parts[0].Carry.Tail == nil || parts[1].Carry.Head == nil {
		t.Fatalf("the record does not lie across the segments: %+v", parts[0].Info)
	}
	return parts[0].Carry.Tail, parts[1].Carry.Head
}

func TestDamagedPartsDoNotCompleteARecord(t *testing.T) {
	rel := wal.Relation{Tablespace: 1663, Database: 5, Number: 16500}
	fresh := func() (*wal.Unfinished, *wal.Head) {
		return split(t, 10, 0, []ref{{rel: rel, block: 3, data: 3000}}, nil)
	}
	tail, head := fresh()
	if done, err := wal.Complete(tail, head); err != nil || len(done.Record.Blocks) != 1 {
		t.Fatalf("undamaged: %+v, %v", done, err)
	}
	for _, c := range []struct {
		name   string
		damage func(t *wal.Unfinished, h *wal.Head)
		want   error
	}{
		{"a bit of the tail's header", func(t *wal.Unfinished, h *wal.Head) { t.Bytes[5] ^= 1 }, wal.ErrCorrupt},
		{"the tail's CRC", func(t *wal.Unfinished, h *wal.Head) { t.CRC ^= 1 }, wal.ErrCorrupt},
		{"the head's CRC", func(t *wal.Unfinished, h *wal.Head) { h.CRC ^= 1 << 31 }, wal.ErrCorrupt},
		{"the tail's length", func(t *wal.Unfinished, h *wal.Head) { t.Length-- }, wal.ErrBroken},
		{"the head's length", func(t *wal.Unfinished, h *wal.Head) { h.Length-- }, wal.ErrBroken},
		{"bytes still to come", func(t *wal.Unfinished, h *wal.Head) { h.Remaining++ }, wal.ErrBroken},
		{"an overwritten head", func(t *wal.Unfinished, h *wal.Head) { h.Overwritten = true }, wal.ErrBroken},
		{"a header cut short", func(t *wal.Unfinished, h *wal.Head) { t.Bytes = t.Bytes[:20] }, wal.ErrCut},
		{"block headers cut short", func(t *wal.Unfinished, h *wal.Head) { t.Bytes = t.Bytes[:30] }, wal.ErrCut},
	} {
		t.Run(c.name, func(t *testing.T) {
			tail, head := fresh()
			c.damage(tail, head)
			if _, err := wal.Complete(tail, head); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

func TestACommitWhoseCarryIsCutIsNotGuessed(t *testing.T) {
	tail, head := split(t, 1, 0x80, nil, dropAll(500, 3000))
	full, err := wal.Complete(tail, head)
	if err != nil {
		t.Fatal(err)
	}
	enough := *head
	enough.Bytes = head.Bytes[:7000]
	if done, err := wal.Complete(tail, &enough); err != nil || !done.Map.Equal(full.Map) {
		t.Errorf("cut behind the relations: %v", err)
	}
	short := *head
	short.Bytes = head.Bytes[:4000]
	if _, err := wal.Complete(tail, &short); !errors.Is(err, wal.ErrCut) {
		t.Errorf("cut within the relations: error %v, want %v", err, wal.ErrCut)
	}
}

func TestAChainRefusesWhatDoesNotContinueIt(t *testing.T) {
	rng := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(21, n)) }
	parts := func(seed uint64) []*wal.Inspection {
		b := newBuilder(15, segStart)
		b.random(rng(seed), segmentEnd(3)-20000)
		b.switchSegment()
		return inspectAll(t, b)
	}
	one, two := parts(1), parts(2)
	for _, c := range []struct {
		name  string
		first *wal.Inspection
		next  func() wal.Inspection
		why   string
	}{
		{"a segment left out", one[0], func() wal.Inspection { return *one[2] }, "the segment before ends at"},
		{"the same segment again", one[0], func() wal.Inspection { return *one[0] }, "the segment before ends at"},
		{"another server's WAL", one[0], func() wal.Inspection { return *two[1] }, "WAL does not continue"},
		{"another system", one[0], func() wal.Inspection { p := *one[1]; p.Info.SystemID++; return p }, "system identifier"},
		{"another major", one[0], func() wal.Inspection { p := *one[1]; p.Info.Major++; return p }, "major"},
		{"a timeline that goes back", one[0], func() wal.Inspection { p := *one[1]; p.Info.FirstTimeline = 0; return p }, "timeline goes back"},
		{"a head that is missing", one[0], func() wal.Inspection { p := *one[1]; p.Carry.Head = nil; return p }, "does not continue the record"},
		{"a head for which there is no tail",
			func() *wal.Inspection { p := *one[0]; p.Carry.Tail = nil; return &p }(),
			func() wal.Inspection { return *one[1] }, "leaves none unfinished"},
		{"an unfilled segment before",
			func() *wal.Inspection { p := *one[0]; p.Info.Tail = wal.TailZero; return &p }(),
			func() wal.Inspection { return *one[1] }, "(zero)"},
		{"a first record that follows another", one[0], func() wal.Inspection { p := *one[1]; p.Info.FirstPrev -= 8; return p }, "its first record follows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ch wal.Chain
			if _, err := ch.Add(c.first.Info, c.first.Carry); err != nil {
				t.Fatal(err)
			}
			next := c.next()
			_, err := ch.Add(next.Info, next.Carry)
			if !errors.Is(err, wal.ErrBroken) && !errors.Is(err, wal.ErrCorrupt) || !strings.Contains(err.Error(), c.why) {
				t.Errorf("error %v, want one that says %q", err, c.why)
			}
		})
	}
}

func TestAChainMayStartWithinARecord(t *testing.T) {
	b := newBuilder(15, segStart)
	b.random(rand.New(rand.NewPCG(22, 1)), segStart+9000)
	b.record(rmLogical, 0, nil, make([]byte, 3<<20))
	b.random(rand.New(rand.NewPCG(22, 2)), b.at+9000)
	b.switchSegment()
	parts := inspectAll(t, b)
	_, joints := chain(t, parts[1:])
	for i, j := range joints {
		if j.Completed != nil || j.Overwritten != pg.LSN(0) {
			t.Errorf("segment %d brings %+v to an end, which starts before the chain", i, j)
		}
	}
	gap := parts[1].Carry
	gap.Head = nil
	var ch wal.Chain
	if _, err := ch.Add(parts[1].Info, parts[1].Carry); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.Add(parts[2].Info, gap); !errors.Is(err, wal.ErrBroken) {
		t.Errorf("a lost continuation: error %v", err)
	}
}

func FuzzDecodeCarry(f *testing.F) {
	f.Add(wal.Carry{}.Encode())
	f.Add(wal.Carry{
		Head: &wal.Head{Remaining: 500, Length: 3, CRC: 77, Bytes: []byte("abc"), Overwritten: true},
		Tail: &wal.Unfinished{Major: 17, Start: segStart, Total: 300, Length: 5, CRC: 9, Bytes: []byte("abcde")},
	}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := wal.DecodeCarry(b)
		if err != nil {
			if !errors.Is(err, wal.ErrCorrupt) {
				t.Fatalf("error %v is no %v", err, wal.ErrCorrupt)
			}
			return
		}
		if got := c.Encode(); string(got) != string(b) {
			t.Fatalf("%x was read, %x written", b, got)
		}
		if c.Tail != nil && c.Head != nil {
			wal.Complete(c.Tail, c.Head)
		}
	})
}
