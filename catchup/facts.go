package catchup

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// DirState says what is in a directory.
type DirState string

// The states of a directory that is to be written.
const (
	DirEmpty      DirState = "empty"      // missing, or nothing but dot-names and lost+found
	DirUnfinished DirState = "unfinished" // an earlier run was interrupted
	DirFinished   DirState = "finished"   // an earlier run was interrupted when all was done; no server has run since
	DirData       DirState = "data"       // a stopped PostgreSQL data directory
	DirForeign    DirState = "foreign"    // something else
)

// DirFacts describe a directory: the target itself, or one outside of it that
// belongs to it.
type DirFacts struct {
	Path    string   `json:"path"`
	State   DirState `json:"state"`
	Example string   `json:"example,omitempty"` // a name found, for messages
	Unseen  string   `json:"unseen,omitempty"`  // why it could not be looked at, of a place
	Running bool     `json:"running,omitzero"`  // a postmaster or left-over backends
	PID     int      `json:"pid,omitzero"`      // of what runs
	// SystemID is of the data that lies or is being restored there.
	SystemID pg.SystemID `json:"system_id,omitzero"`
	// Backup, Purpose and Target are those of the earlier run, of
	// DirUnfinished and DirFinished.
	Backup  repo.BackupID `json:"backup,omitzero"`
	Purpose Purpose       `json:"purpose,omitempty"`
	Target  Target        `json:"target,omitzero"`
	Free    int64         `json:"free_bytes"` // on its file system for this user, -1 if unknown
	Used    int64         `json:"used_bytes"` // by old data that would be removed
	Device  uint64        `json:"-"`          // number of its file system
	// Old are the directories outside of Path that old data of DirData, or of
	// a DirUnfinished that was replacing such, has: where pg_wal leads, and
	// the cluster's own directory in each tablespace.
	Old []Place `json:"old_places,omitempty"`
	// Missing are those of them that are not there, although the data directory
	// leads to them: on a disk that is not mounted, perhaps.
	Missing []Place `json:"missing_places,omitempty"`
	// Rung is the way that the earlier run of a DirUnfinished took.
	Rung RungName `json:"rung,omitempty"`

	control repo.Digest // of pg_control, of DirData
}

// precious reports whether a directory holds data that would be missed: old
// data, or such in the middle of being converged.
func (d *DirFacts) precious() bool {
	return d.State == DirData || d.State == DirFinished || d.State == DirUnfinished && d.Rung.inPlace()
}

// Place is a directory outside of the data directory that belongs to it.
type Place struct {
	OID      uint32 `json:"oid,omitzero"` // of the tablespace; 0: pg_wal
	Location string `json:"location"`     // where the link in the data directory leads
	// Path is what is the cluster's own: the location of pg_wal, in the
	// location of a tablespace the directory named after the version.
	Path string `json:"path"`
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

// need gives the position up to which the archive must reach, for what the
// leader still has it streams.
func (l *LeaderFacts) need(size pg.SegmentSize) pg.LSN {
	need := size.Start(size.SegmentOf(l.Flush))
	if l.Oldest != 0 && l.Oldest < need {
		need = l.Oldest
	}
	return need
}

// Candidate is one backup with what the archive covers from its start on.
type Candidate struct {
	repo.Listed
	// Lineage is the history that recovery from it would follow.
	Lineage archive.Lineage
	// Cover is meaningless if Err or Unchecked is set.
	Cover archive.RestoreCover
	// Reached is what the search for the target found, nil if there was none.
	Reached *archive.Reached
	// Newest is the newest end of a transaction in Cover. It is looked for
	// only with a target time; zero if there is none.
	Newest archive.Newest
	// Unproved says why the archive, on a closer look, does not hold all the WAL
	// that its listing shows. It is looked for only where old data is at stake.
	Unproved string
	// Unchecked says that the archive was not looked at, because a newer
	// backup serves.
	Unchecked bool
	// Converge is what making old data this backup's image takes, nil if that
	// was not looked at.
	Converge *Convergence
}

// Facts are all that [Decide] looks at. They are gathered once and not changed.
type Facts struct {
	Now     time.Time
	Purpose Purpose
	Target  Target
	Backup  repo.BackupID // asked for by name; zero: the best

	Cluster  repo.ClusterID // whose part of the repository it is
	SystemID pg.SystemID    // that the DCS names (Patroni's initialize key); 0: any
	Major    int            // of the server programs at hand; 0: not known

	Dir DirFacts
	// Snapshot says that a server runs in Dir, which is judged as though none
	// did: the facts are those of a moment.
	Snapshot bool
	// WALDir is where pg_wal shall lead, "" for a plain directory.
	WALDir string
	// Mapping says where tablespaces go, by their location on the source.
	Mapping map[string]string
	// Places are the directories outside of Dir that candidates would be
	// written to, by path.
	Places map[string]DirFacts

	Candidates []Candidate // oldest first
	// Broken are backups that an earlier attempt found damaged.
	Broken map[repo.BackupID]error
	Leader *LeaderFacts // nil: nobody leads, or there is nobody to follow
	// Local and Replay are about old data, nil if there is none or nobody leads.
	Local  *LocalFacts
	Replay *ReplayFacts
	NoMaps string   // why block maps are not gone by, "" if they are
	Rung   RungName // asked for by name; "": the best
	// Unscanned says that the archive was not searched for the target.
	Unscanned bool
}

// places gives the directories outside of the data directory that a restore of
// b writes to.
func (f *Facts) places(b *repo.Backup) []Place {
	var out []Place
	version := pg.TablespaceVersionDir(b.Major(), b.CatalogVersion)
	old := slices.Concat(f.Dir.Old, f.Dir.Missing)
	for _, t := range b.Tablespaces {
		location := filepath.Clean(t.Location)
		to, mapped := f.Mapping[location]
		i := slices.IndexFunc(old, func(p Place) bool { return p.OID == t.OID })
		switch {
		case mapped:
			location = to
		case i >= 0:
			location = old[i].Location // where the old data has it
		}
		out = append(out, Place{OID: t.OID, Location: location, Path: filepath.Join(location, version)})
	}
	switch {
	case f.WALDir != "":
		out = append(out, Place{Location: f.WALDir, Path: f.WALDir})
	default:
		// A link that the old data directory had is kept: whoever made it
		// wanted the WAL elsewhere.
		if i := slices.IndexFunc(old, func(p Place) bool { return p.OID == 0 }); i >= 0 {
			out = append(out, old[i])
		}
	}
	return out
}

// missing refuses what would write to a place that old data has and that is not
// there. It would be filled on the file system below, where a server finds it; and
// with the disk mounted again the old files would lie over the new ones.
func (f *Facts) missing(places []Place) error {
	for _, m := range f.Dir.Missing {
		switch i := slices.IndexFunc(places, func(p Place) bool { return p.OID == m.OID }); {
		case i < 0 || places[i].Location != m.Location:
		case m.OID == 0:
			return refuse(false, fmt.Sprintf("mount its file system; if its WAL is lost for good, remove the link %s", filepath.Join(f.Dir.Path, "pg_wal")),
				"pg_wal of %s leads to %s, where there is none", f.Dir.Path, m.Location)
		default:
			return refuse(false, fmt.Sprintf("mount its file system; if what it held is lost for good, make the directory %s, and all of it is fetched", m.Path),
				"tablespace %d of %s leads to %s, where %s is not", m.OID, f.Dir.Path, m.Location, filepath.Base(m.Path))
		}
	}
	return nil
}

// begun gives the backup that an earlier, interrupted run was about; zero if
// there was none.
func (f *Facts) begun() repo.BackupID {
	if f.Dir.State == DirUnfinished || f.Dir.State == DirFinished {
		return f.Dir.Backup
	}
	return 0
}
