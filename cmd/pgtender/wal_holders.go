package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

// neededFrom gives where the oldest backup begins that a server which follows h has
// been through, 0 if there is none.
func neededFrom(backups []backup.Summary, h pg.History) (from pg.LSN) {
	for _, b := range backups {
		if b.Status == backup.Complete && archive.LeadsThrough(h, b.Backup) && (from == 0 || b.Backup.Start.LSN < from) {
			from = b.Backup.Start.LSN
		}
	}
	return from
}

// maxAsked is how many segments members are asked for.
const maxAsked = 10_000

// askMembers notes of each fault which members' pg_wal holds segments of it, and
// gives those that have none. A member that cannot be asked may hold them all the
// same.
func (n *node) askMembers(ctx context.Context, v *archive.Verified, members []patroni.Member) (without []string) {
	names := faultySegments(v)
	if len(names) == 0 {
		return nil
	}
	for _, m := range members {
		if m.Host == "" {
			continue
		}
		there, err := n.inWAL(ctx, m, names)
		if err != nil {
			n.log.WarnContext(ctx, "a member cannot be asked whether it holds WAL that the archive lacks", "member", m.Name, "error", err)
			continue
		}
		noteHolder(v, m.Name, there)
		if len(there) == 0 && len(names) < maxAsked {
			without = append(without, m.Name)
		}
	}
	return without
}

// faultySegments names the segments that a sound copy is looked for.
func faultySegments(v *archive.Verified) (names []string) {
	for i := range v.Faults {
		f := &v.Faults[i]
		if !f.Mendable() {
			continue
		}
		for s := f.Segment; s.Number <= f.Last.Number && len(names) < maxAsked; s.Number++ {
			names = append(names, s.Name(v.SegmentSize))
		}
	}
	return names
}

// noteHolder notes the faults of which a member has segments.
func noteHolder(v *archive.Verified, member string, there []string) {
	for i := range v.Faults {
		f := &v.Faults[i]
		if f.Mendable() && slices.ContainsFunc(there, func(name string) bool {
			return f.Segment.Name(v.SegmentSize) <= name && name <= f.Last.Name(v.SegmentSize)
		}) {
			f.HeldBy = append(f.HeldBy, member)
		}
	}
}

// memberWait is how long one member may take to answer.
const memberWait = 5 * time.Second

// inWAL gives which of the names are files of a member's pg_wal.
func (n *node) inWAL(ctx context.Context, m patroni.Member, names []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, memberWait)
	defer cancel()
	conn, err := n.connectMember(ctx, m)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	rows, err := conn.Query(ctx, `SELECT name FROM pg_catalog.pg_ls_waldir() WHERE name = ANY (pg_catalog.string_to_array($1, ','))`, strings.Join(names, ","))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, row := range rows {
		out = append(out, row[0])
	}
	return out, nil
}

// mayHoldWAL names the members whose pg_wal may hold what the archive lacks:
// those of the cluster, as far as they are known, and those that the repository
// knows from marks, alarms and backups. What cannot be asked is left out.
func mayHoldWAL(ctx context.Context, r *repo.Repo, members []patroni.Member, backups []backup.Summary) []string {
	var out []string
	for _, m := range members {
		out = append(out, m.Name)
	}
	if seen, err := sightings(ctx, r); err == nil {
		for name := range seen {
			out = append(out, name)
		}
	}
	if alarms, err := archive.Alarms(ctx, r); err == nil {
		for _, alarm := range alarms {
			out = append(out, alarm.Member)
		}
	}
	for _, b := range backups {
		if b.Backup != nil {
			out = append(out, b.Backup.SourceMember)
		}
	}
	slices.Sort(out)
	return slices.DeleteFunc(slices.Compact(out), func(name string) bool { return name == "" })
}
