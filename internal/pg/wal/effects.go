package wal

import (
	"errors"
	"fmt"

	"github.com/pgtender/pgtender/internal/pg"
)

// Operations that change files, or what later WAL can be trusted for, beyond
// their block references (catalog/pg_control.h, catalog/storage_xlog.h,
// commands/dbcommands_xlog.h, access/xact.h).
const (
	xlogShutdownCheckpoint = 0x00
	xlogOnlineCheckpoint   = 0x10
	xlogSwitch             = 0x40
	xlogParameterChange    = 0x60
	xlogFPWChange          = 0x80
	xlogEndOfRecovery      = 0x90
	xlogFPIForHint         = 0xA0
	xlogFPI                = 0xB0
	xlogOverwriteContr     = 0xD0
	xlogCheckpointRedo     = 0xE0 // 17 and later

	smgrCreate       = 0x10
	smgrTruncate     = 0x20
	smgrTruncateHeap = 0x1
	smgrTruncateVM   = 0x2

	dbaseCreate = 0x00 // 15 and later: by file copy
	dbaseOp10   = 0x10 // 13, 14: drop; 15 and later: create by WAL
	dbaseDrop   = 0x20 // 15 and later

	xactCommit         = 0x00
	xactAbort          = 0x20
	xactCommitPrepared = 0x30
	xactAbortPrepared  = 0x40
	xactOpMask         = 0x70
	xactHasInfo        = 0x80
	xactHasDBInfo      = 1 << 0
	xactHasSubxacts    = 1 << 1
	xactHasRelations   = 1 << 2

	walLevelReplica = 1

	// heapPerVMPage is how many heap pages one visibility map page describes
	// (visibilitymap.c, HEAPBLOCKS_PER_PAGE, at the default block size).
	heapPerVMPage = (8192 - 24) * 4
)

// IsSwitch reports whether the record is an XLOG_SWITCH, after which the rest of
// the segment is unused.
func (r *Record) IsSwitch() bool { return r.Rmgr == rmXLOG && r.Info&infoOp == xlogSwitch }

// Checkpoint is what a checkpoint record says (catalog/pg_control.h, CheckPoint).
type Checkpoint struct {
	Redo     pg.LSN
	Timeline pg.Timeline
	Shutdown bool

	// NextXID is the next transaction number after the redo point, with the epoch
	// in the high half. 0: the record is too short to say.
	NextXID uint64

	// OldestActive is the oldest transaction number, with the epoch in the high
	// half, that was in progress before the redo point, prepared transactions
	// included; the next number of that time if there was none. 0: not known. A
	// shutdown checkpoint does not tell (CreateCheckPoint, xlog.c).
	OldestActive uint64
}

// Checkpoint gives the record's content if it is a checkpoint.
func (r *Record) Checkpoint() (Checkpoint, bool) {
	op := r.Info & infoOp
	if r.Rmgr != rmXLOG || op != xlogShutdownCheckpoint && op != xlogOnlineCheckpoint || len(r.Main) < 12 {
		return Checkpoint{}, false
	}
	c := Checkpoint{
		Redo:     pg.LSN(le.Uint64(r.Main)),
		Timeline: pg.Timeline(le.Uint32(r.Main[8:])),
		Shutdown: op == xlogShutdownCheckpoint,
	}
	if len(r.Main) >= 84 { // as in every version known
		c.NextXID = le.Uint64(r.Main[24:])
		if oldest := le.Uint32(r.Main[80:]); oldest != 0 {
			c.OldestActive = c.NextXID - uint64(uint32(c.NextXID)-oldest)
		}
	}
	return c, true
}

// overwrites judges whether the record is the one that must follow a record given
// up at aborted, 0 if that is not known (xl_overwrite_contrecord).
func (r *Record) overwrites(aborted pg.LSN) string {
	if r.Rmgr != rmXLOG || r.Info&infoOp != xlogOverwriteContr || len(r.Main) < 8 {
		return "it stands where an unfinished record was overwritten, but does not say so"
	}
	if named := pg.LSN(le.Uint64(r.Main)); aborted != 0 && named != aborted {
		return fmt.Sprintf("it overwrites the record at %s, but the unfinished one is at %s", named, aborted)
	}
	return ""
}

// errShort says that the main data ends too early.
var errShort = errors.New("main data is too short")

// body reads main data; after running out, every value is 0 and short is set.
type body struct {
	b     []byte
	short bool
}

func (d *body) skip(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.b, d.short = nil, true
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *body) uint32() uint32 {
	if v := d.skip(4); v != nil {
		return le.Uint32(v)
	}
	return 0
}

func (d *body) relation() Relation {
	if v := d.skip(12); v != nil {
		return parseRelation(v)
	}
	return Relation{}
}

// Record adds what the record changes to the map, and tells what it means for
// the map's completeness. The rules are those of PostgreSQL's walsummarizer.c.
// An error, a *CorruptError or [ErrCut], leaves the map unfit for use.
func (m *BlockMap) Record(r *Record) (Flags, error) {
	for i := range r.Blocks {
		if b := &r.Blocks[i]; b.Fork != FSM && b.Block != noBlock {
			m.fork(&b.Relation, b.Fork).add(b.Block)
		}
	}
	if r.Rmgr > rmDatabase {
		return r.unknownSpecial(), nil
	}
	d := body{b: r.Main}
	var flags Flags
	switch r.Rmgr {
	case rmXLOG:
		flags = r.settings(&d)
	case rmXact:
		m.xact(r, &d)
	case rmSmgr:
		flags = m.smgr(r, &d)
	case rmDatabase:
		flags = m.database(r, &d)
	default:
		flags = r.unknownSpecial()
	}
	if !d.short {
		return flags, nil
	}
	if len(r.Main) < r.mainLen {
		return flags, fmt.Errorf("read record at %s: %w", r.Start, ErrCut)
	}
	return flags, &CorruptError{At: r.Start, What: "record", Why: fmt.Sprintf("resource manager %d, info %02X: %v", r.Rmgr, r.Info, errShort)}
}

// unknownSpecial flags a record that says it changes files in a way of its own,
// and whose kind is not among those handled.
func (r *Record) unknownSpecial() Flags {
	if r.Info&infoSpecial != 0 {
		return FlagUnknownSpecial
	}
	return 0
}

// settings reads the records that tell how WAL is written.
func (r *Record) settings(d *body) Flags {
	level := uint32(walLevelReplica)
	flags := r.unknownSpecial()
	switch op := r.Info & infoOp; op {
	case xlogParameterChange:
		d.skip(20)
		level = d.uint32()
	case xlogFPWChange:
		if on := d.skip(1); on != nil && on[0] == 0 {
			flags |= FlagFullPageWritesOff
		}
	case xlogShutdownCheckpoint, xlogOnlineCheckpoint:
		d.skip(16)
		if on := d.skip(1); on != nil && on[0] == 0 {
			flags |= FlagFullPageWritesOff
		}
		if r.major >= 17 {
			d.skip(3)
			level = d.uint32()
		}
	case xlogCheckpointRedo:
		if r.major >= 17 {
			level = d.uint32()
		}
	case xlogEndOfRecovery:
		if r.major >= 17 {
			d.skip(16)
			level = d.uint32()
		}
	}
	if level < walLevelReplica && !d.short {
		flags |= FlagWALLevelMinimal
	}
	return flags
}

func (m *BlockMap) smgr(r *Record, d *body) Flags {
	switch r.Info & infoOp {
	case smgrCreate:
		rel, fork := d.relation(), Fork(d.uint32())
		switch {
		case d.short || fork == FSM:
		case fork > Init:
			return FlagUnknownSpecial
		default:
			m.Truncate(rel, fork, 0)
		}
	case smgrTruncate:
		block, rel, what := d.uint32(), d.relation(), d.uint32()
		if d.short {
			return 0
		}
		if what&smgrTruncateHeap != 0 {
			m.Truncate(rel, Main, block)
		}
		if what&smgrTruncateVM != 0 {
			pages := uint32((uint64(block) + heapPerVMPage - 1) / heapPerVMPage)
			m.Truncate(rel, VM, pages)
		}
	default:
		return r.unknownSpecial()
	}
	return 0
}

func (m *BlockMap) database(r *Record, d *body) Flags {
	op := r.Info & infoOp
	drop := op == dbaseOp10 && r.major < 15 || op == dbaseDrop && r.major >= 15
	switch {
	case drop:
		db, n := d.uint32(), d.uint32()
		for ; n > 0 && !d.short; n-- {
			if ts := d.uint32(); !d.short {
				m.MarkWhole(Database{Tablespace: ts, Database: db})
			}
		}
	case op == dbaseCreate || op == dbaseOp10:
		db, ts := d.uint32(), d.uint32()
		if !d.short {
			m.MarkWhole(Database{Tablespace: ts, Database: db})
		}
	default:
		return r.unknownSpecial()
	}
	return 0
}

// xact reads the relations that the end of a transaction drops (xactdesc.c,
// ParseCommitRecord). SPECIAL is set on these from 14 on only, so all are read.
func (m *BlockMap) xact(r *Record, d *body) {
	switch r.Info & xactOpMask {
	case xactCommit, xactAbort, xactCommitPrepared, xactAbortPrepared:
	default:
		return
	}
	d.skip(8) // time
	if r.Info&xactHasInfo == 0 {
		return
	}
	info := d.uint32()
	if info&xactHasDBInfo != 0 {
		d.skip(8)
	}
	if info&xactHasSubxacts != 0 {
		d.skip(4 * int(d.uint32()))
	}
	if info&xactHasRelations == 0 {
		return
	}
	for n := d.uint32(); n > 0 && !d.short; n-- {
		if rel := d.relation(); !d.short {
			m.Truncate(rel, Main, 0)
			m.Truncate(rel, VM, 0)
			m.Truncate(rel, Init, 0)
		}
	}
}
