package archive

import (
	"fmt"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// flagPairs is what reader and format call the same.
var flagPairs = []struct {
	wal  wal.Flags
	repo repo.WALFlags
}{
	{wal.FlagStartsInRecord, repo.WALStartsInside},
	{wal.FlagEndsInRecord, repo.WALEndsInside},
	{wal.FlagOverwrites, repo.WALOverwritten},
	{wal.FlagPrevUnknown, repo.WALPrevUnknown},
	{wal.FlagFullPageWritesOff, repo.WALFullPagesOff},
}

// walFlags translates what the reader says into what the format has.
func walFlags(info *wal.Info) repo.WALFlags {
	var out repo.WALFlags
	for _, p := range flagPairs {
		if info.Flags&p.wal != 0 {
			out |= p.repo
		}
	}
	if info.Flags.BreaksChain() {
		out |= repo.WALChainBreak
	}
	if info.First == 0 {
		out |= repo.WALNoRecordStart
	}
	if info.Tail == wal.TailSwitch {
		out |= repo.WALSwitch
	}
	return out
}

// infoOf gives back what the reader said of a segment whose content was read.
// Which flag broke the chain is not kept.
func infoOf(h *repo.WALHeader) (wal.Info, error) {
	major, ok := wal.MajorOf(h.PageMagic)
	if !ok {
		return wal.Info{}, fmt.Errorf("segment %s is of no known PostgreSQL: its pages' magic number is %04X", h.Name(), h.PageMagic)
	}
	info := wal.Info{
		Major: major, SystemID: h.SystemID, SegmentSize: h.SegmentSize, BlockSize: int(h.BlockSize),
		Start: h.Start(), End: h.End, FirstTimeline: h.FirstTimeline, LastTimeline: h.LastTimeline,
		First: h.FirstRecord, FirstPrev: h.FirstPrev, Last: h.LastRecord, LastComplete: h.LastComplete, Tail: wal.TailFull,
	}
	switch {
	case h.Flags&repo.WALPartial != 0:
		info.Tail = wal.TailUntil
	case h.Flags&repo.WALSwitch != 0:
		info.Tail = wal.TailSwitch
	}
	for _, p := range flagPairs {
		if h.Flags&p.repo != 0 {
			info.Flags |= p.wal
		}
	}
	return info, nil
}

// wasRead reports whether the segment's content was read when it was archived.
func wasRead(h *repo.WALHeader) bool { return h.BlockSize != 0 }
