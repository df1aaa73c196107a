package main

import (
	"context"
	"strings"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/agent"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

// holding is what is known of a replica that may have to lead: whether it keeps
// WAL which the leader has not archived.
type holding struct {
	member string
	err    error  // it could not be asked
	slot   string // by which its agent holds WAL, "" if there is none
	from   pg.LSN // where that slot stands
	always bool   // it archives itself: archive_mode is always
}

// askReplicas asks every replica how it keeps WAL.
func (c *checkup) askReplicas(ctx context.Context) {
	if c.cluster == nil {
		return
	}
	for _, m := range c.cluster.Members {
		if m.Name != c.cluster.Leader && m.Role == patroni.RoleReplica && m.State == patroni.StateRunning && m.Host != "" {
			c.replicas = append(c.replicas, c.holding(ctx, m))
		}
	}
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
			h.slot, h.from = s.Name, s.Restart
		}
	}
	info, err := conn.Info(ctx)
	h.err, h.always = err, info.ArchiveMode == "always" && patroni.RunnerOf(info.ArchiveCommand) == patroni.Pgtender
	return h
}

// judgeHolding says where nothing guarantees that a failover leaves no hole. With
// archive_mode=on a standby marks streamed WAL as archived and recycles it
// (XLogWalRcvWrite in PostgreSQL's walreceiver.c), whether the leader was done
// with it or not. status was read after the replicas were asked; nil: it could not be.
func judgeHolding(all []holding, status *archive.Status) []finding.Finding {
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
		case !h.always && status == nil:
			j.add(finding.Info, "", "%s keeps WAL from %s on; whether all before that is archived cannot be seen", h.member, h.from)
		case !h.always && h.lacks(status):
			next, _ := status.Next()
			j.add(finding.Warning, "see that archiving works; what "+h.member+" still has its agent archives, where it can",
				"%s keeps WAL from %s on only, and %s is not archived yet: if the leader is lost now, a hole may remain",
				h.member, h.from, next.Name(status.SegmentSize))
		default:
			good++
		}
	}
	if good > 0 && good == len(all) && (status == nil || !status.Hole()) {
		j.add(finding.OK, "", "every replica keeps WAL until it is archived")
	}
	return j
}

// lacks reports whether there is WAL that is neither archived nor held by the slot:
// it was made late, or had to let go.
func (h *holding) lacks(status *archive.Status) bool {
	next, ok := status.Next()
	return ok && status.SegmentSize.SegmentOf(h.from) > next.Number
}
