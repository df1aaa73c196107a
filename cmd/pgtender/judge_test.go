package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/patroni"
)

// wantFinding wants one finding of that severity whose text holds the words,
// and a hint where something is to be done.
func wantFinding(t *testing.T, found []finding.Finding, severity finding.Severity, words string) {
	t.Helper()
	for _, f := range found {
		if f.Severity == severity && strings.Contains(f.Text, words) {
			if severity == finding.Error && f.Hint == "" {
				t.Errorf("no hint: %s", f)
			}
			return
		}
	}
	t.Errorf("no %s about %q in %v", severity, words, found)
}

func TestServerSettingsAreJudged(t *testing.T) {
	good := server.Info{Version: 150018, WALLevel: "replica", FullPageWrites: true, DataChecksums: true, ArchiveMode: "on", ArchiveCommand: "pgtender archive-push %p"}
	if found := judgeServer(good, "pg1", ""); len(found) != 0 {
		t.Errorf("a good server is judged: %v", found)
	}
	for name, tc := range map[string]struct {
		change     func(*server.Info)
		configured string
		severity   finding.Severity
		words      string
	}{
		"archiving off":               {func(s *server.Info) { s.ArchiveMode = "off" }, "", finding.Error, "archive_mode of pg1 is off"},
		"another tool archives":       {func(s *server.Info) { s.ArchiveCommand = "cp %p /x" }, "", finding.Error, "not pgtender's"},
		"pgBackRest archives":         {func(s *server.Info) { s.ArchiveCommand = "pgbackrest archive-push %p" }, "pgtender archive-push %p", finding.Error, "not pgtender's"},
		"a wrapper archives":          {func(s *server.Info) { s.ArchiveCommand = "archive-wal %p" }, "pgtender archive-push %p", finding.Warning, "cannot be seen"},
		"configured but not in force": {func(s *server.Info) { s.ArchiveCommand = "cp %p /x" }, "pgtender archive-push %p", finding.Error, "in force"},
		"a library archives":          {func(s *server.Info) { s.ArchiveLibrary = "basic_archive" }, "", finding.Error, "basic_archive"},
		"minimal WAL":                 {func(s *server.Info) { s.WALLevel = "minimal" }, "", finding.Error, "wal_level"},
		"torn pages":                  {func(s *server.Info) { s.FullPageWrites = false }, "", finding.Error, "full_page_writes"},
		"unknown version":             {func(s *server.Info) { s.Version = 120000 }, "", finding.Error, "only 13 to"},
		"no checksums":                {func(s *server.Info) { s.DataChecksums = false }, "", finding.Info, "no data checksums"},
	} {
		t.Run(name, func(t *testing.T) {
			s := good
			tc.change(&s)
			wantFinding(t, judgeServer(s, "pg1", tc.configured), tc.severity, tc.words)
		})
	}
	t.Run("what is wrong in patroni.yml is said there", func(t *testing.T) {
		s := good
		s.ArchiveCommand = "cp %p /x"
		if found := judgeServer(s, "pg1", "cp %p /x"); len(found) != 0 {
			t.Errorf("said twice: %v", found)
		}
	})
}

func TestClusterIsJudged(t *testing.T) {
	good := patroni.Cluster{Scope: "main", Init: patroni.Initialized, Leader: "pg1", Members: []patroni.Member{{Name: "pg1", Version: "4.1.4"}, {Name: "pg2", Version: "4.1.4"}}}
	if found := judgeCluster(good, "pg2"); len(found) != 0 {
		t.Errorf("a good cluster is judged: %v", found)
	}
	for name, tc := range map[string]struct {
		change   func(*patroni.Cluster)
		self     string
		severity finding.Severity
		words    string
	}{
		"wrong scope or name": {func(*patroni.Cluster) {}, "pg9", finding.Error, "pg9 is not in cluster main, which has pg1, pg2"},
		"no name":             {func(*patroni.Cluster) {}, "", finding.Warning, "member name is not known"},
		"no leader":           {func(c *patroni.Cluster) { c.Leader = "" }, "pg1", finding.Error, "no leader"},
		"bootstrapping":       {func(c *patroni.Cluster) { c.Init = patroni.Bootstrapping }, "pg1", finding.Error, "not initialised"},
		"paused":              {func(c *patroni.Cluster) { c.Dynamic.Pause = true }, "pg1", finding.Info, "paused"},
		"garbage in the DCS":  {func(c *patroni.Cluster) { c.Problems = []patroni.Problem{{Key: "x/sync", Text: "no JSON"}} }, "pg1", finding.Warning, "no JSON"},
		"versions mixed": {func(c *patroni.Cluster) {
			c.Members = []patroni.Member{{Name: "pg1", Version: "3.0.2"}, {Name: "pg2", Version: "4.1.4"}}
		}, "pg1", finding.Warning, "Patroni: 3.0.2 (pg1); 4.1.4 (pg2)"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			tc.change(&c)
			wantFinding(t, judgeCluster(c, tc.self), tc.severity, tc.words)
		})
	}
}

func TestTheArchiverIsJudged(t *testing.T) {
	now := time.Date(2026, 8, 1, 3, 0, 0, 0, time.UTC)
	wantFinding(t, judgeArchiver(server.ArchiverStats{LastFailed: "X", LastFailedAt: now, LastArchivedAt: now.Add(-time.Minute)}, "pg1"), finding.Error, "archiving fails on pg1")
	if found := judgeArchiver(server.ArchiverStats{LastFailed: "X", LastFailedAt: now, LastArchivedAt: now.Add(time.Minute)}, "pg1"); len(found) != 0 {
		t.Errorf("a failure that passed is judged: %v", found)
	}

	const size = pg.SegmentSize(16 << 20)
	span := archive.Span{First: pg.Segment{Timeline: 2, Number: 3}, Last: pg.Segment{Timeline: 2, Number: 5}}
	status := &archive.Status{SegmentSize: size, Timelines: []archive.TimelineStatus{{
		Incarnation: repo.Incarnation{Timeline: 2}, Spans: []archive.Span{span}, Partials: []string{"000000020000000000000006.partial"},
	}}}
	for name, tc := range map[string]struct {
		last     string
		severity finding.Severity
		words    string
	}{
		"archived here":           {"000000020000000000000004", finding.OK, "is in this repository"},
		"archived elsewhere":      {"000000020000000000000007", finding.Error, "not in this repository"},
		"another timeline's":      {"000000030000000000000004", finding.Error, "not in this repository"},
		"partial archived here":   {"000000020000000000000006.partial", finding.OK, "is in this repository"},
		"partial elsewhere":       {"000000020000000000000004.partial", finding.Error, "not in this repository"},
		"nothing so far":          {"", finding.Info, "not archived anything"},
		"a history tells nothing": {"00000002.history", finding.OK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			found := judgeArchived(server.ArchiverStats{LastArchived: tc.last}, status, "pg1")
			if tc.words == "" {
				if len(found) != 0 {
					t.Errorf("found %v", found)
				}
				return
			}
			wantFinding(t, found, tc.severity, tc.words)
		})
	}
}

func TestMembersAreJudged(t *testing.T) {
	c := patroni.Cluster{Members: []patroni.Member{{Name: "pg1"}, {Name: "pg2"}}}
	one := sighting{pgtender: "1.0", postgres: "15.18"}
	wantFinding(t, judgeMembers(c, map[string]sighting{"pg1": one, "pg2": one}), finding.OK, "every member")
	wantFinding(t, judgeMembers(c, map[string]sighting{"pg1": one}), finding.Warning, "pg2 has not been seen")
	found := judgeMembers(c, map[string]sighting{"pg1": one, "pg2": {pgtender: "1.1", postgres: "15.17"}, "gone": {pgtender: "0.9"}})
	wantFinding(t, found, finding.Warning, "pgtender: 1.0 (pg1); 1.1 (pg2)")
	wantFinding(t, found, finding.Warning, "PostgreSQL: 15.17 (pg2); 15.18 (pg1)")
}

func TestReplicasThatMayLoseWALAreNamed(t *testing.T) {
	held, always := holding{member: "pg2", slot: "pgtender_hold_7"}, holding{member: "pg3", always: true}
	wantFinding(t, judgeHolding([]holding{held, always}, new(archive.Status)), finding.OK, "every replica keeps WAL")
	if found := judgeHolding([]holding{held, always}, nil); len(found) != 1 || found[0].Severity != finding.Info {
		t.Errorf("where the archive cannot be seen: %v", found)
	}
	found := judgeHolding([]holding{held, {member: "pg3"}}, new(archive.Status))
	wantFinding(t, found, finding.Warning, "nothing makes pg3 keep WAL")
	if len(found) != 1 {
		t.Errorf("findings %v", found)
	}
	wantFinding(t, judgeHolding([]holding{{member: "pg2", err: errors.New("refused")}}, nil), finding.Warning, "pg2 cannot be asked")

	// A slot that begins past the archive's end does not keep what lies between.
	h := pg.History{Timeline: 1}
	span := archive.Span{First: pg.Segment{Timeline: 1, Number: 3}, Last: pg.Segment{Timeline: 1, Number: 6}}
	status := &archive.Status{
		SegmentSize: pg.DefaultSegmentSize, Lineage: archive.Lineage{History: h},
		Timelines: []archive.TimelineStatus{{Incarnation: repo.IncarnationOf(h), Spans: []archive.Span{span}}},
	}
	held.from = pg.DefaultSegmentSize.Start(7) + 100
	wantFinding(t, judgeHolding([]holding{held, always}, status), finding.OK, "every replica keeps WAL")
	held.from = pg.DefaultSegmentSize.Start(8)
	if found = judgeHolding([]holding{held, always}, status); len(found) != 1 {
		t.Errorf("findings %v", found)
	}
	wantFinding(t, found, finding.Warning, "pg2 keeps WAL from 0/8000000 on only, and 000000010000000000000007 is not archived")
	hole := &archive.Status{Timelines: []archive.TimelineStatus{{OnLineage: true, Holes: []archive.Span{span}}}}
	if found := judgeHolding([]holding{always}, hole); len(found) != 0 {
		t.Errorf("beside a hole: %v", found)
	}
	if found := judgeHolding(nil, nil); len(found) != 0 {
		t.Errorf("a cluster without replicas: %v", found)
	}
}
