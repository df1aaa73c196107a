package repo

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/pgtender/pgtender/internal/pg"
)

// Kind says how a backup came to be. For a reader all are complete images.
type Kind string

// The kinds of backups.
const (
	Full        Kind = "full"        // every page read and stored
	Incremental Kind = "incremental" // changed pages stored, the others left where they are
	Synthetic   Kind = "synthetic"   // made in the repository from another backup
)

// The roles a source can have.
const (
	RolePrimary = "primary"
	RoleStandby = "standby"
)

// Backup is everything about a backup but its files. It is the manifest's
// first block; docs/format.md §6 says what each key means.
type Backup struct {
	ID     BackupID `json:"id"`
	Kind   Kind     `json:"kind"`
	Parent BackupID `json:"parent,omitzero"`

	Scope    string      `json:"scope"`
	Group    string      `json:"group,omitempty"`
	SystemID pg.SystemID `json:"system_id"`

	ServerVersion   int            `json:"server_version_num"` // as PostgreSQL counts: 170002
	CatalogVersion  uint32         `json:"catalog_version"`
	ControlVersion  uint32         `json:"control_version"`
	BlockSize       int            `json:"block_size"`       // bytes
	SegmentSize     pg.SegmentSize `json:"wal_segment_size"` // bytes
	ChecksumVersion uint32         `json:"data_checksum_version,omitzero"`
	WALLogHints     bool           `json:"wal_log_hints,omitzero"`

	Start       pg.Pos    `json:"start"` // WAL is needed from here
	Stop        pg.Pos    `json:"stop"`  // up to here, exclusively
	Checkpoint  pg.LSN    `json:"checkpoint"`
	Redo        pg.LSN    `json:"redo"`
	MinRecovery pg.LSN    `json:"min_recovery,omitzero"`
	History     []pg.Fork `json:"history,omitempty"` // ancestry of Stop's timeline

	SourceMember string    `json:"source_member,omitempty"`
	SourceRole   string    `json:"source_role"`
	SourceHost   string    `json:"source_host,omitempty"`
	Started      time.Time `json:"started"`
	Finished     time.Time `json:"finished"`
	ToolVersion  string    `json:"tool_version"`

	Tablespaces  []Tablespace `json:"tablespaces,omitempty"` // ascending by OID
	WALDirectory string       `json:"wal_directory,omitempty"`

	DamagedPages int64         `json:"damaged_pages,omitzero"` // accepted with wrong checksums
	Damage       []DamagedPage `json:"damage,omitempty"`       // the first MaxDamage of them

	// Set by Commit.
	Files       int64 `json:"files"` // files and directories
	Bytes       int64 `json:"bytes"` // sum of the files' sizes
	RawBytes    int64 `json:"raw_bytes"`
	StoredBytes int64 `json:"stored_bytes"`
	Frames      int64 `json:"frames"`
	Packs       int64 `json:"packs"`
}

// Tablespace is one tablespace other than the two built in.
type Tablespace struct {
	OID      uint32 `json:"oid"`
	Location string `json:"location"` // on the source
}

// DamagedPage is one page whose checksum was wrong on the source.
type DamagedPage struct {
	File  string `json:"file"`
	Block uint32 `json:"block"`
}

// MaxDamage is how many damaged pages a manifest names.
const MaxDamage = 1000

// Major gives the server's major version, such as 17.
func (b *Backup) Major() int { return b.ServerVersion / 10000 }

// StopHistory gives the history of the timeline that the backup ends on.
func (b *Backup) StopHistory() pg.History {
	return pg.History{Timeline: b.Stop.Timeline, Forks: b.History}
}

// Cluster gives the cluster that the backup is of.
func (b *Backup) Cluster() ClusterID {
	return ClusterID{Scope: b.Scope, Group: b.Group, SystemID: b.SystemID}
}

// Validate reports everything that keeps b from being a backup's description.
func (b *Backup) Validate() error {
	var errs []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	need(b.ID.valid(), "id %d is not valid", uint64(b.ID))
	need(b.Kind == Full || b.Kind == Incremental || b.Kind == Synthetic, "kind %q is not known", b.Kind)
	need(b.Kind != Incremental || b.Parent != 0, "an incremental backup names its parent")
	need(b.Parent == 0 || b.Parent.valid() && b.Parent != b.ID, "parent %d is not valid", uint64(b.Parent))
	if err := b.Cluster().Validate(); err != nil {
		errs = append(errs, err)
	}
	need(b.ServerVersion >= 100000 && b.ServerVersion < 1000000, "server version %d is out of range", b.ServerVersion)
	need(validBlockSize(b.BlockSize), "block size %d", b.BlockSize)
	need(b.SegmentSize.Valid(), "WAL segment size %d", b.SegmentSize)
	need(b.Start.Timeline != 0 && b.Start.LSN != 0 && b.Stop.Timeline != 0 && b.Start.LSN < b.Stop.LSN, "start %s and stop %s are no interval", b.Start, b.Stop)
	need(b.Redo != 0 && b.Redo <= b.Checkpoint, "redo %s and checkpoint %s", b.Redo, b.Checkpoint)
	// Encoding and parsing again applies PostgreSQL's rules for a history.
	h, err := pg.ParseHistory(b.Stop.Timeline, b.StopHistory().Encode())
	need(b.Stop.Timeline == 0 || err == nil && h.Equal(b.StopHistory()), "history of timeline %s: %v", b.Stop.Timeline, err)
	need(err != nil || h.Contains(b.Start), "start %s is not on the history of timeline %s", b.Start, b.Stop.Timeline)
	need(b.SourceRole == RolePrimary || b.SourceRole == RoleStandby, "source role %q is not known", b.SourceRole)
	need(!b.Started.IsZero() && !b.Finished.Before(b.Started), "finished %s before it started %s", b.Finished, b.Started)
	need(b.ToolVersion != "", "tool version is empty")
	for i, t := range b.Tablespaces {
		need(t.OID != 0 && t.Location != "" && (i == 0 || b.Tablespaces[i-1].OID < t.OID), "tablespace %d at %q: empty or out of order", t.OID, t.Location)
	}
	for _, text := range b.texts() {
		need(utf8.ValidString(text), "%q is not UTF-8, which a manifest cannot hold", text)
	}
	need(len(b.Damage) <= MaxDamage && int64(len(b.Damage)) <= b.DamagedPages, "%d of %d damaged pages listed", len(b.Damage), b.DamagedPages)
	need(min(b.Files, b.Bytes, b.RawBytes, b.StoredBytes, b.Frames, b.Packs) >= 0, "a count is negative")
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("backup %s: %w", b.ID, err)
	}
	return nil
}

func (b *Backup) texts() []string {
	out := []string{b.SourceMember, b.SourceHost, b.ToolVersion, b.WALDirectory}
	for _, t := range b.Tablespaces {
		out = append(out, t.Location)
	}
	for _, f := range b.History {
		out = append(out, f.Reason)
	}
	for _, d := range b.Damage {
		out = append(out, d.File)
	}
	return out
}

// normal brings times to the form that the format knows.
func (b *Backup) normal() {
	b.Started, b.Finished = b.Started.UTC().Round(0), b.Finished.UTC().Round(0)
}
