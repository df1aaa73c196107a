package catchup

import (
	"errors"
	"fmt"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// Rung is one way to make the directory valid.
type Rung struct {
	Name   string `json:"name"`
	Open   bool   `json:"open"`
	Reason string `json:"reason"` // why it is chosen, possible or closed
	Fetch  int64  `json:"fetch_bytes"`
	Write  int64  `json:"write_bytes"`
	Replay int64  `json:"wal_bytes"`
}

// Verdict is what the plan says about one backup.
type Verdict struct {
	Backup repo.BackupID `json:"backup"`
	Usable bool          `json:"usable"`
	Reason string        `json:"reason"`
}

// Plan is what Run carries out.
type Plan struct {
	Purpose    Purpose
	Target     Target
	Backup     repo.Backup
	Lineage    archive.Lineage
	Cover      archive.Cover
	Resume     bool // an earlier run of the same backup goes on
	Replace    bool // old data of the same cluster is removed first
	Rungs      []Rung
	Candidates []Verdict // newest first
	Leader     *LeaderFacts
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

// Decide makes the plan, or says why there is none. It is pure.
func Decide(f Facts) (Plan, error) {
	if err := f.Target.Validate(); err != nil {
		return Plan{}, &RefusalError{Reason: err.Error(), Permanent: true}
	}
	p := Plan{Purpose: f.Purpose, Target: f.Target, Lineage: f.Lineage, Leader: f.Leader}
	if err := p.chooseBackup(f); err != nil {
		return p, err
	}
	if err := p.admit(f); err != nil {
		return p, err
	}
	full := Rung{Name: "full restore", Open: true, Reason: "the directory is empty",
		Fetch: p.Backup.StoredBytes, Write: p.Backup.Bytes, Replay: p.Cover.Bytes}
	switch {
	case p.Resume:
		full.Reason = "an interrupted restore of the same backup goes on"
	case p.Replace:
		full.Reason = "the directory holds old data of this cluster, which is replaced"
	}
	p.Rungs = []Rung{full}
	return p, nil
}

// chooseBackup takes the newest backup that serves, or the one asked for.
func (p *Plan) chooseBackup(f Facts) error {
	for i := len(f.Candidates) - 1; i >= 0; i-- {
		c := f.Candidates[i]
		reason := unusable(f, c)
		if reason == "" && f.Backup != 0 && c.ID != f.Backup {
			reason = "another one was asked for"
		}
		v := Verdict{Backup: c.ID, Usable: reason == "", Reason: reason}
		switch {
		case v.Usable && p.Backup.ID == 0:
			v.Reason = "the newest that serves"
			p.Backup, p.Cover = c.Backup, c.Cover
		case v.Usable:
			v.Reason = "serves, but is older"
		}
		p.Candidates = append(p.Candidates, v)
	}
	switch {
	case p.Backup.ID != 0:
		return nil
	case len(f.Candidates) == 0:
		return &RefusalError{Reason: "the repository holds no backup of this cluster", Advice: "take one with: pgtender backup"}
	}
	return &RefusalError{
		Reason:   fmt.Sprintf("no backup leads to %s", f.Target),
		Advice:   "choose another target or timeline, or take a new backup with: pgtender backup",
		Verdicts: p.Candidates,
	}
}

// unusable says why a backup does not lead to the target, "" if it does.
func unusable(f Facts, c Candidate) string {
	b, h := c.Backup, f.Lineage.History
	switch {
	case c.Err != nil:
		return "it is damaged: " + c.Err.Error()
	case f.SystemID != 0 && b.SystemID != f.SystemID:
		return fmt.Sprintf("its system identifier is %s, not %s", b.SystemID, f.SystemID)
	case !h.Contains(b.Start) || !h.Contains(b.Stop):
		return fmt.Sprintf("it ends at %s, which is not on the history of timeline %s", b.Stop, h.Timeline)
	case c.Cover.Until < b.Stop.LSN:
		return fmt.Sprintf("WAL is missing from %s on, before its end at %s", c.Cover.Missing.Name(b.SegmentSize), b.Stop.LSN)
	}
	if reason := beyondTarget(f, b); reason != "" {
		return reason
	}
	return unreachable(f, c)
}

// beyondTarget says why a backup is too new for the target.
func beyondTarget(f Facts, b repo.Backup) string {
	switch t := f.Target; {
	case t.Kind == AtLSN && b.Stop.LSN > t.LSN:
		return fmt.Sprintf("it ends at %s, after the target", b.Stop.LSN)
	case t.Kind == AtTime && b.Finished.After(t.Time):
		return fmt.Sprintf("it was finished at %s, after the target", b.Finished.Format("2006-01-02 15:04:05Z07:00"))
	case (t.Kind == AtXID || t.Kind == AtName) && f.Found != 0 && b.Stop.LSN > f.Found:
		return fmt.Sprintf("it ends at %s, after the target at %s", b.Stop.LSN, f.Found)
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
	switch t := f.Target; {
	case f.Purpose == Replica && f.Leader != nil:
		need, what := size.Start(size.SegmentOf(f.Leader.Flush)), "the leader's newest segment"
		if f.Leader.Oldest != 0 {
			need, what = min(need, f.Leader.Oldest), "the oldest WAL that the leader still has, "+f.Leader.Oldest.String()
		}
		if c.Cover.Until < need {
			return short(what)
		}
	case t.Kind == AtLSN && !c.Cover.Reaches(t.LSN):
		return short("the target")
	case t.Kind == AtTime && !f.Newest.IsZero() && f.Newest.Before(t.Time):
		return fmt.Sprintf("the newest commit in the archive is of %s, before the target", f.Newest.Format("2006-01-02 15:04:05.999999Z07:00"))
	case f.NotFound:
		return fmt.Sprintf("the archive does not hold %s up to its end at %s", t, c.Cover.Until)
	case f.Found != 0 && !c.Cover.Reaches(f.Found):
		return short("the target at " + f.Found.String())
	case t.Kind == Latest && c.Cover.Hole():
		return short("its end")
	}
	return ""
}

// admit decides whether the target directory may be written.
func (p *Plan) admit(f Facts) error {
	d := f.Dir
	switch {
	case d.Running:
		return refuse(true, "stop it first", "%s is in use: a PostgreSQL server runs there (process %d)", d.Path, d.PID)
	case d.State == DirForeign:
		return refuse(true, "name an empty directory", "%s is neither empty nor a PostgreSQL data directory: it holds %s", d.Path, d.Example)
	case d.State == DirData && f.Purpose != Replica:
		return refuse(true, "name an empty directory, or move the old data away", "%s holds a PostgreSQL data directory", d.Path)
	case d.State == DirData && d.SystemID != p.Backup.SystemID:
		return refuse(true, "check the directory and the scope", "%s holds a data directory of another cluster: system identifier %s, not %s", d.Path, d.SystemID, p.Backup.SystemID)
	case d.State == DirData:
		p.Replace = true
	case d.State == DirUnfinished && d.SystemID != p.Backup.SystemID:
		return refuse(true, "remove the directory if nobody needs it", "%s holds an unfinished restore of another cluster, system identifier %s", d.Path, d.SystemID)
	case d.State == DirUnfinished && d.Backup == p.Backup.ID:
		p.Resume = true
	}
	var errs []error
	for _, t := range p.Backup.Tablespaces {
		d, ok := f.Tablespaces[t.OID]
		switch {
		case !ok:
			errs = append(errs, refuse(true, "", "tablespace %d has no target directory", t.OID))
		case d.State == DirForeign || d.State == DirData && f.Purpose != Replica:
			errs = append(errs, refuse(true, "map it elsewhere with --tablespace OLD=NEW", "tablespace directory %s is not empty: it holds %s", d.Path, d.Example))
		}
	}
	if need := p.Backup.Bytes; d.Free >= 0 && !p.Resume && !p.Replace && d.Free < need {
		errs = append(errs, refuse(false, "make room, or name another directory", "%s has %d bytes free, the backup needs %d", d.Path, d.Free, need))
	}
	return errors.Join(errs...)
}

// SegmentSize gives the cluster's WAL segment size.
func (p *Plan) SegmentSize() pg.SegmentSize { return p.Backup.SegmentSize }
