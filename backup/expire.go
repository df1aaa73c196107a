package backup

import (
	"cmp"
	"fmt"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// Expiry goes in three steps. [ReadStock] takes a snapshot of the repository,
// [DecideExpiry] says of every object in it why it stays or goes, and [Expire]
// acts. What goes is condemned first and removed by a later run, so that no
// running backup or restore loses what it leans on: docs/architecture.md has
// the argument, and the orders of reading and writing here are part of it.

// Policy says what is kept. Nothing expires unless KeepBackups or KeepFor is set.
type Policy struct {
	// KeepBackups is how many of the newest good backups are kept; 0: the
	// number keeps none.
	KeepBackups int
	// KeepFor is the age up to which backups are kept; 0: age keeps none.
	KeepFor time.Duration
	// RecoveryWindow is how far back recovery to any point in time must be
	// possible: WAL is kept for it, and the backup to begin with. 0: from the
	// oldest good backup that is kept.
	RecoveryWindow time.Duration
	// Grace is how long what is condemned stays; 0 means a day, less than 0 none.
	Grace time.Duration
	// MarkerGrace is the age from which a running backup's marker is taken for
	// dead; 0 means an hour, less than 0 none. That of a restore is the longer of
	// both.
	MarkerGrace time.Duration
}

func (p Policy) withDefaults() Policy {
	def := func(d *time.Duration, v time.Duration) {
		if *d = cmp.Or(*d, v); *d < 0 {
			*d = 0
		}
	}
	def(&p.Grace, 24*time.Hour)
	def(&p.MarkerGrace, time.Hour)
	return p
}

func (p Policy) set() bool { return p.KeepBackups > 0 || p.KeepFor > 0 }

const (
	// pendingPatience is how long a pending backup is waited for once there is a
	// newer good one.
	pendingPatience = 7 * 24 * time.Hour
	// tombstoneAge is how long a tombstone stays. A process that was paused for
	// longer does not come back.
	tombstoneAge = 30 * 24 * time.Hour
	// quarantineAge is how long a file in quarantine stays once its alarm is
	// acknowledged.
	quarantineAge = 30 * 24 * time.Hour
)

// Stock is a snapshot of a cluster's part of the repository: all that
// [DecideExpiry] looks at. It is not changed.
type Stock struct {
	Now    time.Time // by the store's clock
	Policy Policy

	// Lineage is the history in force; its Timeline is 0 if none is known, and
	// LineageError says why.
	Lineage      archive.Lineage
	LineageError error
	// Histories are those of the archive, and that of timeline 1.
	Histories map[repo.Incarnation]pg.History

	Backups []StockBackup // oldest first
	// Packs are all that are stored, by the backup that wrote them.
	Packs     map[repo.BackupID][]repo.Pack
	Fences    map[repo.BackupID]time.Time // tombstones, with the store's time
	Running   []repo.Marked[repo.Running]
	Gone      map[repo.BackupID]bool // those of Running whose process is known to have ended
	Readers   []repo.Marked[repo.Reader]
	Condemned []repo.Condemnation
	Marks     map[repo.BackupID]Marks

	SegmentSize pg.SegmentSize // 0: nothing is archived
	WAL         []WALSpan      // ascending by incarnation and segment
	Chunks      []repo.ChunkObject
	Quarantine  []repo.QuarantinedFile
	// Said are the events that pin, annotate and verify backups, and those that
	// asked for the store's time.
	Said []repo.StoredEvent
	// Acknowledged are the keys in quarantine whose alarm is acknowledged.
	Acknowledged map[string]bool
}

// StockBackup is a backup with a manifest, committed or pending.
type StockBackup struct {
	ID      repo.BackupID
	Pending bool
	Backup  *repo.Backup // nil if Err is set
	Err     error        // why the manifest cannot be read
	Stored  time.Time    // of the manifest, by the store's clock
	Packs   []repo.Pack  // that it leans on
	// Size of the manifest.
	Size int64
}

// WALSpan is a run of archived segments of one incarnation that lie in one
// group of the archive.
type WALSpan struct {
	Incarnation repo.Incarnation
	First, Last pg.SegmentNumber
	Partial     bool      // of .partial and .backup files only, without segments
	Objects     int       // files that are named after a segment included
	Bytes       int64     // as stored
	Newest      time.Time // by the store's clock
}

// Action is what becomes of something.
type Action string

// The actions.
const (
	Keep    Action = "keep"
	Condemn Action = "condemn" // to be removed by a later run
	Wait    Action = "wait"    // condemned, but not to be removed yet
	Remove  Action = "remove"  // condemned by an earlier run, and still not needed
	Pardon  Action = "pardon"  // condemned, but needed after all
)

// What an item is.
const (
	ItemBackup     = "backup"
	ItemPending    = "pending backup"
	ItemPacks      = "packs"
	ItemStray      = "stray packs" // that their own backup does not name
	ItemWAL        = "wal"
	ItemChunks     = "chunks"
	ItemMarker     = "marker"
	ItemTombstone  = "tombstone"
	ItemQuarantine = "quarantine"
	ItemEvent      = "event" // what was said about a backup that is gone
)

// ExpiryItem is one thing in the repository, with what becomes of it and why.
// Its JSON keys are stable.
type ExpiryItem struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"` // a backup id, a range of segments, a key
	Action  Action `json:"action"`
	Reason  string `json:"reason"`
	Objects int    `json:"objects"`
	Bytes   int64  `json:"bytes"`

	id     repo.BackupID // backup, pending, packs, stray packs, marker, tombstone
	packs  []repo.Pack   // to be removed
	wal    WALRange
	key    repo.Key // quarantine
	chunks []repo.ChunkObject
	reader bool // marker

	committed bool // pending: it has a manifest, and this is what its commit left
}

// WALRange is a run of segments of one incarnation, both ends included.
type WALRange struct {
	Incarnation repo.Incarnation
	First, Last pg.SegmentNumber
}

// Expiry is what [DecideExpiry] decided.
type Expiry struct {
	Items []ExpiryItem
	// Blocked says why nothing but WAL can be removed now, "" if nothing is in
	// the way.
	Blocked string

	stock *Stock
	wal   []WALRange      // to be condemned
	dead  []repo.BackupID // whose markers have grown old
	done  []repo.BackupID // condemnations that have done their work
}

// Count tells how many objects, of how many bytes, meet an action.
func (e *Expiry) Count(a Action) (objects int, bytes int64) {
	for i := range e.Items {
		if e.Items[i].Action == a {
			objects += e.Items[i].Objects
			bytes += e.Items[i].Bytes
		}
	}
	return objects, bytes
}

func age(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
	case d >= time.Hour:
		return d.Truncate(time.Minute).String()
	}
	return d.Truncate(time.Second).String()
}
