package catchup

import (
	"fmt"
	"slices"

	"github.com/pgtender/pgtender/backup/repo"
)

// RungName names a rung.
type RungName string

// The rungs, cheapest first.
const (
	Nothing     RungName = "nothing to do"
	ByReplay    RungName = "stream or replay WAL"
	ByMaps      RungName = "converge by block maps"
	ByHashes    RungName = "converge by page hashes"
	FullRestore RungName = "full restore"
)

// inPlace reports whether old data is made the backup's image where it lies.
func (n RungName) inPlace() bool { return n == ByMaps || n == ByHashes }

// Rung is one way to make the directory valid.
type Rung struct {
	Name RungName `json:"name"`
	// Backup is the one that it leans on, zero if none.
	Backup repo.BackupID `json:"backup,omitzero"`
	Open   bool          `json:"open"`
	Reason string        `json:"reason"` // why it is open or closed
	// MayPass says of a closed rung that a retry, a backup or an archived
	// segment may open it.
	MayPass bool  `json:"may_pass,omitzero"`
	Fetch   int64 `json:"fetch_bytes"` // from the repository, as stored
	// Requests is how many objects or parts of objects are read, roughly.
	Requests int64 `json:"requests"`
	Write    int64 `json:"write_bytes"` // to the directory
	Replay   int64 `json:"wal_bytes"`   // by the server afterwards, at most, as stored
	Seconds  int64 `json:"seconds"`     // roughly, replay included

	exact float64 // seconds, before they were rounded
}

// replayable reports whether WAL alone makes the directory follow.
func (f *Facts) replayable() bool { return f.Replay != nil && f.Replay.Closed == "" }

// climb fills in the ladder and chooses. Of each rung that leans on a backup the
// ladder has the cheapest. noBackup is why no backup serves, nil if one does.
func (p *Plan) climb(f Facts, options []*option, noBackup error) error {
	p.Local = f.Local
	if f.Leader != nil {
		p.flushed, p.kept = f.Leader.Flush, f.Leader.Oldest
	}
	p.Rungs = []Rung{p.nothing(f)}
	leaning := []RungName{FullRestore}
	if f.Dir.precious() && f.Purpose == Replica {
		p.Rungs = append(p.Rungs, f.byReplay())
		leaning = []RungName{ByMaps, ByHashes, FullRestore}
	}
	for _, name := range leaning {
		p.Rungs = append(p.Rungs, cheapest(options, name, noBackup))
	}
	if err := p.choose(f); err != nil {
		return err
	}
	p.take(options)
	switch {
	case p.Choice == ByReplay:
		p.Timeline, p.Replace, p.Resume = f.Leader.History.Timeline, false, false
		p.Lineage.History, p.Lineage.Source = f.Leader.History, "leader"
	case p.Choice.inPlace():
		p.Replace = false
		p.Resume = p.Resume && f.Dir.Rung == p.Choice
		if c := f.candidate(p.Backup.ID); p.Choice == ByMaps && c != nil && c.Converge != nil {
			p.converge, p.Lower = c.Converge, c.Converge.Lower
		}
	case p.Choice == FullRestore && f.Dir.State == DirUnfinished && f.Dir.Rung.inPlace():
		p.Replace, p.Resume = true, false
	}
	return nil
}

func (f *Facts) candidate(id repo.BackupID) *Candidate {
	if i := slices.IndexFunc(f.Candidates, func(c Candidate) bool { return c.ID == id && id != 0 }); i >= 0 {
		return &f.Candidates[i]
	}
	return nil
}

func (p *Plan) nothing(f Facts) Rung {
	r := Rung{Name: Nothing, Reason: "the directory does not hold the backup"}
	if f.Dir.State == DirFinished && !p.Replace {
		r.Open, r.Reason = true, "an earlier run has done it all, and no server has run since"
	}
	return r
}

func (f *Facts) byReplay() Rung {
	r := Rung{Name: ByReplay, Reason: "the data is not that of a stopped server"}
	switch {
	case f.Replay == nil:
	case f.Replay.Closed != "":
		r.Reason, r.MayPass = f.Replay.Closed, f.Replay.MayPass
	default:
		r.Open, r.Replay = true, f.Replay.Bytes
		r.Reason = fmt.Sprintf("the data is on the leader's history up to %s, and WAL from %s on is there", f.Local.End, f.Local.Redo)
		r.estimate(0)
	}
	return r
}

func (o *option) byMaps(f Facts) Rung {
	p, c := &o.plan, o.candidate
	r := Rung{Name: ByMaps, Backup: c.ID, Replay: p.Cover.Bytes}
	switch {
	case f.Dir.State == DirUnfinished && f.Dir.Rung == ByMaps && p.Resume && f.NoMaps == "":
		r.Open, r.Reason = true, "an interrupted run of the same goes on"
	case f.Dir.State == DirUnfinished:
		r.Reason = "what an interrupted run has written already is not known to the block maps"
		if f.NoMaps != "" {
			r.Reason = f.NoMaps
		}
	case c.Converge == nil:
		r.Reason = "the data is not that of a stopped server"
	case c.Converge.Closed != "":
		r.Reason, r.MayPass = c.Converge.Closed, c.Converge.MayPass
	default:
		r.Open = true
		r.Fetch, r.Requests, r.Write = c.Converge.Cost.Fetch, c.Converge.Cost.Requests, c.Converge.Cost.Write
		r.Reason = fmt.Sprintf("all that changed since %s on either branch is known: %d pages", c.Converge.Lower, c.Converge.Cost.Pages)
		r.estimate(0)
	}
	return r
}

func (o *option) byHashes(f Facts) Rung {
	p := &o.plan
	r := Rung{Name: ByHashes, Backup: o.candidate.ID, Replay: p.Cover.Bytes}
	switch {
	case f.Dir.State == DirFinished:
		r.Reason = "the data is that of a restore in which no server has run"
	default:
		r.Open, r.Reason = true, "every page is compared with the hash that the repository has of it; at most this much differs"
		r.Fetch, r.Write = p.stored(), p.Backup.Bytes
		r.Requests = r.Fetch/(8<<20) + 3*p.Backup.Packs
		r.estimate(f.Dir.Used)
	}
	return r
}

func (o *option) full(f Facts) Rung {
	p := &o.plan
	r := Rung{
		Name: FullRestore, Backup: o.candidate.ID, Open: true, Reason: "the directory is empty",
		Fetch: p.stored(), Requests: p.stored()/(8<<20) + p.Backup.Packs,
		Write: p.Backup.Bytes, Replay: p.Cover.Bytes,
	}
	switch {
	case f.Dir.State == DirUnfinished && f.Dir.Rung.inPlace():
		r.Reason = "the data of an interrupted run is replaced"
	case p.Resume:
		r.Reason = "an interrupted restore of the same backup goes on"
	case p.Replace:
		r.Reason = "the directory holds old data of this cluster, which is replaced"
	case f.Dir.State == DirUnfinished:
		r.Reason = fmt.Sprintf("an interrupted restore of backup %s is given up", f.Dir.Backup)
	}
	r.estimate(0)
	return r
}

// stored estimates what all files of the backup take in the repository: an
// incremental has stored only some of them itself.
func (p *Plan) stored() int64 {
	b := &p.Backup
	if b.RawBytes <= 0 {
		return b.Bytes / 4
	}
	return int64(float64(b.Bytes) * min(float64(b.StoredBytes)/float64(b.RawBytes), 1))
}

// choose takes the lowest rung that is open, unless a higher one is much
// quicker: replay of a week of WAL is the cheapest to ask for, and takes hours.
func (p *Plan) choose(f Facts) error {
	chosen, insist := -1, f.Rung
	if !f.Dir.precious() {
		insist = "" // it is about old data, and there is none
	}
	for i, r := range p.Rungs {
		switch {
		case insist != "" && r.Name != insist:
		case insist != "" && !r.Open:
			return refuse(!r.MayPass, "leave the choice to the plan", "the way asked for, %q, is closed: %s", r.Name, r.Reason)
		case !r.Open:
		case chosen < 0:
			chosen = i
		case r.Name != ByHashes && r.Name != FullRestore && r.Seconds*2 < p.Rungs[chosen].Seconds && p.Rungs[chosen].Seconds-r.Seconds > 60:
			chosen = i
		}
	}
	if chosen < 0 {
		return refuse(true, "leave the choice to the plan", "the way asked for, %q, is not known", insist)
	}
	p.Choice = p.Rungs[chosen].Name
	return nil
}
