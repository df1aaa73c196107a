package backup

import (
	"errors"
	"fmt"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

// Facts are what a backup is decided from, as [Inspect] found them.
type Facts struct {
	Cluster repo.ClusterID // whose part of the repository it is
	DataDir string

	Control     pg.Control // of DataDir
	Server      server.Info
	SameDataDir bool // the server's data directory is DataDir
	Unreadable  error

	// Primary is what the source's primary says, if the source is a standby.
	// PrimaryError is why that is not known.
	Primary      *server.Info
	PrimaryError error
	MaySwitch    bool // the primary lets us end its current segment
}

// Plan is what Take will do. Its JSON keys are stable.
type Plan struct {
	Kind repo.Kind `json:"kind"`
	// Parent, Method and Told are those of an incremental backup.
	Parent repo.BackupID `json:"parent,omitzero"`
	Method Method        `json:"method,omitempty"`
	Told   *Told         `json:"told,omitempty"`
	Role   string        `json:"source_role"` // repo.RolePrimary or repo.RoleStandby
	Why    string        `json:"why"`
	// Rejected are backups that cannot be the parent, newest first.
	Rejected []Rejected `json:"rejected,omitempty"`
	// Findings are worth knowing, but do not keep the backup from succeeding.
	Findings []finding.Finding `json:"findings,omitempty"`
}

// Decide says everything that keeps a backup from being taken, each with a
// hint. What kind it will be depends on where the server lets it start: see
// [Preview].
func Decide(f Facts) (Plan, error) {
	p := Plan{Kind: repo.Full, Role: repo.RolePrimary, Why: "full: the backup stands on its own"}
	if f.Server.InRecovery {
		p.Role = repo.RoleStandby
	}
	refusals := append(refuseServer(f), refusePrimary(f)...)
	if err := errors.Join(refusals...); err != nil {
		return Plan{}, err
	}
	writer := f.Server
	if f.Primary != nil {
		writer = *f.Primary
	}
	if writer.ArchiveMode == "off" {
		p.Findings = append(p.Findings, finding.Finding{
			Severity: finding.Warning,
			Text:     "archive_mode is off on the primary: of the WAL only what this backup needs will be stored, and it cannot be restored to a later moment",
			Hint:     "set archive_mode to on and archive_command to: pgtender archive-push %p",
		})
	}
	if !f.Control.Checksums() {
		p.Findings = append(p.Findings, finding.Finding{
			Severity: finding.Info,
			Text:     "the cluster has no data checksums: of damaged pages only those with a broken header are noticed",
		})
	}
	return p, nil
}

// refuseServer gives the reasons against the source itself.
func refuseServer(f Facts) []error {
	var out []error
	refuse := func(hint, format string, args ...any) {
		out = append(out, finding.WithHint(fmt.Errorf(format, args...), "%s", hint))
	}
	s := f.Server
	if major := s.Version.Major(); major < server.OldestMajor || major > server.NewestMajor {
		refuse("use a release that knows it", "the server's version %s is not between %d and %d", s.Version, server.OldestMajor, server.NewestMajor)
	}
	if !f.SameDataDir {
		refuse("run the backup on the host of the server, with the data directory that Patroni has for it",
			"the server's data directory is %q, not %s", s.DataDirectory, f.DataDir)
	}
	if f.Unreadable != nil {
		refuse("run the backup as the user that owns the data directory", "the data directory cannot be read: %w", f.Unreadable)
	}
	if f.Control.SystemID != s.SystemID {
		refuse("run the backup on the host of the server", "pg_control of %s has system identifier %s, the server has %s", f.DataDir, f.Control.SystemID, s.SystemID)
	}
	if s.SystemID != f.Cluster.SystemID {
		refuse("check scope and repository in the configuration", "the server's system identifier is %s, this part of the repository is of %s", s.SystemID, f.Cluster)
	}
	if s.WALLevel == "minimal" {
		refuse("set wal_level to replica and restart", "wal_level is minimal: WAL does not hold what a restore needs")
	}
	return out
}

// refusePrimary gives the reasons that lie with the primary of a standby.
func refusePrimary(f Facts) []error {
	var out []error
	refuse := func(hint, format string, args ...any) {
		out = append(out, finding.WithHint(fmt.Errorf(format, args...), "%s", hint))
	}
	switch p := f.Primary; {
	case !f.Server.InRecovery:
	case f.PrimaryError != nil:
		refuse("a backup from a standby needs a checkpoint on the primary and the end of its WAL segment; look at pgtender topology and at the user's rights there",
			"the primary cannot be asked: %w", f.PrimaryError)
	case p == nil:
		refuse("give the way to the primary, or back up from the primary itself", "the source is a standby, and there is no way to its primary")
	case p.InRecovery:
		refuse("look at pgtender topology, and try again when the cluster has a leader", "the server given as the primary is a standby")
	case p.SystemID != f.Server.SystemID:
		refuse("check the address of the primary", "the primary's system identifier is %s, the source's is %s", p.SystemID, f.Server.SystemID)
	case !p.FullPageWrites:
		refuse("set full_page_writes to on", "full_page_writes is off on the primary: pages that are torn in the copy could not be repaired")
	case !f.MaySwitch:
		refuse("GRANT EXECUTE ON FUNCTION pg_switch_wal() to the user", "the user may not call pg_switch_wal on the primary, so on an idle cluster the end of the backup would never be archived")
	}
	return out
}
