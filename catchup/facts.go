package catchup

import (
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// DirState says what is in the target directory.
type DirState string

// The states of a target directory.
const (
	DirEmpty      DirState = "empty"      // missing, or nothing but dot-names and lost+found
	DirUnfinished DirState = "unfinished" // an earlier run of ours was interrupted
	DirData       DirState = "data"       // a stopped PostgreSQL data directory
	DirForeign    DirState = "foreign"    // something else
)

// DirFacts describe the target directory.
type DirFacts struct {
	Path     string
	State    DirState
	Example  string      // a name found, for messages
	Running  bool        // a postmaster or left-over backends
	PID      int         // of what runs
	SystemID pg.SystemID // DirData, or DirUnfinished: of what lies or is being restored there
	Backup   repo.BackupID
	Free     int64 // bytes free on its file system, -1 if unknown
}

// LeaderFacts say what a new replica must be able to follow.
type LeaderFacts struct {
	Member  string
	History pg.History // of the leader's timeline
	Flush   pg.LSN     // how far its WAL goes
	// Oldest is the oldest WAL that the leader still has for this member: its
	// slot's position, else the oldest file in pg_wal. The archive must reach
	// it. 0: not known, and then the archive must reach Flush's segment.
	Oldest pg.LSN
}

// Candidate is one backup with what the archive covers from its start on.
type Candidate struct {
	repo.Listed
	Cover archive.Cover // along the lineage; meaningless if Err is set
}

// Facts are all that Plan looks at. They are gathered once and not changed.
type Facts struct {
	Purpose Purpose
	Target  Target
	Backup  repo.BackupID // asked for by name; zero: the best
	Dir     DirFacts
	// Tablespaces are the target directories that the backups' tablespaces
	// are mapped to, by OID, with what is in them.
	Tablespaces map[uint32]DirFacts
	Lineage     archive.Lineage
	Candidates  []Candidate // oldest first
	Leader      *LeaderFacts
	SystemID    pg.SystemID // that the directory must get; 0: any
	// Newest is the time of the newest commit in the archive along the
	// lineage, zero if not known. Only asked for with a target time.
	Newest time.Time
	// Found is where a named or numbered target lies, 0 if it was not looked
	// for; NotFound says that it was looked for and is not there.
	Found    pg.LSN
	NotFound bool
}
