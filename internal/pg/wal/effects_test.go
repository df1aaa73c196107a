package wal_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// words gives numbers as 4 bytes each.
func words(v ...uint32) []byte {
	var b []byte
	for _, w := range v {
		b = le.AppendUint32(b, w)
	}
	return b
}

func TestRecordsThatChangeFilesWithoutReferences(t *testing.T) {
	const xlog, xact, smgr, dbase, custom = 0, 1, 2, 4, 130
	commit := func(info uint32, rest ...uint32) []byte { return append(words(1, 2, info), words(rest...)...) }
	dropped := []string{"1663 5 77 0 t 0", "1663 5 77 2 t 0", "1663 5 77 3 t 0"}
	parameters := func(level uint32) []byte { return append(words(100, 8, 10, 0, 64, level), 0, 0) }
	checkpoint := func(fpw byte, level uint32) []byte {
		return append(append(words(8, 0, 1, 1), fpw, 0, 0, 0), words(level, 0, 0)...)
	}
	for _, c := range []struct {
		name       string
		major      int
		rmgr, info uint8
		main       []byte
		want       []string
		flags      wal.Flags
	}{
		{"a main fork is created", 13, smgr, 0x10, words(1663, 5, 77, 0), []string{"1663 5 77 0 t 0"}, 0},
		{"an init fork is created", 18, smgr, 0x11, words(1663, 5, 77, 3), []string{"1663 5 77 3 t 0"}, 0},
		{"a free space map is created", 18, smgr, 0x11, words(1663, 5, 77, 1), nil, 0},
		{"a fork that does not exist is created", 18, smgr, 0x11, words(1663, 5, 77, 9), nil, wal.FlagUnknownSpecial},
		{"heap and visibility map are truncated", 15, smgr, 0x21, words(40000, 1663, 5, 77, 7), []string{"1663 5 77 0 t 40000", "1663 5 77 2 t 2"}, 0},
		{"a visibility map is truncated at a page's end", 15, smgr, 0x21, words(32672, 1663, 5, 77, 2), []string{"1663 5 77 2 t 1"}, 0},
		{"a free space map is truncated", 15, smgr, 0x21, words(9, 1663, 5, 77, 4), nil, 0},
		{"a commit drops a relation", 13, xact, 0x80, commit(0x4, 1, 1663, 5, 77), dropped, 0},
		{"an abort drops one, after database and subtransactions", 14, xact, 0x20 | 0x81, commit(0x7, 5, 1663, 2, 900, 901, 1, 1663, 5, 77), dropped, 0},
		{"a prepared commit drops one", 16, xact, 0x30 | 0x81, commit(0x14, 1, 1663, 5, 77, 900), dropped, 0},
		{"a prepared abort drops one", 18, xact, 0x40 | 0x81, commit(0x14, 1, 1663, 5, 77, 900), dropped, 0},
		{"a commit drops nothing", 15, xact, 0x80, commit(0x2, 1, 900), nil, 0},
		{"a commit says nothing", 15, xact, 0x00, words(1, 2), nil, 0},
		{"a transaction is prepared", 15, xact, 0x10, words(1), nil, 0},
		{"a database is created, by copy", 14, dbase, 0x01, words(5, 1663, 1, 1663), []string{"1663 5 0 0 t 0"}, 0},
		{"a database is dropped, before 15", 14, dbase, 0x11, words(5, 2, 1663, 1700), []string{"1663 5 0 0 t 0", "1700 5 0 0 t 0"}, 0},
		{"a database is created through WAL, from 15 on", 15, dbase, 0x11, words(5, 1663), []string{"1663 5 0 0 t 0"}, 0},
		{"a database is dropped, from 15 on", 15, dbase, 0x21, words(5, 2, 1663, 1700), []string{"1663 5 0 0 t 0", "1700 5 0 0 t 0"}, 0},
		{"an operation on databases that 14 does not have", 14, dbase, 0x21, words(5, 0), nil, wal.FlagUnknownSpecial},
		{"an unknown operation on storage", 18, smgr, 0x31, words(1), nil, wal.FlagUnknownSpecial},
		{"an extension changes files in its own way", 15, custom, 0x01, nil, nil, wal.FlagUnknownSpecial},
		{"an extension changes nothing but blocks", 15, custom, 0x00, nil, nil, 0},
		{"wal_level goes to minimal", 13, xlog, 0x60, parameters(0), nil, wal.FlagWALLevelMinimal},
		{"wal_level goes to replica", 13, xlog, 0x60, parameters(1), nil, 0},
		{"full_page_writes goes off", 15, xlog, 0x80, []byte{0}, nil, wal.FlagFullPageWritesOff},
		{"full_page_writes goes on", 15, xlog, 0x80, []byte{1}, nil, 0},
		{"a checkpoint under minimal, which 16 does not say", 16, xlog, 0x10, checkpoint(1, 0), nil, 0},
		{"a checkpoint under minimal", 17, xlog, 0x00, checkpoint(1, 0), nil, wal.FlagWALLevelMinimal},
		{"a checkpoint without full_page_writes", 18, xlog, 0x10, checkpoint(0, 2), nil, wal.FlagFullPageWritesOff},
		{"a checkpoint begins under minimal", 17, xlog, 0xE0, words(0), nil, wal.FlagWALLevelMinimal},
		{"recovery ends under minimal", 18, xlog, 0x90, words(1, 2, 2, 1, 0), nil, wal.FlagWALLevelMinimal},
		{"recovery ends, before 17", 16, xlog, 0x90, words(1, 2, 2, 1), nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(c.major, segStart)
			b.record(c.rmgr, c.info, nil, c.main)
			in := inspect(t, b.segments[5], wal.Expect{})
			if diff := cmp.Diff(c.want, contents(in.Map)); diff != "" {
				t.Error(diff)
			}
			if in.Info.Flags != c.flags {
				t.Errorf("flags %q, want %q", in.Info.Flags, c.flags)
			}
			if breaks := c.flags&(wal.FlagUnknownSpecial|wal.FlagWALLevelMinimal) != 0; in.Info.Flags.BreaksChain() != breaks {
				t.Errorf("breaks the chain: %v", !breaks)
			}
		})
	}
	for _, c := range []struct {
		name       string
		rmgr, info uint8
		main       []byte
	}{
		{"storage", smgr, 0x10, words(1663, 5)},
		{"a truncation", smgr, 0x20, words(1, 1663, 5)},
		{"a database", dbase, 0x00, words(5)},
		{"fewer tablespaces than said", dbase, 0x20, words(5, 3, 1663)},
		{"fewer relations than said", xact, 0x80, commit(0x4, 2, 1663, 5, 77)},
		{"a setting", xlog, 0x60, words(100)},
	} {
		t.Run("too little is said about "+c.name, func(t *testing.T) {
			b := newBuilder(15, segStart)
			b.record(c.rmgr, c.info, nil, c.main)
			if _, err := wal.Inspect(b.segments[5], wal.Expect{}); !errors.Is(err, wal.ErrCorrupt) {
				t.Errorf("error %v, want %v", err, wal.ErrCorrupt)
			}
		})
	}
}

func TestACheckpointRecordTellsItsRedo(t *testing.T) {
	b := newBuilder(15, segStart)
	b.record(0, 0x00, nil, append(words(0x28, 5, 3, 3, 1), make([]byte, 60)...))
	b.record(10, 0x00, nil, make([]byte, 80))
	r := wal.NewReader(&source{segments: b.segments, timeline: 1}, segStart, wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: testSegSize})
	rec, err := r.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, ok := rec.Checkpoint()
	want := wal.Checkpoint{Redo: 5<<32 | 0x28, Timeline: 3, Shutdown: true}
	if diff := cmp.Diff(want, got); diff != "" || !ok {
		t.Error(diff, ok)
	}
	if rec, err = r.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := rec.Checkpoint(); ok {
		t.Error("a heap record is taken for a checkpoint")
	}
}

func TestACheckpointRecordTellsWhatWasInProgress(t *testing.T) {
	for name, tt := range map[string]struct {
		next   uint64
		oldest uint32
		want   uint64
	}{
		"one transaction is in progress":      {3<<32 | 900, 880, 3<<32 | 880},
		"none is":                             {3<<32 | 900, 900, 3<<32 | 900},
		"one is from before the epoch":        {3<<32 | 10, 0xFFFFFFF0, 2<<32 | 0xFFFFFFF0},
		"a shutdown checkpoint does not tell": {3<<32 | 900, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			main := make([]byte, 88) // CheckPoint: nextXid at 24, oldestActiveXid at 80
			binary.LittleEndian.PutUint64(main[24:], tt.next)
			binary.LittleEndian.PutUint32(main[80:], tt.oldest)
			rec := wal.Record{Info: 0x10, Main: main}
			if c, ok := rec.Checkpoint(); !ok || c.NextXID != tt.next || c.OldestActive != tt.want {
				t.Errorf("next %x, oldest %x, want %x", c.NextXID, c.OldestActive, tt.want)
			}
		})
	}
}

func TestAnEncodingThatWasNotWrittenHereIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		b    []byte
	}{
		{"nothing", nil},
		{"another version", []byte{2, 0, 0}},
		{"bytes left over", []byte{1, 0, 0, 0}},
		{"a number not in its shortest form", []byte{1, 0x80, 0, 0}},
		{"a database twice", []byte{1, 2, 5, 6, 0, 0, 0}},
		{"a fork with neither limit nor block", []byte{1, 0, 1, 5, 6, 7, 0, 0, 0}},
		{"a fork that does not exist", []byte{1, 0, 1, 5, 6, 7, 4, 1, 0}},
		{"a block at the limit", []byte{1, 0, 1, 5, 6, 7, 0, 4, 1, 0, 0, 3}},
		{"fewer blocks than said", []byte{1, 0, 1, 5, 6, 7, 0, 0, 1, 0, 4, 3}},
		{"many forks in few bytes", []byte{1, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F}},
		{"a bitmap where a list is shorter", append([]byte{1, 0, 1, 5, 6, 7, 0, 0, 1, 0, 1, 8}, make([]byte, 8191)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := wal.DecodeBlockMap(c.b); !errors.Is(err, wal.ErrCorrupt) {
				t.Errorf("error %v, want %v", err, wal.ErrCorrupt)
			}
		})
	}
	if _, err := wal.DecodeBlockMap([]byte{1, 0, 1, 5, 6, 7, 0, 4, 1, 0, 0, 2}); err != nil {
		t.Errorf("a block before the limit: %v", err)
	}
}
