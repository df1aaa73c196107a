package backup

import (
	"fmt"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// Request is the kind of backup that is asked for.
type Request string

// The requests.
const (
	Auto            Request = "" // incremental where that is right, else full
	FullOnly        Request = "full"
	IncrementalOnly Request = "incremental" // or an error that says why not
)

// Method is how an incremental backup learns which pages changed.
type Method string

// The methods.
const (
	ByMaps Method = "block maps" // from what WAL says: only changed pages are read
	ByLSN  Method = "page LSNs"  // every page is read, and those that are new enough stored
)

// Rejected is a backup that cannot be the parent, and why.
type Rejected struct {
	Backup repo.BackupID `json:"backup"`
	Why    string        `json:"why"`
}

// beginning is where a backup starts and what is known of its source.
type beginning struct {
	at      pg.Pos
	history pg.History // of at's timeline
	control pg.Control
}

// question is what the kind of a backup is decided from, once its parent and
// what is known of the changes since then have been found.
type question struct {
	request    Request
	noFallback string // why a full backup must not stand in; "" if it may
	none       bool   // there is no backup at all yet
	parent     *repo.Backup
	rejected   []Rejected // where parent is nil: newest first
	gap        error      // why block maps do not tell all changes; nil if they do
	scan       bool       // page LSNs tell what changed: see scanSafe
}

// answer is the decision.
type answer struct {
	kind   repo.Kind
	method Method
	why    string
}

// decideKind says which kind of backup to take and why, or why none may be.
func decideKind(q question) (answer, error) {
	if q.request == FullOnly {
		return answer{kind: repo.Full, why: "full: asked for"}, nil
	}
	var obstacle string
	switch {
	case q.none:
		obstacle = "there is no backup yet that it could build on"
	case q.parent == nil && len(q.rejected) > 0:
		obstacle = fmt.Sprintf("no backup can be its parent: %s %s", q.rejected[0].Backup, q.rejected[0].Why)
	case q.parent == nil:
		obstacle = "no backup can be its parent"
	case q.gap == nil:
		return answer{kind: repo.Incremental, method: ByMaps, why: fmt.Sprintf("incremental on %s: what changed since its start is known from WAL", q.parent.ID)}, nil
	case q.scan:
		return answer{kind: repo.Incremental, method: ByLSN, why: fmt.Sprintf("incremental on %s, but every page is read: what changed is not known from WAL (%v)", q.parent.ID, q.gap)}, nil
	default:
		obstacle = fmt.Sprintf("what changed since %s is not known (%v), and without data checksums or wal_log_hints the pages do not tell", q.parent.ID, q.gap)
	}
	switch {
	case q.request == IncrementalOnly:
		return answer{}, finding.WithHint(fmt.Errorf("an incremental backup is not possible: %s", obstacle), "take a full one: pgtender backup --kind full")
	case q.noFallback != "" && !q.none:
		return answer{}, finding.WithHint(fmt.Errorf("an incremental backup is not possible: %s; and a full one may not stand in: %s", obstacle, q.noFallback),
			"take a full one when it suits: pgtender backup --kind full; or change backup.full_fallback")
	}
	return answer{kind: repo.Full, why: "full: " + obstacle}, nil
}

// chooseParent finds, among committed backups, the one with the fewest changes
// since its start, or the preferred one if that is fit, and says of the others
// why they are not, newest first.
func chooseParent(backups []repo.Backup, from beginning, preferred repo.BackupID) (parent *repo.Backup, rejected []Rejected) {
	for i := len(backups) - 1; i >= 0; i-- {
		b := &backups[i]
		if why := unfitParent(b, from); why != "" {
			rejected = append(rejected, Rejected{b.ID, why})
			continue
		}
		if parent == nil || b.ID == preferred || parent.ID != preferred && b.Start.LSN > parent.Start.LSN {
			parent = b
		}
	}
	return parent, rejected
}

// unfitParent says what keeps b from being the parent of a backup that starts
// at from, "" if nothing does. The whole of b must lie on the source's history
// and end no later than the new backup starts: otherwise pages kept from b
// could be of another branch, or newer than what replay makes consistent.
func unfitParent(b *repo.Backup, from beginning) string {
	c := from.control
	own, ok := archive.Ancestor(from.history, b.Stop.Timeline)
	switch {
	case b.SystemID != c.SystemID:
		return fmt.Sprintf("is of system identifier %s", b.SystemID)
	case b.CatalogVersion != c.CatalogVersion || b.ControlVersion != c.ControlVersion || b.BlockSize != int(c.BlockSize) || b.SegmentSize != c.SegmentSize:
		return "was taken of a server with another catalog version, block size or WAL segment size"
	case b.ChecksumVersion != c.DataChecksumVersion:
		return fmt.Sprintf("was taken with data checksum version %d, it is %d now", b.ChecksumVersion, c.DataChecksumVersion)
	case b.DamagedPages > 0:
		return fmt.Sprintf("holds %d damaged pages", b.DamagedPages)
	case !ok:
		return fmt.Sprintf("is of timeline %s, which the source's timeline %s does not descend from", b.Stop.Timeline, from.at.Timeline)
	case !own.Equal(b.StopHistory()):
		return fmt.Sprintf("is of another timeline %s than the source's history goes through", b.Stop.Timeline)
	case !from.history.Contains(b.Start), !from.history.Contains(b.Stop):
		left, _ := from.history.End(b.Stop.Timeline)
		return fmt.Sprintf("ends at %s, but the source's history left timeline %s at %s", b.Stop.LSN, b.Stop.Timeline, left)
	case b.Stop.LSN > from.at.LSN:
		return fmt.Sprintf("ends at %s, past this backup's start at %s: the source has made no restartpoint since", b.Stop.LSN, from.at.LSN)
	}
	return ""
}

// scanSafe reports whether page LSNs tell which pages changed since b: every
// change of a page, hint bits included, must then move its LSN. Without
// checksums and wal_log_hints, vacuum marks pages all-visible without it. Both
// may have been off between the two, so the pages that are kept are compared too:
// see scanPages.
func scanSafe(b *repo.Backup, c pg.Control) bool {
	return c.Checksums() && b.ChecksumVersion != 0 || c.WALLogHints && b.WALLogHints
}
