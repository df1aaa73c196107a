package main

import (
	"context"
	"strings"

	"github.com/pgtender/pgtender/backup/archive/agent"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/patroni"
)

// holding is what is known of a replica that may have to lead: whether it keeps
// WAL which the leader has not archived.
type holding struct {
	member string
	err    error  // it could not be asked
	slot   string // by which its agent holds WAL, "" if there is none
	always bool   // it archives itself: archive_mode is always
}

// checkHolding asks every replica.
func (c *checkup) checkHolding(ctx context.Context) {
	if c.cluster == nil {
		return
	}
	var all []holding
	for _, m := range c.cluster.Members {
		if m.Name != c.cluster.Leader && m.Role == patroni.RoleReplica && m.State == patroni.StateRunning && m.Host != "" {
			all = append(all, c.holding(ctx, m))
		}
	}
	c.found = append(c.found, judgeHolding(all)...)
}

func (c *checkup) holding(ctx context.Context, m patroni.Member) holding {
	h := holding{member: m.Name}
	conn, err := c.connectMember(ctx, m)
	if err != nil {
		h.err = err
		return h
	}
	defer conn.Close()
	slots, err := conn.PhysicalSlots(ctx)
	if err != nil {
		h.err = err
		return h
	}
	for _, s := range slots {
		if strings.HasPrefix(s.Name, agent.SlotPrefix) && s.Active && s.Restart != 0 && s.WALStatus != "lost" {
			h.slot = s.Name
		}
	}
	info, err := conn.Info(ctx)
	h.err, h.always = err, info.ArchiveMode == "always" && patroni.RunnerOf(info.ArchiveCommand) == patroni.Pgtender
	return h
}

// judgeHolding says where nothing guarantees that a failover leaves no hole. With
// archive_mode=on a standby marks streamed WAL as archived and recycles it
// (XLogWalRcvWrite in PostgreSQL's walreceiver.c), whether the leader was done
// with it or not.
func judgeHolding(all []holding) []finding.Finding {
	var j judgement
	good := 0
	for _, h := range all {
		switch {
		case h.err != nil:
			j.add(finding.Warning, "let postgresql.authentication.superuser of patroni.yml log in from this host: pg_hba.conf of "+h.member,
				"%s cannot be asked whether it keeps WAL until it is archived: %v", h.member, h.err)
		case h.slot == "" && !h.always:
			j.add(finding.Warning, "run pgtender agent on "+h.member+", or set archive_mode to always",
				"nothing makes %s keep WAL until it is archived: if the leader is lost with WAL that it had not archived, a hole may remain", h.member)
		default:
			good++
		}
	}
	if good > 0 && good == len(all) {
		j.add(finding.OK, "", "every replica keeps WAL until it is archived")
	}
	return j
}
