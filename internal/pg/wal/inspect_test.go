package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

const segStart pg.LSN = 0x500000 // start of the test's first segment, number 5

func segmentEnd(n int) pg.LSN { return segStart + pg.LSN(n)*pg.LSN(testSegSize) }

func inspect(t *testing.T, segment []byte, expect wal.Expect) *wal.Inspection {
	t.Helper()
	in, err := wal.Inspect(segment, expect)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(segment))
	for way, read := range map[string]func() (*wal.Inspection, error){
		"an io.ReaderAt": func() (*wal.Inspection, error) { return wal.InspectFile(bytes.NewReader(segment), size, expect) },
		"pieces":         func() (*wal.Inspection, error) { return wal.InspectPieces(pieces(segment), size, expect) },
	} {
		other, err := read()
		if err != nil {
			t.Fatalf("read through %s: %v", way, err)
		}
		if diff := cmp.Diff(in.Info, other.Info); diff != "" || !in.Map.Equal(other.Map) ||
			!bytes.Equal(in.Carry.Encode(), other.Carry.Encode()) {
			t.Fatalf("read through %s the segment is another: %s", way, diff)
		}
	}
	return in
}

// inPieces gives 64 KiB at a time, or what is left, in memory that it uses again, and
// keeps what it hears.
type inPieces struct {
	segment, buf []byte
	given        int64 // up to here
	sound        []int64
	early        bool // a record was called sound before its end was given
}

func pieces(segment []byte) *inPieces { return &inPieces{segment: segment, buf: make([]byte, 64<<10)} }

func (p *inPieces) Piece(off int64) ([]byte, error) {
	b := p.buf[:copy(p.buf, p.segment[off:])]
	p.given = off + int64(len(b))
	return b, nil
}

func (p *inPieces) Sound(off int64) {
	p.sound = append(p.sound, off)
	p.early = p.early || off >= p.given
}

// inspectAll inspects every segment, and takes maps and carries through their
// encodings.
func inspectAll(t *testing.T, b *builder) []*wal.Inspection {
	t.Helper()
	var out []*wal.Inspection
	for _, n := range b.numbers() {
		in := inspect(t, b.segments[n], wal.Expect{
			SystemID: testSystem, SegmentSize: testSegSize, Segment: pg.Segment{Timeline: b.timeline, Number: n},
		})
		m, err := wal.DecodeBlockMap(in.Map.Encode())
		if err != nil {
			t.Fatal(err)
		}
		carry, err := wal.DecodeCarry(in.Carry.Encode())
		if err != nil {
			t.Fatal(err)
		}
		in.Map, in.Carry = m, carry
		out = append(out, in)
	}
	return out
}

// chain joins the segments and gives the union of all maps.
func chain(t *testing.T, parts []*wal.Inspection) (*wal.BlockMap, []wal.Joint) {
	t.Helper()
	var c wal.Chain
	var joints []wal.Joint
	all := new(wal.BlockMap)
	for _, p := range parts {
		joint, err := c.Add(p.Info, p.Carry)
		if err != nil {
			t.Fatal(err)
		}
		joints = append(joints, joint)
		if joint.Completed != nil {
			all.Merge(joint.Completed.Map)
		}
		all.Merge(p.Map)
	}
	if c.Open() {
		t.Fatal("the chain ends within a record")
	}
	return all, joints
}

func TestMapsAndCarriesTogetherHoldEveryReference(t *testing.T) {
	for major := wal.MinMajor; major <= wal.MaxMajor; major++ {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			b := newBuilder(major, segStart)
			b.random(rand.New(rand.NewPCG(1, uint64(major))), segmentEnd(4)-40000)
			b.switchSegment()
			parts := inspectAll(t, b)
			all, _ := chain(t, parts)
			if !all.Equal(b.all) {
				t.Error("the union of the maps is not what was written")
			}
			first, last := parts[0].Info, parts[len(parts)-1].Info
			want := wal.Info{
				Major: major, SystemID: testSystem, SegmentSize: testSegSize, BlockSize: testBlock,
				Start: segStart, End: segmentEnd(1), FirstTimeline: 1, LastTimeline: 1,
				First: segStart + 40, Last: first.Last, LastComplete: first.LastComplete,
				Tail: wal.TailFull, Flags: first.Flags,
			}
			if diff := cmp.Diff(want, first); diff != "" {
				t.Error(diff)
			}
			n := len(b.records) - 1
			if last.Tail != wal.TailSwitch || last.End != b.records[n].End || last.Last != b.records[n].Start {
				t.Errorf("last segment ends %s at %s, the switch ends at %s", last.Tail, last.End, b.records[n].End)
			}
		})
	}
}

func TestARecordIsCompletedWhereverTheSegmentCutsIt(t *testing.T) {
	rel := wal.Relation{Tablespace: 1663, Database: 5, Number: 16500}
	refs := []ref{
		{rel: rel, block: 7, image: 300, data: 20}, {rel: rel, fork: wal.VM, block: 8},
		{rel: wal.Relation{Tablespace: 1664, Number: 99}, block: 9, data: 5},
	}
	length := len(newBuilder(18, segStart).encode(10, 0, refs, make([]byte, 30)))
	for have := 8; have < length; have += 8 + have/64*40 {
		b := newBuilder(18, segStart)
		b.random(rand.New(rand.NewPCG(2, 2)), segStart+0xE0000)
		fill := int(segmentEnd(1)-b.at) - have
		// What a record takes up between here and the cut, pages' headers left out.
		pages := int((segmentEnd(1) - 1 - b.at) / testBlock)
		b.record(10, 0, nil, make([]byte, fill-pages*24-24-5))
		if got := int(segmentEnd(1) - b.at); got != have {
			t.Fatalf("the record starts %d bytes before the segment's end, not %d", got, have)
		}
		start := b.record(10, 0, refs, make([]byte, 30))
		b.random(rand.New(rand.NewPCG(3, 3)), segmentEnd(1)+0x8000)
		b.switchSegment()
		parts := inspectAll(t, b)
		all, joints := chain(t, parts)
		done := joints[1].Completed
		if done == nil || done.Record.Start != start || len(done.Record.Blocks) != 3 || !all.Equal(b.all) {
			t.Fatalf("cut after %d bytes: completed %+v", have, done)
		}
		if unknown := parts[0].Info.Flags&wal.FlagPrevUnknown != 0; unknown {
			t.Errorf("cut after %d bytes: the first record's link is said to be unknown", have)
		}
	}
}

func TestARecordMayFillWholeSegments(t *testing.T) {
	b := newBuilder(16, segStart)
	b.random(rand.New(rand.NewPCG(4, 4)), segStart+9000)
	rel := wal.Relation{Tablespace: 1663, Database: 5, Number: 16500}
	start := b.record(rmLogical, 0, []ref{{rel: rel, block: 3}}, make([]byte, 3<<20))
	b.random(rand.New(rand.NewPCG(5, 5)), b.at+9000)
	b.switchSegment()
	parts := inspectAll(t, b)
	all, joints := chain(t, parts)
	if len(parts) != 4 || parts[1].Info.Flags != wal.FlagStartsInRecord|wal.FlagAllContinuation || parts[1].Info.First != 0 {
		t.Fatalf("%d segments, the second is %+v", len(parts), parts[1].Info)
	}
	if done := joints[3].Completed; done == nil || done.Record.Start != start || !all.Equal(b.all) {
		t.Fatalf("completed %+v", done)
	}
}

const rmLogical = 21

// dropAll is the main data of a commit that drops n relations, and then says so
// much of no interest.
func dropAll(n, rest int) []byte {
	b := make([]byte, 8)
	b = le.AppendUint32(b, 0x2|0x4)
	b = le.AppendUint32(b, 3) // subtransactions
	b = append(b, make([]byte, 12)...)
	b = le.AppendUint32(b, uint32(n))
	for i := range n {
		b = le.AppendUint32(b, 1663)
		b = le.AppendUint32(b, 5)
		b = le.AppendUint32(b, uint32(20000+i))
	}
	return append(b, make([]byte, rest)...)
}

func TestACommitThatDropsRelationsIsCompletedFromCarries(t *testing.T) {
	for _, c := range []struct {
		name       string
		drop, rest int
	}{
		{"few", 100, 60000},
		{"as many as fill a segment, and much that is of no interest", 80000, 2 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(14, segStart)
			b.random(rand.New(rand.NewPCG(6, 6)), segmentEnd(1)-40000)
			b.record(1, 0x80, nil, dropAll(c.drop, c.rest))
			b.switchSegment()
			_, joints := chain(t, inspectAll(t, b))
			var done *wal.Completed
			for _, j := range joints {
				if j.Completed != nil {
					done = j.Completed
				}
			}
			for _, n := range []int{0, c.drop - 1} {
				rel := wal.Relation{Tablespace: 1663, Database: 5, Number: uint32(20000 + n)}
				if !done.Map.Changed(rel, wal.Main, 0) {
					t.Errorf("relation %s was dropped, its blocks count as unchanged", rel)
				}
			}
		})
	}
}

func TestAnOverwrittenRecordIsDropped(t *testing.T) {
	for _, c := range []struct {
		name string
		at   pg.LSN // where the record that is given up starts, about
	}{
		{"within a segment", segStart + 0x80000},
		{"at a segment's end", segmentEnd(1) - 3000},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(15, segStart)
			b.random(rand.New(rand.NewPCG(7, 7)), c.at)
			aborted := b.abort(50000)
			b.random(rand.New(rand.NewPCG(8, 8)), segmentEnd(2)-30000)
			b.switchSegment()
			parts := inspectAll(t, b)
			all, joints := chain(t, parts)
			if !all.Equal(b.all) {
				t.Error("the maps are not what was written")
			}
			over := wal.FlagOverwrites
			if testSegSize.SegmentOf(aborted) == testSegSize.SegmentBefore(c.at) && aborted < segmentEnd(1)-8192 {
				if parts[0].Info.Flags&over == 0 {
					t.Error("the segment is not flagged")
				}
				return
			}
			if parts[1].Info.Flags&over == 0 || joints[1].Overwritten != aborted {
				t.Errorf("flags %s, joint %+v", parts[1].Info.Flags, joints[1])
			}
		})
	}
}

func TestAnUnfilledSegmentIsToldFromADamagedOne(t *testing.T) {
	old := newBuilder(15, segStart-2*pg.LSN(testSegSize))
	old.random(rand.New(rand.NewPCG(9, 9)), segStart-pg.LSN(testSegSize)+1)
	recycled := old.segments[testSegSize.SegmentOf(segStart)-2]

	later := newBuilder(15, segStart+2*pg.LSN(testSegSize))
	later.random(rand.New(rand.NewPCG(9, 10)), segStart+3*pg.LSN(testSegSize)+1)
	orphan := later.segments[testSegSize.SegmentOf(segStart)+2]

	b := newBuilder(15, segStart)
	b.random(rand.New(rand.NewPCG(10, 10)), segStart+0x80000)
	b.record(10, 0, nil, make([]byte, 20000)) // the last one spans pages
	filled := b.segments[5]
	end := int(b.at - segStart)
	pageEnd := (end + testBlock - 1) / testBlock * testBlock
	last := b.records[len(b.records)-1]
	lastPage := int(last.Start-segStart)/testBlock*testBlock + testBlock

	build := func(f func(s []byte)) []byte {
		s := bytes.Clone(filled)
		f(s)
		return s
	}
	for _, c := range []struct {
		name    string
		segment []byte
		expect  wal.Expect
		tail    wal.Tail
		end     pg.LSN
		corrupt string
	}{
		{name: "zeros follow", segment: filled, tail: wal.TailZero, end: b.at},
		{name: "a recycled segment follows", tail: wal.TailStale, end: b.at,
			segment: build(func(s []byte) { copy(s[pageEnd:], recycled[pageEnd:]) })},
		{name: "a segment of the old timeline past the fork follows, recycled", tail: wal.TailStale, end: b.at,
			segment: build(func(s []byte) { copy(s[pageEnd:], orphan[pageEnd:]) })},
		{name: "a page of another place follows", corrupt: "length is 0",
			segment: build(func(s []byte) { copy(s[pageEnd:], orphan[pageEnd+testBlock:]) })},
		{name: "a recycled segment follows within the page", corrupt: "record at ",
			segment: build(func(s []byte) { copy(s[end:], recycled[end:]) })},
		{name: "a recycled segment follows within the page of an unfinished segment", expect: wal.Expect{Unfinished: true},
			tail: wal.TailTorn, end: b.at, segment: build(func(s []byte) { copy(s[end:], recycled[end:]) })},
		{name: "the timeline ends, whatever follows", expect: wal.Expect{Until: b.at}, tail: wal.TailUntil, end: b.at,
			segment: build(func(s []byte) { copy(s[end:], bytes.Repeat([]byte{0xA5}, len(s)-end)) })},
		{name: "a record goes on past the timeline's end", expect: wal.Expect{Until: b.at - 8}, segment: filled, corrupt: "where its timeline ends"},
		{name: "the last record breaks off at a page", segment: build(func(s []byte) { clear(s[lastPage:]) }), corrupt: "breaks off"},
		{name: "the last record of an unfinished segment breaks off", segment: build(func(s []byte) { clear(s[lastPage:]) }),
			expect: wal.Expect{Unfinished: true}, tail: wal.TailTorn, end: last.Start},
		{name: "a page in the middle is lost", segment: build(func(s []byte) { clear(s[0x40000:0x42000]) }), corrupt: "0/540000"},
		{name: "a page in the middle of an unfinished segment is lost", segment: build(func(s []byte) { clear(s[0x40000:0x42000]) }),
			expect: wal.Expect{Unfinished: true}, corrupt: "0/540000"},
		{name: "something stands after the zeros", segment: build(func(s []byte) { s[len(s)-1] = 1 }), corrupt: "length is 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.corrupt != "" {
				_, err := wal.Inspect(c.segment, c.expect)
				var bad *wal.CorruptError
				if !errors.As(err, &bad) || !errors.Is(err, wal.ErrCorrupt) || !strings.Contains(err.Error(), c.corrupt) {
					t.Fatalf("error %v, want corruption naming %q", err, c.corrupt)
				}
				return
			}
			in := inspect(t, c.segment, c.expect)
			if in.Info.Tail != c.tail || in.Info.End != c.end || in.Info.Complete() || in.Carry.Tail != nil {
				t.Errorf("tail %s at %s, want %s at %s (%s)", in.Info.Tail, in.Info.End, c.tail, c.end, in.Info.Remark)
			}
		})
	}
}

func TestAnotherSegmentThanExpectedIsForeign(t *testing.T) {
	b := newBuilder(15, segStart)
	b.timeline = 3
	b.random(rand.New(rand.NewPCG(11, 11)), segStart+9000)
	b.switchSegment()
	for _, c := range []struct {
		name   string
		expect wal.Expect
		want   error
	}{
		{"the right one", wal.Expect{SystemID: testSystem, SegmentSize: testSegSize, Segment: pg.Segment{Timeline: 3, Number: 5}}, nil},
		{"a later timeline's name", wal.Expect{Segment: pg.Segment{Timeline: 4, Number: 5}}, nil},
		{"another system", wal.Expect{SystemID: 1}, wal.ErrForeign},
		{"another segment size", wal.Expect{SegmentSize: 1 << 24}, wal.ErrForeign},
		{"another number", wal.Expect{Segment: pg.Segment{Timeline: 3, Number: 6}}, wal.ErrForeign},
		{"an earlier timeline's name", wal.Expect{Segment: pg.Segment{Timeline: 2, Number: 5}}, wal.ErrForeign},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := wal.Inspect(b.segments[5], c.expect); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

func TestEveryFlippedBitInARecordOrPageHeaderIsFound(t *testing.T) {
	b := newBuilder(17, segStart)
	rng := rand.New(rand.NewPCG(12, 12))
	b.random(rng, segmentEnd(1)+100)
	segment := b.segments[5]
	whole := inspect(t, segment, wal.Expect{})
	// Bytes that mean nothing, or are only judged by neighbours: padding after
	// records and in page headers, a page's timeline and its flag for removable
	// blocks; and what the next segment must complete.
	free := make([]bool, len(segment))
	for i := range free {
		if p := i % testBlock; p >= 20 && p < 24 || p == 2 || p >= 4 && p < 8 {
			free[i] = true
		}
	}
	for _, r := range b.records {
		for p := r.End - 7; r.End <= segmentEnd(1) && p < r.End; p++ {
			free[p-segStart] = true
		}
	}
	for i := int(whole.Info.LastComplete-segStart) + 24; i < len(free); i++ {
		free[i] = true
	}
	flips := 0
	for flips < 300 {
		i, bit := rng.IntN(len(segment)), rng.IntN(8)
		if free[i] {
			continue
		}
		flips++
		segment[i] ^= 1 << bit
		if _, err := wal.Inspect(segment, wal.Expect{SystemID: testSystem}); !errors.Is(err, wal.ErrCorrupt) && !errors.Is(err, wal.ErrForeign) {
			t.Errorf("bit %d of byte %#x flipped: error %v", bit, i, err)
		}
		segment[i] ^= 1 << bit
	}
}
