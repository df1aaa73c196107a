package catchup

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/pgtender/pgtender/backup/repo"
)

// option is one backup that serves, with what the ways cost that lean on it.
type option struct {
	candidate *Candidate
	verdict   int  // which of Plan.Candidates is about it
	plan      Plan // as it would be with this backup
	refused   error
	rungs     []Rung
}

// options judges all backups, the newest first, and gives those that serve and
// were looked at closely. The error says why there is none.
func (p *Plan) options(f Facts) ([]*option, error) {
	if f.SystemID != 0 && f.Cluster.SystemID != f.SystemID {
		return nil, refuse(true, "name the right cluster, or remove the initialize key if this cluster is to be another",
			"the repository's cluster %s is not the one that the DCS names, system identifier %s", f.Cluster, f.SystemID)
	}
	var out []*option
	for i := range slices.Backward(f.Candidates) {
		c := &f.Candidates[i]
		reason := unusable(f, *c)
		if f.Backup != 0 && c.ID != f.Backup {
			reason = "another one was asked for"
		}
		v := Verdict{Backup: c.ID, Usable: reason == "", Reason: reason}
		if v.Usable {
			v.Reason = "older than one that serves"
			switch {
			case c.ID == f.begun():
				// What an earlier run has fetched is worth more than less WAL.
				v.Reason = "it serves, and an interrupted run has part of it already"
				out = []*option{{candidate: c, verdict: len(p.Candidates)}}
			case len(out) > 0 && (out[0].candidate.ID == f.begun() || !f.weighs() || c.Unchecked):
			default:
				if len(out) == 0 {
					v.Reason = "the newest that serves"
				}
				out = append(out, &option{candidate: c, verdict: len(p.Candidates)})
			}
		}
		p.Candidates = append(p.Candidates, v)
	}
	if len(out) == 0 {
		return nil, p.noBackup(f)
	}
	return out, nil
}

// weighs reports whether another backup than the newest may be the better one:
// where there is old data, the one that is nearest to it may cost least. Without
// any, the newest is never worse.
func (f *Facts) weighs() bool { return f.Purpose == Replica && f.Dir.precious() }

// noBackup says why no backup serves.
func (p *Plan) noBackup(f Facts) error {
	switch {
	case len(f.Candidates) == 0:
		// On a cluster's first day there is none, and the next of Patroni's
		// methods must not wait for it; but it would cost old data.
		return refuse(f.Dir.State == DirEmpty, "take one with: pgtender backup", "the repository holds no backup of cluster %s", f.Cluster)
	case f.Backup != 0 && !slices.ContainsFunc(f.Candidates, func(c Candidate) bool { return c.ID == f.Backup }):
		return refuse(true, "list the backups with: pgtender info", "the repository holds no backup %s of cluster %s", f.Backup, f.Cluster)
	}
	e := &RefusalError{Reason: fmt.Sprintf("no backup leads to %s", f.Target), Verdicts: p.Candidates,
		Advice: "choose another target, timeline or backup, or take a new backup with: pgtender backup"}
	if f.Purpose == Replica {
		e.Reason = "no backup leads to where the leader can be followed"
		e.Advice = "see what the archive lacks with: pgtender info; a new backup mends it: pgtender backup"
	}
	return e
}

// weigh costs the ways that lean on each backup. The error is the newest one's
// if none may be written to the directory.
func (p *Plan) weigh(f Facts, options []*option) error {
	var refused error
	for _, o := range options {
		c := o.candidate
		o.plan = *p
		o.plan.Backup, o.plan.Cover, o.plan.Lineage, o.plan.Timeline = c.Backup, c.Cover, c.Lineage, c.Lineage.Timeline
		if o.refused = o.plan.admit(f); o.refused != nil {
			refused = cmp.Or(refused, o.refused)
			p.Candidates[o.verdict].Reason += ", but " + o.refused.Error()
			continue
		}
		if f.weighs() {
			o.rungs = append(o.rungs, o.byMaps(f), o.byHashes(f))
		}
		o.rungs = append(o.rungs, o.full(f))
		p.Candidates[o.verdict].Rungs = o.rungs
	}
	if slices.ContainsFunc(options, func(o *option) bool { return o.refused == nil }) {
		return nil
	}
	return refused
}

// worthwhile is how many seconds an older backup must save: it leaves more WAL to
// replay, of which less is known than of pages.
const worthwhile = 0.1

// cheapest gives the rung of a name of the backup with which it takes the least
// time; of equals, and where all are closed, the newest's.
func cheapest(options []*option, name RungName, noBackup error) Rung {
	best := Rung{Name: name, Reason: "no backup serves"}
	if noBackup != nil && name == FullRestore {
		best.Reason = noBackup.Error()
	}
	var refusal *RefusalError
	best.MayPass = noBackup != nil && !(errors.As(noBackup, &refusal) && refusal.Permanent)
	for _, o := range options {
		for _, r := range o.rungs {
			if r.Name == name && (best.Backup == 0 || r.Open && (!best.Open || r.exact < best.exact-worthwhile)) {
				best = r
			}
		}
	}
	return best
}

// take makes the plan that of the backup that the chosen rung leans on, else of
// the newest one, and says of the others what they would have cost.
func (p *Plan) take(options []*option) {
	if len(options) == 0 {
		return
	}
	chosen := p.rung(p.Choice)
	taken := options[0]
	if i := slices.IndexFunc(options, func(o *option) bool { return o.candidate.ID == chosen.Backup }); i > 0 {
		taken = options[i]
	}
	p.settle(taken)
	for _, o := range options {
		v := &p.Candidates[o.verdict]
		if o.refused != nil || chosen.Backup == 0 || len(options) == 1 {
			continue
		}
		if o == taken {
			if o != options[0] {
				v.Reason = fmt.Sprintf("it serves, and %s takes the least time from it", p.Choice)
			}
			continue
		}
		for _, r := range o.rungs {
			switch {
			case r.Name != p.Choice:
			case !r.Open:
				v.Reason = fmt.Sprintf("it serves, but not to %s: %s", p.Choice, r.Reason)
			case r.exact > chosen.exact+worthwhile:
				v.Reason = fmt.Sprintf("it serves, but to %s takes %.1f s from it, not %.1f s", p.Choice, r.exact, chosen.exact)
			}
		}
	}
}

// settle takes over what the plan with one backup says.
func (p *Plan) settle(o *option) {
	q := &o.plan
	p.Backup, p.Cover, p.Lineage, p.Timeline = q.Backup, q.Cover, q.Lineage, q.Timeline
	p.Places, p.WALLink, p.Replace, p.Resume = q.Places, q.WALLink, q.Replace, q.Resume
}

// rung gives the rung of a name.
func (p *Plan) rung(name RungName) Rung {
	if i := slices.IndexFunc(p.Rungs, func(r Rung) bool { return r.Name == name }); i >= 0 {
		return p.Rungs[i]
	}
	return Rung{}
}

// Limits of how many backups are looked at closely where several may serve: each
// takes its page maps and some requests.
const (
	weighedPerTimeline = 3
	weighedAtMost      = 8
)

// weighing counts the backups that were looked at closely and serve.
type weighing struct {
	all  int
	by   map[repo.Incarnation]int // two timelines of one number are two
	from *Facts
}

// wants reports whether one more backup is to be looked at.
func (w *weighing) wants(c *Candidate) bool {
	switch {
	case c.ID == w.from.begun(), w.all == 0:
		return true
	case !w.from.weighs():
		return false
	}
	return w.all < weighedAtMost && w.by[repo.IncarnationOf(c.Backup.StopHistory())] < weighedPerTimeline
}

func (w *weighing) count(c *Candidate) {
	w.all++
	w.by[repo.IncarnationOf(c.Backup.StopHistory())]++
}
