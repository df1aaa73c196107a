package pg

import (
	"errors"
	"fmt"
	"time"
)

// State is what pg_control says a cluster was last doing (DBState, pg_control.h).
// It says nothing about whether a server runs now, see [Running].
type State uint32

// The states, in PostgreSQL's order.
const (
	StateStartup State = iota
	StateShutDown
	StateShutDownInRecovery
	StateShuttingDown
	StateCrashRecovery
	StateArchiveRecovery
	StateProduction
)

var stateNames = [...]string{
	"starting up", "shut down", "shut down in recovery", "shutting down",
	"in crash recovery", "in archive recovery", "in production",
}

// String gives the name that pg_controldata prints.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("unrecognized status code %d", uint32(s))
}

// Clean reports whether the server was stopped in good order: its data files
// hold everything up to the latest checkpoint or restartpoint.
func (s State) Clean() bool { return s == StateShutDown || s == StateShutDownInRecovery }

// Control is the content of global/pg_control. Times have whole seconds and are
// UTC; a zero LSN is unset. Change one through [EditControl].
type Control struct {
	SystemID       SystemID
	ControlVersion uint32
	CatalogVersion uint32

	State          State
	Time           time.Time
	Checkpoint     LSN // of the latest checkpoint's record
	CheckpointCopy Checkpoint
	UnloggedLSN    LSN

	// MinRecovery is how far replay must get before the data files are
	// consistent; unset on a primary that was shut down.
	MinRecovery       LSN
	MinRecoveryTLI    Timeline
	BackupStart       LSN // redo of the backup being recovered, until consistency
	BackupEnd         LSN // of a backup taken on a standby
	BackupEndRequired bool

	// The settings that a standby must not fall below, and others WAL depends on.
	WALLevel             WALLevel
	WALLogHints          bool
	MaxConnections       int32
	MaxWorkerProcesses   int32
	MaxWALSenders        int32
	MaxPreparedXacts     int32
	MaxLocksPerXact      int32
	TrackCommitTimestamp bool

	// What the server was built with, and how the cluster was initialised.
	BlockSize           uint32 // bytes
	RelSegBlocks        uint32 // blocks in a full relation segment file
	WALBlockSize        uint32 // bytes
	SegmentSize         SegmentSize
	DataChecksumVersion uint32 // 0: checksums are off
	SignedChar          bool   // 18 and later
}

// Checkpoint is the copy of the latest checkpoint record that pg_control holds.
type Checkpoint struct {
	Redo            LSN // where replay from this checkpoint begins
	Timeline        Timeline
	PrevTimeline    Timeline
	FullPageWrites  bool
	WALLevel        WALLevel // 17 and later
	NextXID         uint64   // with the epoch in the high half
	NextOID         uint32
	NextMulti       uint32
	NextMultiOffset uint32
	OldestXID       uint32
	OldestXIDDB     uint32
	OldestMulti     uint32
	OldestMultiDB   uint32
	Time            time.Time
	OldestCommitTS  uint32
	NewestCommitTS  uint32
	OldestActiveXID uint32
}

// WALLevel is the setting wal_level.
type WALLevel int32

// The levels (xlog.h).
const (
	WALMinimal WALLevel = iota
	WALReplica
	WALLogical
)

// String gives the setting's value.
func (l WALLevel) String() string {
	switch l {
	case WALMinimal:
		return "minimal"
	case WALReplica:
		return "replica"
	case WALLogical:
		return "logical"
	}
	return fmt.Sprintf("unrecognized wal_level %d", int32(l))
}

// ErrControlChecksum marks a pg_control whose CRC is wrong. A running server
// rewrites the file in place, so a reader can meet it half written: read again.
var ErrControlChecksum = errors.New("its checksum is wrong: it was read while being written, or it is damaged")

// Major gives the server's major version, 13 to 18, or 0 for a Control that
// [ParseControl] did not make.
func (c Control) Major() int {
	r, _ := releaseOf(c.ControlVersion, c.CatalogVersion)
	return r.major
}

// Checksums reports whether the data pages carry checksums.
func (c Control) Checksums() bool { return c.DataChecksumVersion != 0 }

// MinRecoveryPos gives MinRecovery with its timeline.
func (c Control) MinRecoveryPos() Pos { return Pos{Timeline: c.MinRecoveryTLI, LSN: c.MinRecovery} }

// RedoPos gives the redo point of the latest checkpoint with its timeline.
func (c Control) RedoPos() Pos {
	return Pos{Timeline: c.CheckpointCopy.Timeline, LSN: c.CheckpointCopy.Redo}
}

// TablespaceVersionDir gives the directory that the cluster owns in each of its
// tablespaces.
func (c Control) TablespaceVersionDir() string {
	return TablespaceVersionDir(c.Major(), c.CatalogVersion)
}
