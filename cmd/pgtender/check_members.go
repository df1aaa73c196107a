package main

import (
	"context"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/patroni"
)

// eventSeen is the kind of event by which a member says in the repository that
// it reaches it, and with which versions.
const eventSeen = "seen"

// seenAgain is how old a member's own event may be before it leaves another.
const seenAgain = 24 * time.Hour

// sighting is what a member said of itself in the repository.
type sighting struct {
	pgtender, postgres string
	at                 time.Time // by the store's clock
}

// checkMembers leaves this member's mark in the repository, and judges by
// everybody's whether all share it.
func (c *checkup) checkMembers(ctx context.Context, r *repo.Repo) {
	if c.cluster == nil {
		return
	}
	seen, err := sightings(ctx, r)
	if err != nil {
		c.fail(err, "the members' marks in the repository cannot be read", "")
		return
	}
	if self := c.member(); self != "" {
		own := sighting{pgtender: toolVersion(), postgres: c.local, at: time.Now()}
		if old, ok := seen[self]; !ok || old.pgtender != own.pgtender || old.postgres != own.postgres || time.Since(old.at) > seenAgain {
			e := repo.Event{Kind: eventSeen, Subject: self, Time: time.Now(), Data: map[string]string{"pgtender": own.pgtender, "postgres": own.postgres}}
			if _, err := r.PutEvent(ctx, e); err != nil {
				c.fail(err, "this member's mark cannot be left in the repository", "")
			}
		}
		seen[self] = own
	}
	c.found = append(c.found, judgeMembers(*c.cluster, seen)...)
}

// sightings reads the newest mark of every member.
func sightings(ctx context.Context, r *repo.Repo) (map[string]sighting, error) {
	events, err := r.Events(ctx)
	if err != nil {
		return nil, err
	}
	seen := map[string]sighting{}
	for _, e := range events { // oldest first
		if e.Err == nil && e.Kind == eventSeen {
			seen[e.Subject] = sighting{pgtender: e.Data["pgtender"], postgres: e.Data["postgres"], at: e.Object.Modified}
		}
	}
	return seen, nil
}

// judgeMembers says which members are not known to reach the repository, and
// where versions differ.
func judgeMembers(c patroni.Cluster, seen map[string]sighting) []finding.Finding {
	var j judgement
	tool, postgres := map[string][]string{}, map[string][]string{}
	unseen := 0
	for _, m := range c.Members {
		s, ok := seen[m.Name]
		if !ok {
			unseen++
			j.add(finding.Warning, "run pgtender check on "+m.Name, "member %s has not been seen in this repository: it may not reach it, or use another one", m.Name)
			continue
		}
		tool[s.pgtender] = append(tool[s.pgtender], m.Name)
		if s.postgres != "" {
			postgres[s.postgres] = append(postgres[s.postgres], m.Name)
		}
	}
	if unseen == 0 && len(c.Members) > 0 {
		j.add(finding.OK, "", "every member has been seen in this repository")
	}
	again := "bring all members to one version, and run pgtender check on each"
	j.versions("pgtender", again, tool)
	j.versions("PostgreSQL", again, postgres)
	return j
}
