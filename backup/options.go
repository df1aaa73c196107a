package backup

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg/server"
)

// Options say what to back up and how. Repo, DataDir, Source and ToolVersion
// are required, and Primary where the source may be a standby.
type Options struct {
	Repo    *repo.Repo
	DataDir string // of the local server

	// Source opens a session with the server that runs in DataDir, and Primary
	// one with the cluster's primary at the moment of the call. Take closes
	// what they open. The user needs the functions of a base backup; on the
	// primary of a standby also CHECKPOINT and pg_switch_wal.
	Source  func(context.Context) (*server.Conn, error)
	Primary func(context.Context) (*server.Conn, error)

	Member      string // of the source, as Patroni has it
	Host        string // "" means the host's name
	ToolVersion string
	Label       string // in backup_label; "" means the backup's id

	Workers int   // readers at the same time; 0 means a processor each, at most 8
	MaxRate int64 // bytes read per second over all readers; 0 means no limit
	Fast    bool  // checkpoint at once instead of spread over checkpoint_completion_target

	// Kind is what is asked for; the zero value is [Auto].
	Kind Request
	// NoFallback, if not empty, says why a full backup must not stand in where
	// an incremental one is not possible. The first backup of a cluster is no
	// such case.
	NoFallback string

	// AllowDamagedPages takes the backup although pages of it are damaged, and
	// names them in the manifest.
	AllowDamagedPages bool

	// ReplayStall is how long a standby's replay may stand still before the
	// checkpoint of the primary is given up; 0 means a minute.
	ReplayStall time.Duration
	// ArchiveTimeout is how long to wait for the backup's WAL; 0 means an hour.
	// The finished copy outlives it, see [PendingError].
	ArchiveTimeout time.Duration
	// ArchiveGrace is how long the archiver may take with a segment before it
	// is stored from the source's own pg_wal; 0 means ten seconds.
	ArchiveGrace time.Duration
	// Archive is how WAL is pushed from the source's pg_wal. Path and WALDir
	// are filled in.
	Archive archive.PushOptions

	// Leased says that the caller holds the lease that keeps a second backup of
	// the cluster out. Then whoever else has a young running marker has died or
	// lost that lease, which is told and does not keep this backup from running:
	// after a machine's death nobody would be let in for as long as Grace.
	Leased bool

	// Beat is the rhythm of the running marker, and Grace the age from which
	// another backup's marker is taken for dead; 0 means half as long again as
	// the beat's lapse, after which a backup stops itself: 15 minutes.
	Beat  repo.Beat
	Grace time.Duration

	Log *slog.Logger // nil discards
	// Progress, if not nil, is called at each change of phase and twice a
	// second while files are copied, never concurrently.
	Progress func(Progress)
}

// Phase is a part of the protocol.
type Phase string

// The phases, in order.
const (
	PhaseCheckpoint Phase = "checkpoint" // of the primary and its replay, then the server's backup start
	PhaseScan       Phase = "scan"
	PhaseCopy       Phase = "copy"
	PhaseStop       Phase = "stop"
	PhaseWAL        Phase = "wait for WAL"
	PhaseCommit     Phase = "commit"
)

// Progress is how far a backup has come.
type Progress struct {
	Phase Phase
	Done  int64 // bytes read
	Total int64 // bytes to read, as of the scan; 0 before it
	Files int   // files and directories, as of the scan
}

// DefaultWorkers is how many workers a backup, a synthesis and a verification have
// that name none: one for each processor that Go uses at the time, at most 8.
func DefaultWorkers() int { return min(runtime.GOMAXPROCS(0), 8) }

func (o Options) withDefaults() (Options, error) {
	switch {
	case o.Repo == nil, o.DataDir == "", o.Source == nil, o.ToolVersion == "":
		return o, fmt.Errorf("back up %q: repository, data directory, source and tool version are required", o.DataDir)
	case o.Kind != Auto && o.Kind != FullOnly && o.Kind != IncrementalOnly:
		return o, fmt.Errorf("back up %s: kind %q is not known", o.DataDir, string(o.Kind))
	case o.Workers < 0, o.MaxRate < 0:
		return o, fmt.Errorf("back up %s: %d workers at %d bytes per second", o.DataDir, o.Workers, o.MaxRate)
	}
	if o.Host == "" {
		host, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("back up %s: %w", o.DataDir, err)
		}
		o.Host = host
	}
	o.Workers = cmp.Or(o.Workers, DefaultWorkers())
	o.ReplayStall = cmp.Or(o.ReplayStall, time.Minute)
	o.ArchiveTimeout = cmp.Or(o.ArchiveTimeout, time.Hour)
	o.ArchiveGrace = cmp.Or(o.ArchiveGrace, 10*time.Second)
	o.Beat, o.Grace = beats(o.Beat, o.Grace)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	return o, nil
}

// beats fills in the rhythm of a running marker, and the age from which another's
// counts as dead.
func beats(b repo.Beat, grace time.Duration) (repo.Beat, time.Duration) {
	b.Period = cmp.Or(b.Period, time.Minute)
	b.Lapse = cmp.Or(b.Lapse, 10*b.Period)
	return b, cmp.Or(grace, b.Lapse*3/2)
}
