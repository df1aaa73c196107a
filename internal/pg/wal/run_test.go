package wal_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// TestRunsJoinLikeTheirSegments: however a log is divided into runs, and the
// runs encoded and joined, the changes are those of the whole, and the runs'
// own carry is that of the whole.
func TestRunsJoinLikeTheirSegments(t *testing.T) {
	b := newBuilder(17, segStart)
	rng := rand.New(rand.NewPCG(30, 1))
	b.random(rng, segmentEnd(2)-20000)
	b.record(rmLogical, 0, nil, make([]byte, 3<<20)) // over whole segments
	b.random(rng, segmentEnd(7)-20000)
	b.record(rmLogical, 0, nil, make([]byte, 30000))
	b.random(rng, segmentEnd(9)-9000)
	b.switchSegment()
	parts := inspectAll(t, b)
	want, _ := chain(t, parts)
	_, _, whole := run(t, parts)
	rounds := 300
	if testing.Short() {
		rounds = 25
	}
	for range rounds {
		var c wal.Chain
		got := new(wal.BlockMap)
		for rest := parts; len(rest) > 0; {
			n := 1 + rng.IntN(len(rest))
			infos, m, carry := run(t, rest[:n])
			joint, err := c.AddRun(infos, carry)
			if err != nil {
				t.Fatal(err)
			}
			if joint.Completed != nil {
				got.Merge(joint.Completed.Map)
			}
			got.Merge(m)
			rest = rest[n:]
		}
		if !got.Equal(want) || c.Open() {
			t.Fatal("the union of the runs is not the whole")
		}
		if string(whole.Encode()) != string(c.Carry().Encode()) {
			t.Fatal("the carry of joined runs is not that of the whole")
		}
	}
}

// run chains segments by themselves, and takes their carry through its encoding.
func run(t *testing.T, parts []*wal.Inspection) ([]wal.Info, *wal.BlockMap, wal.RunCarry) {
	t.Helper()
	var c wal.Chain
	var infos []wal.Info
	m := new(wal.BlockMap)
	for _, p := range parts {
		joint, err := c.Add(p.Info, p.Carry)
		if err != nil {
			t.Fatal(err)
		}
		if joint.Completed != nil {
			m.Merge(joint.Completed.Map)
		}
		m.Merge(p.Map)
		infos = append(infos, p.Info)
	}
	carry, err := wal.DecodeRunCarry(c.Carry().Encode())
	if err != nil {
		t.Fatal(err)
	}
	if at, open := c.OpenAt(); open != (carry.Tail != nil) || open && at != carry.Tail.Start {
		t.Fatalf("open at %s: %v", at, open)
	}
	return infos, m, carry
}

func TestARunKnowsOfAnOverwrittenRecord(t *testing.T) {
	b := newBuilder(17, segStart)
	rng := rand.New(rand.NewPCG(31, 1))
	b.random(rng, segmentEnd(1)-9000)
	b.record(10, 0, nil, make([]byte, int(segmentEnd(1)-b.at)-2000))
	aborted := b.abort(50000)
	b.random(rng, segmentEnd(3)-9000)
	b.switchSegment()
	parts := inspectAll(t, b)
	want, _ := chain(t, parts)
	for cut := 1; cut < len(parts); cut++ {
		var c wal.Chain
		got, over := new(wal.BlockMap), pg.LSN(0)
		for _, p := range [][]*wal.Inspection{parts[:cut], parts[cut:]} {
			infos, m, carry := run(t, p)
			joint, err := c.AddRun(infos, carry)
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			over = max(over, joint.Overwritten)
			got.Merge(m)
			if joint.Completed != nil {
				got.Merge(joint.Completed.Map)
			}
		}
		if !got.Equal(want) || cut == 1 && over != aborted {
			t.Errorf("cut at %d: record at %s was given up, said of %s", cut, aborted, over)
		}
	}
}

func TestAChainRefusesARunThatDoesNotContinueIt(t *testing.T) {
	b := newBuilder(15, segStart)
	b.random(rand.New(rand.NewPCG(32, 1)), segmentEnd(6)-20000)
	b.switchSegment()
	parts := inspectAll(t, b)
	for _, c := range []struct {
		name   string
		from   int
		change func(infos []wal.Info, r *wal.RunCarry)
	}{
		{"a segment is left out", 3, func([]wal.Info, *wal.RunCarry) {}},
		{"the head is missing", 2, func(_ []wal.Info, r *wal.RunCarry) { r.Heads = nil }},
		{"another record is to come", 2, func(_ []wal.Info, r *wal.RunCarry) { h := *r.Heads[0]; h.Remaining++; r.Heads[0] = &h }},
		{"the first record follows another", 2, func(infos []wal.Info, _ *wal.RunCarry) { infos[0].FirstPrev -= 8 }},
		{"more heads than segments", 2, func(infos []wal.Info, r *wal.RunCarry) {
			for range infos {
				r.Heads = append(r.Heads, r.Heads[0])
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ch wal.Chain
			infos, _, carry := run(t, parts[:2])
			if _, err := ch.AddRun(infos, carry); err != nil {
				t.Fatal(err)
			}
			infos, _, carry = run(t, parts[c.from:5])
			c.change(infos, &carry)
			if _, err := ch.AddRun(infos, carry); !errors.Is(err, wal.ErrBroken) && !errors.Is(err, wal.ErrCorrupt) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func FuzzDecodeRunCarry(f *testing.F) {
	f.Add(wal.RunCarry{}.Encode())
	f.Add(wal.RunCarry{
		Heads: []*wal.Head{
			{Remaining: 500, Length: 400, CRC: 77, Bytes: []byte("abc")},
			{Remaining: 100, Length: 3, CRC: 77, Bytes: []byte("abc"), Overwritten: true},
		},
		Tail:      &wal.Unfinished{Major: 17, Start: segStart, Total: 300, Length: 5, CRC: 9, Bytes: []byte("abcde")},
		TailHeads: []*wal.Head{{Remaining: 295, Length: 200, CRC: 1, Bytes: []byte("ab")}},
		Started:   segStart, Complete: segStart - 80,
	}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := wal.DecodeRunCarry(b)
		if err != nil {
			if !errors.Is(err, wal.ErrCorrupt) {
				t.Fatalf("error %v is no %v", err, wal.ErrCorrupt)
			}
			return
		}
		if got := r.Encode(); string(got) != string(b) {
			t.Fatalf("%x was read, %x written", b, got)
		}
	})
}
