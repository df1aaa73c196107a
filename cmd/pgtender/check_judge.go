package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/patroni"
)

// judgement collects findings of one pure check.
type judgement []finding.Finding

func (j *judgement) add(s finding.Severity, hint, format string, args ...any) {
	*j = append(*j, finding.Finding{Severity: s, Text: fmt.Sprintf(format, args...), Hint: hint})
}

// judgeCluster judges what the DCS says, for the member of this node.
func judgeCluster(c patroni.Cluster, self string) []finding.Finding {
	var j judgement
	switch _, ok := c.Member(self); {
	case self == "":
		j.add(finding.Warning, "set name in patroni.yml, or dcs.member", "this node's member name is not known: backup does not run here")
	case !ok:
		j.add(finding.Error, "check scope and name in patroni.yml, and whether Patroni runs here", "this node's member %s is not in cluster %s, which has %s", self, c.Scope, memberNames(c))
	}
	if c.Init != patroni.Initialized {
		j.add(finding.Error, "let Patroni finish its bootstrap first", "the cluster is not initialised yet")
	}
	if c.Leader == "" {
		j.add(finding.Error, "patronictl list shows what Patroni is doing", "the cluster has no leader: no backup can be taken, no replica be built")
	}
	if c.Dynamic.Pause {
		j.add(finding.Info, "", "the cluster is paused")
	}
	for _, p := range c.Problems {
		j.add(finding.Warning, "", "the DCS holds something that cannot be read: %s", p)
	}
	versions := map[string][]string{}
	for _, m := range c.Members {
		if m.Version != "" {
			versions[m.Version] = append(versions[m.Version], m.Name)
		}
	}
	j.versions("Patroni", "bring all members to one version", versions)
	return j
}

func memberNames(c patroni.Cluster) string {
	names := make([]string, len(c.Members))
	for i, m := range c.Members {
		names[i] = m.Name
	}
	if len(names) == 0 {
		return "no members"
	}
	return strings.Join(names, ", ")
}

// versions warns where members run different versions of one program.
func (j *judgement) versions(program, hint string, versions map[string][]string) {
	if len(versions) < 2 {
		return
	}
	var parts []string
	for v, members := range versions {
		slices.Sort(members)
		parts = append(parts, v+" ("+strings.Join(members, ", ")+")")
	}
	slices.Sort(parts)
	j.add(finding.Warning, hint, "the members run different versions of %s: %s", program, strings.Join(parts, "; "))
}

// judgeServer judges the settings in force on a server. configured is the
// archive_command that Patroni is told to set, "" if that is not known; what is
// wrong with that one is said elsewhere.
func judgeServer(s server.Info, who, configured string) []finding.Finding {
	var j judgement
	if major := s.Version.Major(); major < server.OldestMajor || major > server.NewestMajor {
		j.add(finding.Error, "use a release of pgtender that knows it", "%s is PostgreSQL %s, and only %d to %d are known", who, s.Version, server.OldestMajor, server.NewestMajor)
	}
	if s.WALLevel == "minimal" {
		j.add(finding.Error, "set wal_level to replica and restart", "wal_level of %s is minimal", who)
	}
	if !s.FullPageWrites {
		j.add(finding.Error, "set full_page_writes to on", "full_page_writes of %s is off: pages torn in a backup could not be repaired", who)
	}
	if !s.DataChecksums {
		j.add(finding.Info, "pg_checksums --enable, on stopped servers, makes damaged pages noticed", "%s has no data checksums", who)
	}
	switch {
	case s.ArchiveMode == "off":
		j.add(finding.Error, "set archive_mode to on (it needs a restart) and archive_command to: pgtender archive-push %p", "archive_mode of %s is off: no WAL is archived", who)
	case s.ArchiveLibrary != "":
		j.add(finding.Error, "remove archive_library, so that archive_command counts", "archive_library of %s is %q", who, s.ArchiveLibrary)
	case s.ArchiveCommand == configured:
	case patroni.RunnerOf(s.ArchiveCommand) == patroni.Other:
		j.add(finding.Error, "set archive_command to: pgtender archive-push %p, and see whether a reload or restart is pending",
			"archive_command in force on %s is %q, which is not pgtender's", who, s.ArchiveCommand)
	case patroni.RunnerOf(s.ArchiveCommand) == patroni.Unclear:
		j.add(finding.Warning, "if it does not, set archive_command to: pgtender archive-push %p, and see whether a reload or restart is pending",
			"archive_command in force on %s is %q: whether it runs pgtender cannot be seen", who, s.ArchiveCommand)
	}
	return j
}

// judgeArchiver judges by the primary's own count whether archiving works.
func judgeArchiver(s server.ArchiverStats, leader string) []finding.Finding {
	var j judgement
	if s.LastFailed != "" && s.LastFailedAt.After(s.LastArchivedAt) {
		j.add(finding.Error, "the server's log on "+leader+" has the command's own message",
			"archiving fails on %s: last tried was %s, at %s", leader, s.LastFailed, clock(s.LastFailedAt))
	}
	return j
}

// judgeReceiver judges by the leader's slots what holds WAL for a receiver, if one
// works: Patroni drops slots that it does not know.
func judgeReceiver(slots []server.Slot, name string, d patroni.Dynamic, leader string) []finding.Finding {
	var j judgement
	kept := d.Known && keepsSlot(d, name)
	declare := fmt.Sprintf("patronictl edit-config -s 'slots.%s.type=physical'", name)
	for _, s := range slots {
		switch {
		case s.Name == name && s.WALStatus == "lost":
			j.add(finding.Warning, "is pgtender receive running? It makes the slot anew; raise max_slot_wal_keep_size if it may be away for long",
				"replication slot %s on %s has lost the WAL that it held for the receiver", name, leader)
		case !d.Known:
		case s.Name == name && kept:
			j.add(finding.OK, "", "WAL is held for the receiver by slot %s on %s, which Patroni keeps", name, leader)
		case s.Name == name:
			j.add(finding.Warning, declare, "replication slot %s on %s, which holds WAL for the receiver, is not declared to Patroni, which drops it sooner or later", name, leader)
		case s.Temporary && strings.HasPrefix(s.Name, name+"_") && !kept:
			j.add(finding.Warning, declare, "slot %s is not declared to Patroni: %s holds WAL for the receiver only while it runs", name, leader)
		}
	}
	return j
}

// judgeArchived compares what the leader says it archived with what is there:
// if its last segment is missing, it writes to another place.
func judgeArchived(s server.ArchiverStats, status *archive.Status, leader string) []finding.Finding {
	var j judgement
	name, err := repo.ParseWALName(s.LastArchived)
	switch {
	case s.LastArchived == "":
		j.add(finding.Info, "it will be as soon as a segment is full", "%s has not archived anything since its statistics were reset", leader)
		return j
	case err != nil || name.Segment == "" || name.Backup:
		return j // a history file, which says as little about WAL
	}
	if !holds(status, name) {
		j.add(finding.Error, "look at repository in pgtender's configuration on "+leader+": all members must name the same place",
			"%s says that it archived %s, which is not in this repository", leader, s.LastArchived)
		return j
	}
	j.add(finding.OK, "", "the last segment that %s archived is in this repository (%s)", leader, s.LastArchived)
	return j
}

// holds reports whether any incarnation of the name's timeline has the segment.
func holds(status *archive.Status, name repo.WALName) bool {
	for i := range status.Timelines {
		t := &status.Timelines[i]
		if t.Incarnation.Timeline != name.Timeline() {
			continue
		}
		if name.Partial {
			return slices.Contains(t.Partials, name.String())
		}
		seg, err := pg.ParseSegment(name.Segment, status.SegmentSize)
		if err == nil && slices.ContainsFunc(t.Spans, func(s archive.Span) bool { return s.First.Number <= seg.Number && seg.Number <= s.Last.Number }) {
			return true
		}
	}
	return false
}
