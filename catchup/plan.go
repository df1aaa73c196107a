package catchup

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// Verdict is what the plan says about one backup.
type Verdict struct {
	Backup repo.BackupID `json:"backup"`
	Usable bool          `json:"usable"`
	Reason string        `json:"reason"`
	// Rungs are the ways that lean on it, of a backup that was looked at closely.
	Rungs []Rung `json:"rungs,omitempty"`
}

// Plan is what [Run] carries out.
type Plan struct {
	Purpose Purpose  `json:"purpose"`
	Target  Target   `json:"target"`
	Dir     DirFacts `json:"directory"`
	// Snapshot says that a server runs in the directory, so that the plan is what
	// it would be if that stopped now. It cannot be carried out.
	Snapshot bool        `json:"snapshot,omitzero"`
	Backup   repo.Backup `json:"backup"`
	Places   []Place     `json:"places,omitempty"` // directories outside of Dir
	WALLink  string      `json:"wal_directory,omitempty"`
	Timeline pg.Timeline `json:"timeline"` // that recovery follows
	// Lineage is Timeline's history and Cover what the archive holds of it.
	Lineage archive.Lineage      `json:"-"`
	Cover   archive.RestoreCover `json:"-"`

	Choice  RungName `json:"choice"`
	Rungs   []Rung   `json:"rungs"` // cheapest first
	Resume  bool     `json:"resume,omitzero"`
	Replace bool     `json:"replace,omitzero"` // old data of the same cluster is removed first
	// Local tells of old data, Lower from where on changes count where it is
	// converged by block maps.
	Local      *LocalFacts `json:"local,omitempty"`
	Lower      pg.LSN      `json:"lower,omitzero"`
	Candidates []Verdict   `json:"candidates"` // newest first

	converge *Convergence // of ByMaps
	flushed  pg.LSN       // by the leader
	kept     pg.LSN       // what the leader has starts here; 0: not known
}

// RefusalError says why nothing is done. Permanent means that a retry mends
// nothing.
type RefusalError struct {
	Reason    string
	Advice    string
	Permanent bool
	Verdicts  []Verdict
}

func (e *RefusalError) Error() string {
	text := e.Reason
	for _, v := range e.Verdicts {
		text += fmt.Sprintf("\n  %s: %s", v.Backup, v.Reason)
	}
	return text
}

// Hint says what to do about it.
func (e *RefusalError) Hint() string { return e.Advice }

func refuse(permanent bool, advice, format string, args ...any) error {
	return &RefusalError{Reason: fmt.Sprintf(format, args...), Advice: advice, Permanent: permanent}
}

// Decide makes the plan, or says why there is none. It is pure. The plan that
// comes with an error has the verdicts about the backups as far as they are
// known.
func Decide(f Facts) (Plan, error) {
	p := Plan{Purpose: f.Purpose, Target: f.Target, Dir: f.Dir, Snapshot: f.Snapshot}
	if err := f.Target.Validate(); err != nil {
		return p, &RefusalError{Reason: err.Error(), Permanent: true}
	}
	// What can never be mended comes first: whoever waits for a backup should
	// know at once that the directory will not do.
	if err := admitDir(f); err != nil {
		return p, err
	}
	options, err := p.options(f)
	if err == nil {
		err = p.weigh(f, options)
		p.settle(options[0])
	}
	if err != nil && !f.replayable() {
		return p, err
	}
	return p, p.climb(f, options, err)
}

// unusable says why a backup does not lead to the target, "" if it does.
func unusable(f Facts, c Candidate) string {
	b, h := c.Backup, c.Lineage.History
	switch {
	case c.Err != nil:
		if !damaged(c.Err) {
			return "it cannot be read: " + c.Err.Error()
		}
		return "it is damaged: " + c.Err.Error()
	case f.Broken[c.ID] != nil:
		return "it is damaged: " + f.Broken[c.ID].Error()
	case b.SystemID != f.Cluster.SystemID:
		return fmt.Sprintf("its system identifier is %s, not %s", b.SystemID, f.Cluster.SystemID)
	case f.Major != 0 && b.Major() != f.Major:
		return fmt.Sprintf("it is of PostgreSQL %d, the programs here are of %d", b.Major(), f.Major)
	case !archive.LeadsThrough(h, &b):
		return fmt.Sprintf("it ends at %s, which is not on the history of timeline %s", b.Stop, h.Timeline)
	}
	if reason := beyondTarget(f, c); reason != "" {
		return reason
	}
	if c.Unchecked {
		return ""
	}
	if !c.Cover.Reaches(b.Stop.LSN) {
		return fmt.Sprintf("the archive lacks %s, which it needs up to its end at %s", c.Cover.Missing.Name(b.SegmentSize), b.Stop.LSN)
	}
	if c.Unproved != "" {
		return c.Unproved
	}
	return unreachable(f, c)
}

// beyondTarget says why a backup is too new for the target.
func beyondTarget(f Facts, c Candidate) string {
	b := c.Backup
	switch t := f.Target; {
	case f.Purpose == Replica && f.Leader != nil && b.Stop.Timeline == f.Leader.History.Timeline && b.Stop.LSN > f.Leader.Flush:
		// A leader that lost its newest commits in a double failure keeps its
		// timeline's number; a copy of what it lost could never follow it.
		return fmt.Sprintf("it ends at %s, past the leader's %s", b.Stop.LSN, f.Leader.Flush)
	case t.Kind == AtLSN && b.Stop.LSN > t.LSN:
		return fmt.Sprintf("it ends at %s, after the target", b.Stop.LSN)
	case t.Kind == AtTime && b.Finished.After(t.Time):
		return fmt.Sprintf("it was finished at %s, after the target", b.Finished.Format("2006-01-02 15:04:05Z07:00"))
	}
	return ""
}

// unreachable says why the archive does not lead from the backup to the
// target.
func unreachable(f Facts, c Candidate) string {
	size := c.Backup.SegmentSize
	short := func(what string) string {
		text := fmt.Sprintf("the archive goes to %s only (%s is missing), not to %s", c.Cover.Until, c.Cover.Missing.Name(size), what)
		if c.Cover.Hole() {
			text += fmt.Sprintf("; %d later segments are there, so it has a hole", c.Cover.Beyond)
		}
		return text
	}
	if f.Purpose == Replica {
		return unfollowable(f, c, short)
	}
	switch t := f.Target; {
	case t.Kind == Immediate:
		return ""
	case t.Kind == Latest && c.Cover.Hole():
		return short("its end")
	case t.Kind == AtLSN && !c.Cover.RestoresTo(t.LSN):
		return short("the target")
	case t.Kind == AtTime && !c.Newest.Time.After(t.Time) && !(t.Exclusive && c.Newest.Time.Equal(t.Time)):
		if c.Newest.Time.IsZero() {
			return "the archive holds no transaction after it, so recovery would not stop at the target"
		}
		return fmt.Sprintf("the newest transaction that the archive leads to ended at %s, not after the target",
			c.Newest.Time.UTC().Format("2006-01-02 15:04:05.999999Z07:00"))
	case c.Reached != nil && !c.Reached.Found:
		return fmt.Sprintf("%s does not come after it in the archive, which was searched to %s", t, c.Reached.End)
	}
	return ""
}

// unfollowable says why a replica made of the backup could not follow the
// leader.
func unfollowable(f Facts, c Candidate, short func(string) string) string {
	l, size := f.Leader, c.Backup.SegmentSize
	if l == nil {
		if c.Cover.Hole() {
			return short("its end")
		}
		return ""
	}
	// What the leader still has it streams. Its newest segment cannot be
	// archived yet, since it is being written.
	need, what := l.need(size), "the leader's newest segment"
	if need == l.Oldest {
		what = "the oldest WAL that the leader still has, " + l.Oldest.String()
	}
	if !c.Cover.Reaches(need) {
		return short(what)
	}
	return ""
}

// admitDir refuses a directory that no backup may be written to.
func admitDir(f Facts) error {
	d := f.Dir
	switch {
	case d.Running:
		// Patroni calls for a replica right after an immediate stop, when
		// backends may still be going; a refusal would cost the old data.
		return refuse(f.Purpose != Replica, "stop it first", "%s is in use: a PostgreSQL server runs there (process %d)", d.Path, d.PID)
	case d.State == DirForeign:
		return refuse(true, "name an empty directory", "%s is neither empty nor a PostgreSQL data directory: it holds %s", d.Path, d.Example)
	case d.State == DirData && f.Purpose != Replica:
		return refuse(true, "name an empty directory, or move the old data away", "%s holds a PostgreSQL data directory", d.Path)
	case d.State == DirData && d.SystemID != f.Cluster.SystemID:
		return refuse(true, "check the directory and the scope", "%s holds a data directory of another cluster: system identifier %s, not %s", d.Path, d.SystemID, f.Cluster.SystemID)
	case (d.State == DirUnfinished || d.State == DirFinished) && d.SystemID != f.Cluster.SystemID:
		return refuse(true, "remove the directory if nobody needs it", "%s holds an unfinished restore of another cluster, system identifier %s", d.Path, d.SystemID)
	}
	return nil
}

// admit decides whether the backup may be written to the target directory and
// the places outside of it.
func (p *Plan) admit(f Facts) error {
	p.Places = f.places(&p.Backup)
	for _, place := range p.Places {
		if place.OID == 0 {
			p.WALLink = place.Location
		}
	}
	if err := f.missing(p.Places); err != nil {
		return err
	}
	d := f.Dir
	mine := d.Backup == p.Backup.ID && d.SystemID == p.Backup.SystemID
	switch {
	case d.State == DirFinished && mine && d.Purpose == f.Purpose && d.Target.same(f.Target):
		return nil
	case d.State == DirFinished && f.Purpose != Replica:
		return refuse(true, "name an empty directory, or remove this one if nobody needs it",
			"%s holds a finished restore of backup %s to %s, made for %s", d.Path, d.Backup, d.Target, d.Purpose)
	case d.State == DirFinished || d.State == DirData:
		p.Replace = true
	case d.State == DirUnfinished:
		p.Resume = mine
	}
	if p.Replace && f.Leader == nil {
		// It may hold WAL that the leader which died had not archived.
		return refuse(false, "wait until a leader is elected, or remove the directory if it is not needed",
			"%s holds old data, and nobody leads the cluster: the old data may be the best copy there is", d.Path)
	}
	var errs []error
	for from := range maps.Keys(f.Mapping) {
		if !slices.ContainsFunc(p.Backup.Tablespaces, func(t repo.Tablespace) bool { return t.Location == from }) {
			errs = append(errs, refuse(true, tablespaceList(p.Backup.Tablespaces), "backup %s has no tablespace at %s", p.Backup.ID, from))
		}
	}
	for _, place := range p.Places {
		errs = append(errs, p.admitPlace(f, place))
	}
	errs = append(errs, p.overlap(), p.room(f))
	return errors.Join(errs...)
}

func tablespaceList(spaces []repo.Tablespace) string {
	if len(spaces) == 0 {
		return "it has no tablespaces"
	}
	text := "it has tablespaces at"
	for _, t := range spaces {
		text += " " + t.Location
	}
	return text
}

func (p *Plan) admitPlace(f Facts, place Place) error {
	advice := "map it elsewhere with --tablespace OLD=NEW"
	if place.OID == 0 {
		advice = "name an empty directory"
	}
	d, ok := f.Places[place.Path]
	switch {
	case !ok:
		return refuse(false, "", "%s was not looked at", place.Path)
	case d.Unseen != "":
		// A disk that is away, perhaps; for good it would cost the old data.
		return refuse(false, "see to it that the directory can be read", "%s cannot be looked at: %s", place.Path, d.Unseen)
	case d.State == DirForeign, d.State == DirData && !p.Replace && f.Dir.State != DirUnfinished:
		return refuse(true, advice, "%s is not empty: it holds %s", place.Path, d.Example)
	}
	return nil
}

// overlap refuses places that lie within one another.
func (p *Plan) overlap() error {
	paths := []string{p.Dir.Path}
	for _, place := range p.Places {
		for _, other := range paths {
			if within(other, place.Path) || within(place.Path, other) {
				return refuse(true, "choose directories beside each other", "%s and %s lie one inside the other", other, place.Path)
			}
		}
		paths = append(paths, place.Path)
	}
	return nil
}

// room refuses what cannot fit. How the backup divides among file systems is
// not known before its files are listed, so they are counted together.
func (p *Plan) room(f Facts) error {
	if p.Resume {
		return nil // part of it is there already
	}
	free, seen := int64(0), map[uint64]bool{}
	add := func(d DirFacts) bool {
		if d.Free < 0 {
			return false
		}
		free += d.Used
		if !seen[d.Device] {
			free += d.Free
		}
		seen[d.Device] = true
		return true
	}
	if !add(f.Dir) {
		return nil
	}
	for _, place := range p.Places {
		if !add(f.Places[place.Path]) {
			return nil
		}
	}
	if need := p.Backup.Bytes; free < need {
		return refuse(false, "make room, or name another directory", "%s has %d bytes free, the backup needs %d", p.Dir.Path, free, need)
	}
	return nil
}
