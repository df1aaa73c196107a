package wal

import (
	"bytes"
	"time"
)

// Parts of an xl_xact_commit or xl_xact_abort that follow one another if their
// bit is set (access/xact.h).
const (
	xactHasInvals       = 1 << 3
	xactHasTwoPhase     = 1 << 4
	xactHasDroppedStats = 1 << 8 // 15 and later

	invalidationLen = 16 // SharedInvalidationMessage
	statsItemLen    = 12 // xl_xact_stats_item
	statsItemLen18  = 16
)

// TransactionEnd is what the record that ends a transaction says.
type TransactionEnd struct {
	// XID is the transaction's; of a prepared one that of the transaction
	// which is committed or rolled back. 0 if the record's bytes do not reach
	// as far as there.
	XID    uint32
	Commit bool
	Time   time.Time
}

// TransactionEnd gives the record's content if it commits or aborts a
// transaction: recovery can stop before and after such records
// (recoveryStopsBefore, xlogrecovery.c).
func (r *Record) TransactionEnd() (TransactionEnd, bool) {
	if r.Rmgr != rmXact || len(r.Main) < 8 {
		return TransactionEnd{}, false
	}
	op := r.Info & xactOpMask
	e := TransactionEnd{XID: r.XID, Time: timestamp(le.Uint64(r.Main))}
	switch op {
	case xactCommit, xactCommitPrepared:
		e.Commit = true
	case xactAbort, xactAbortPrepared:
	default:
		return TransactionEnd{}, false
	}
	if op == xactCommitPrepared || op == xactAbortPrepared {
		e.XID = r.preparedXID(e.Commit)
	}
	return e, true
}

// preparedXID reads the transaction's own XID from the end of a prepared
// transaction (ParseCommitRecord, ParseAbortRecord: xactdesc.c).
func (r *Record) preparedXID(commit bool) uint32 {
	d := body{b: r.Main[8:]}
	if r.Info&xactHasInfo == 0 {
		return 0
	}
	info := d.uint32()
	skip := func(bit uint32, length int) {
		if info&bit != 0 && !d.short {
			d.skip(int(d.uint32()) * length)
		}
	}
	if info&xactHasDBInfo != 0 {
		d.skip(8)
	}
	skip(xactHasSubxacts, 4)
	skip(xactHasRelations, 12)
	if r.major >= 18 {
		skip(xactHasDroppedStats, statsItemLen18)
	} else if r.major >= 15 {
		skip(xactHasDroppedStats, statsItemLen)
	}
	if commit {
		skip(xactHasInvals, invalidationLen)
	}
	if info&xactHasTwoPhase == 0 {
		return 0
	}
	return d.uint32()
}

// RestorePoint is what pg_create_restore_point wrote.
type RestorePoint struct {
	Name string
	Time time.Time
}

// restorePointName is the length of xl_restore_point's rp_name (MAXFNAMELEN).
const restorePointName = 64

// RestorePoint gives the record's content if it is a restore point.
func (r *Record) RestorePoint() (RestorePoint, bool) {
	if r.Rmgr != rmXLOG || r.Info&infoOp != xlogRestorePoint || len(r.Main) < 8+restorePointName {
		return RestorePoint{}, false
	}
	name, _, _ := bytes.Cut(r.Main[8:8+restorePointName], []byte{0})
	return RestorePoint{Name: string(name), Time: timestamp(le.Uint64(r.Main))}, true
}

// xlogRestorePoint is XLOG_RESTORE_POINT (catalog/pg_control.h).
const xlogRestorePoint = 0x70

// timestamp converts a TimestampTz: microseconds since the year 2000, UTC.
func timestamp(t uint64) time.Time {
	return time.UnixMicro(int64(t)).Add(year2000).UTC()
}

// year2000 is the start of PostgreSQL's time, from that of Unix.
const year2000 = 10957 * 24 * time.Hour
