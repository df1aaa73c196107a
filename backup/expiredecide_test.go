package backup_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

const day = 24 * time.Hour

// stock is a repository of five backups, one a day, the newest a day old, each
// of which needs two segments of ten that are archived a day. All lie on
// timeline 1.
func stock(p backup.Policy) *backup.Stock {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	if p.Grace == 0 {
		p.Grace = day
	}
	if p.MarkerGrace == 0 {
		p.MarkerGrace = time.Hour
	}
	first := repo.IncarnationOf(pg.FirstTimeline())
	s := &backup.Stock{
		Now: now, Policy: p, Lineage: archive.Lineage{History: pg.FirstTimeline(), Source: archive.SourceLeader},
		Histories: map[repo.Incarnation]pg.History{first: pg.FirstTimeline()}, SegmentSize: shopSegment,
		Packs: make(map[repo.BackupID][]repo.Pack), Fences: make(map[repo.BackupID]time.Time), Marks: make(map[repo.BackupID]backup.Marks),
		Acknowledged: make(map[string]bool),
	}
	for n := 1; n <= 5; n++ {
		addBackup(s, n, now.Add(-time.Duration(6-n)*day), pg.FirstTimeline(), pg.SegmentNumber(10*n))
		s.WAL = append(s.WAL, backup.WALSpan{Incarnation: first, First: pg.SegmentNumber(10 * n), Last: pg.SegmentNumber(10*n + 9), Objects: 10, Bytes: 1000, Newest: now.Add(-time.Duration(5-n) * day)})
	}
	return s
}

// A recovery window alone keeps, it removes nothing.
func TestNothingExpiresWithoutAPolicyForBackups(t *testing.T) {
	for _, it := range backup.DecideExpiry(stock(backup.Policy{RecoveryWindow: day})).Items {
		if it.Action != backup.Keep {
			t.Errorf("%s %s: %s (%s)", it.Kind, it.Name, it.Action, it.Reason)
		}
	}
}

// addBackup adds a full backup with a pack of its own that starts in segment n.
func addBackup(s *backup.Stock, id int, stored time.Time, h pg.History, n pg.SegmentNumber) {
	b := repotest.Backup(repotest.ID(id))
	b.SegmentSize, b.History, b.Started = shopSegment, h.Forks, stored.Add(-time.Hour)
	b.Start = pg.Pos{Timeline: h.Timeline, LSN: shopSegment.Start(n) + 40}
	b.Stop = pg.Pos{Timeline: h.Timeline, LSN: shopSegment.Start(n+1) + 40}
	pack := repo.Pack{PackRef: repo.PackRef{Backup: b.ID, Number: 1}, Size: 100}
	s.Backups = append(s.Backups, backup.StockBackup{ID: b.ID, Backup: &b, Stored: stored, Packs: []repo.Pack{pack}, Size: 10})
	s.Packs[b.ID] = []repo.Pack{pack}
}

// addPack adds a pack of a backup that no manifest names.
func addPack(s *backup.Stock, id int, n uint32) {
	b := repotest.ID(id)
	s.Packs[b] = append(s.Packs[b], repo.Pack{PackRef: repo.PackRef{Backup: b, Number: n}, Size: 5})
}

// synthesis adds number 90, a synthetic backup of another that has begun.
func synthesis(s *backup.Stock, of int, renewed time.Duration) {
	addPack(s, 90, 1)
	m := repo.Running{ID: repotest.ID(90), Parent: repotest.ID(of), Stage: string(repo.Synthetic)}
	s.Running = append(s.Running, repo.Marked[repo.Running]{ID: m.ID, Marker: m, Renewed: s.Now.Add(-renewed)})
}

func condemn(s *backup.Stock, id int, ago time.Duration, v repo.Verdict, data map[string]string) {
	s.Condemned = append(s.Condemned, repo.Condemnation{ID: repotest.ID(100 + id), Subject: repotest.ID(id).String(), Reason: "it was old", Since: s.Now.Add(-ago), Verdict: v, Data: data})
}

// found makes a deep verification of a backup have found a fault.
func found(s *backup.Stock, id int, lost backup.Loss) {
	v := backup.VerifyMark{Time: s.Now, Faults: "1 faults, the first: something", Lost: lost}
	s.Marks[repotest.ID(id)] = backup.Marks{Verified: map[string]backup.VerifyMark{backup.DepthDeep: v}}
}

// decided renders a decision: a line for each item whose action is not keep.
func decided(e backup.Expiry) []string {
	var out []string
	for _, it := range e.Items {
		if it.Action == backup.Keep {
			continue
		}
		name := it.Name
		if id, err := repo.ParseBackupID(name); err == nil {
			name = fmt.Sprint(uint64(id) & 0xffffff)
		}
		out = append(out, fmt.Sprintf("%s %s %s", it.Action, it.Kind, name))
	}
	return out
}

func TestWhatExpires(t *testing.T) {
	two := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: shopSegment.Start(45) + 100, Reason: "promoted"}}}
	failover := func(s *backup.Stock) {
		i := repo.IncarnationOf(two)
		s.Histories[i], s.Lineage.History = two, two
		s.WAL = append(s.WAL, backup.WALSpan{Incarnation: i, First: 45, Last: 60, Objects: 16, Bytes: 1600, Newest: s.Now})
	}
	for name, c := range map[string]struct {
		policy backup.Policy
		change func(*backup.Stock)
		want   []string
		why    map[int]string // words of a backup's reason
	}{
		"nothing without a policy": {why: map[int]string{1: "no retention", 5: "newest good"}},
		"by number": {policy: backup.Policy{KeepBackups: 2}, want: []string{"condemn backup 1", "condemn backup 2", "condemn backup 3"},
			why: map[int]string{1: "4 good backups are newer", 4: "number 2 of the 2"}},
		"by age": {policy: backup.Policy{KeepFor: 3*day + time.Hour}, want: []string{"condemn backup 1", "condemn backup 2"},
			why: map[int]string{2: "4 days old", 3: "kept for 3 days"}},
		"by either": {policy: backup.Policy{KeepBackups: 1, KeepFor: 2*day + time.Hour}, want: []string{"condemn backup 1", "condemn backup 2", "condemn backup 3"}},
		"the newest stays however old it is": {policy: backup.Policy{KeepFor: time.Minute},
			want: []string{"condemn backup 1", "condemn backup 2", "condemn backup 3", "condemn backup 4"}, why: map[int]string{5: "newest good"}},
		"a pin": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) { s.Marks[repotest.ID(1)] = backup.Marks{Pin: &backup.Pin{}} }, why: map[int]string{1: "pinned"}},
		"a pin that has run out": {policy: backup.Policy{KeepBackups: 4}, want: []string{"condemn backup 1"},
			change: func(s *backup.Stock) { s.Marks[repotest.ID(1)] = backup.Marks{Pin: &backup.Pin{Until: s.Now}} }},
		"within the grace period": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) { condemn(s, 1, day-time.Minute, "", nil) }, want: []string{"wait backup 1"},
			why: map[int]string{1: "stays for"}},
		"after the grace period": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) { condemn(s, 1, day, "", nil) },
			want: []string{"remove backup 1", "remove packs 1", "condemn wal 00000001000000000000000A..000000010000000000000013"}},
		"an older policy's condemnation is taken back": {policy: backup.Policy{KeepBackups: 5}, change: func(s *backup.Stock) { condemn(s, 1, day, "", nil) }, want: []string{"pardon backup 1"}},
		"a pardoned one does not count":                {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) { condemn(s, 1, 9*day, repo.Pardoned, nil) }, want: []string{"condemn backup 1"}},
		"a removal that has begun goes on": {policy: backup.Policy{KeepBackups: 5}, change: func(s *backup.Stock) { condemn(s, 1, day, repo.Removing, nil) },
			want: []string{"remove backup 1", "remove packs 1", "condemn wal 00000001000000000000000A..000000010000000000000013"}},
		"deleted by name": {policy: backup.Policy{KeepBackups: 5}, change: func(s *backup.Stock) { condemn(s, 2, day, "", map[string]string{"by": "delete"}) },
			want: []string{"remove backup 2", "remove packs 2"}},
		"deleted by name, but the last": {change: func(s *backup.Stock) {
			s.Backups = s.Backups[4:]
			for n := 1; n < 5; n++ {
				delete(s.Packs, repotest.ID(n))
			}
			condemn(s, 5, 9*day, "", map[string]string{"by": "delete"})
		}, want: []string{"pardon backup 5"}},
		"a restore reads it": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) {
			condemn(s, 1, 2*day, "", nil)
			s.Readers = append(s.Readers, repo.Marked[repo.Reader]{ID: repotest.ID(90), Marker: repo.Reader{Backup: repotest.ID(1)}, Renewed: s.Now.Add(-23 * time.Hour)})
		}, want: []string{"wait backup 1"}, why: map[int]string{1: "in use"}},
		"a dead restore": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) {
			condemn(s, 1, 2*day, "", nil)
			s.Readers = append(s.Readers, repo.Marked[repo.Reader]{ID: repotest.ID(90), Marker: repo.Reader{Backup: repotest.ID(1)}, Renewed: s.Now.Add(-25 * time.Hour)})
		}, want: []string{"remove backup 1", "remove packs 1", "condemn wal 00000001000000000000000A..000000010000000000000013", "remove marker 90"}},
		"a backup builds on it": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) {
			s.Running = append(s.Running, repo.Marked[repo.Running]{ID: repotest.ID(90), Marker: repo.Running{Parent: repotest.ID(1)}, Renewed: s.Now.Add(-time.Minute)})
		}, why: map[int]string{1: "in use, otherwise"}},
		"while another backup runs manifests go and packs stay": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) {
			condemn(s, 1, 2*day, "", nil)
			s.Running = append(s.Running, repo.Marked[repo.Running]{ID: repotest.ID(90), Marker: repo.Running{Parent: repotest.ID(5)}, Renewed: s.Now.Add(-time.Minute)})
		}, want: []string{"remove backup 1", "wait packs 1", "condemn wal 00000001000000000000000A..000000010000000000000013"}},
		"a marker that cannot be read may be of anything": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) {
			condemn(s, 1, 2*day, "", nil)
			s.Running = append(s.Running, repo.Marked[repo.Running]{ID: repotest.ID(90), Err: repo.ErrCorrupt, Renewed: s.Now.Add(-time.Minute)})
		}, want: []string{"wait backup 1"}},
		"a marker that is renewed while it is read": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) {
			condemn(s, 1, 2*day, "", nil)
			s.Running = append(s.Running, repo.Marked[repo.Running]{ID: repotest.ID(90), Err: storage.ErrNotExist, Renewed: s.Now.Add(-9 * day)})
		}, want: []string{"wait backup 1"}},
		"packs of a killed run": {change: func(s *backup.Stock) {
			s.Packs[repotest.ID(6)] = []repo.Pack{{PackRef: repo.PackRef{Backup: repotest.ID(6), Number: 1}, Size: 5}}
		}, want: []string{"condemn packs 6"}},
		"packs of a killed run, condemned": {change: func(s *backup.Stock) {
			s.Packs[repotest.ID(6)] = []repo.Pack{{PackRef: repo.PackRef{Backup: repotest.ID(6), Number: 1}, Size: 5}}
			condemn(s, 6, day, "", nil)
		}, want: []string{"remove packs 6"}},
		"packs of a run that lives": {change: func(s *backup.Stock) {
			s.Packs[repotest.ID(6)] = []repo.Pack{{PackRef: repo.PackRef{Backup: repotest.ID(6), Number: 1}, Size: 5}}
			s.Running = append(s.Running, repo.Marked[repo.Running]{ID: repotest.ID(6), Renewed: s.Now.Add(-time.Minute)})
		}},
		"packs that their own backup does not name": {change: func(s *backup.Stock) { addPack(s, 4, 9) }, want: []string{"remove stray packs 4"}},
		"packs that their own backup does not name, and another does": {change: func(s *backup.Stock) {
			addPack(s, 4, 9)
			s.Backups[4].Packs = append(s.Backups[4].Packs, s.Packs[repotest.ID(4)]...)
		}},
		"packs that a backup of this hour does not name": {change: func(s *backup.Stock) {
			addPack(s, 5, 9)
			s.Backups[4].Stored = s.Now.Add(-time.Hour)
		}, want: []string{"wait stray packs 5"}},
		"packs that a backup which cannot be read may name": {change: func(s *backup.Stock) {
			addPack(s, 4, 9)
			s.Backups[3].Backup, s.Backups[3].Err, s.Backups[3].Packs = nil, repo.ErrCorrupt, nil
		}},
		"packs that their own backup does not name, while another runs": {change: func(s *backup.Stock) {
			addPack(s, 4, 9)
			s.Running = append(s.Running, repo.Marked[repo.Running]{ID: repotest.ID(90), Marker: repo.Running{Parent: repotest.ID(5)}, Renewed: s.Now.Add(-time.Minute)})
		}, want: []string{"wait stray packs 4"}},
		"a backup whose process is gone is in nobody's way": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) {
			condemn(s, 1, 2*day, "", nil)
			synthesis(s, 4, time.Minute)
			s.Running[0].Marker.Stage, s.Gone = "", map[repo.BackupID]bool{repotest.ID(90): true}
		}, want: []string{"remove backup 1", "remove packs 1", "condemn packs 90", "condemn wal 00000001000000000000000A..000000010000000000000013", "remove marker 90"}},
		"a synthetic backup being made": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) {
			condemn(s, 1, 2*day, "", nil)
			synthesis(s, 5, time.Minute)
		}, want: []string{"remove backup 1", "wait packs 1", "condemn wal 00000001000000000000000A..000000010000000000000013"}},
		"a synthetic backup whose process is gone waits for the next, in nobody's way": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) {
			condemn(s, 1, 2*day, "", nil)
			synthesis(s, 5, time.Minute)
			s.Gone = map[repo.BackupID]bool{repotest.ID(90): true}
		}, want: []string{"remove backup 1", "remove packs 1", "condemn wal 00000001000000000000000A..000000010000000000000013"}},
		"a synthetic backup that gives no sign of life waits for a week": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) {
			condemn(s, 1, 2*day, "", nil)
			synthesis(s, 5, 7*day-time.Second)
		}, want: []string{"remove backup 1", "remove packs 1", "condemn wal 00000001000000000000000A..000000010000000000000013"}},
		"and not longer": {change: func(s *backup.Stock) { synthesis(s, 5, 7*day) }, want: []string{"condemn packs 90", "remove marker 90"}},
		"a synthetic backup that died, of one that is not the newest": {change: func(s *backup.Stock) { synthesis(s, 4, 2*time.Hour) },
			want: []string{"condemn packs 90", "remove marker 90"}},
		"a synthetic backup that died and was given up": {change: func(s *backup.Stock) {
			synthesis(s, 5, 2*time.Hour)
			s.Fences[repotest.ID(90)] = s.Now
		}, want: []string{"condemn packs 90", "remove marker 90"}},
		"a synthetic backup that died and is condemned": {change: func(s *backup.Stock) {
			synthesis(s, 5, 2*time.Hour)
			condemn(s, 90, day, "", nil)
		}, want: []string{"remove packs 90", "remove marker 90"}},
		"others lean on its packs": {policy: backup.Policy{KeepBackups: 4}, change: func(s *backup.Stock) {
			condemn(s, 1, day, "", nil)
			s.Backups[4].Packs = append(s.Backups[4].Packs, s.Backups[0].Packs...)
		}, want: []string{"remove backup 1", "condemn wal 00000001000000000000000A..000000010000000000000013"}},
		"a manifest that cannot be read": {policy: backup.Policy{KeepBackups: 3}, change: func(s *backup.Stock) {
			condemn(s, 1, day, "", nil)
			s.Backups[2].Backup, s.Backups[2].Err, s.Backups[2].Packs = nil, repo.ErrCorrupt, nil
		}, want: []string{"remove backup 1", "wait packs 1"}, why: map[int]string{3: "cannot be judged", 2: "number 3 of"}},
		"history not known": {policy: backup.Policy{KeepBackups: 1}, change: func(s *backup.Stock) {
			condemn(s, 1, 9*day, "", nil)
			s.Lineage, s.LineageError = archive.Lineage{}, &archive.AmbiguousError{}
		}, want: []string{"wait backup 1"}, why: map[int]string{2: "no backup can be judged"}},
		"a backup without its WAL is not good": {policy: backup.Policy{KeepBackups: 2}, change: func(s *backup.Stock) { s.WAL = s.WAL[:4] },
			want: []string{"condemn backup 1", "condemn backup 2"}, why: map[int]string{4: "newest good", 5: "not good: WAL segment", 3: "number 2 of"}},
		"a backup without one of its packs is not good": {policy: backup.Policy{KeepBackups: 2}, change: func(s *backup.Stock) { delete(s.Packs, repotest.ID(5)) },
			want: []string{"condemn backup 1", "condemn backup 2"}, why: map[int]string{4: "newest good", 5: "not good: pack", 3: "number 2 of"}},
		"a backup with a pack that was cut is not good": {policy: backup.Policy{KeepBackups: 1}, change: func(s *backup.Stock) { s.Packs[repotest.ID(5)][0].Size-- },
			want: []string{"condemn backup 1", "condemn backup 2", "condemn backup 3"}, why: map[int]string{4: "newest good", 5: "has 99 bytes, not 100"}},
		"a backup that a verification found damaged is not good": {policy: backup.Policy{KeepBackups: 1}, change: func(s *backup.Stock) { found(s, 5, backup.LostContent) },
			want: []string{"condemn backup 1", "condemn backup 2", "condemn backup 3"}, why: map[int]string{4: "newest good", 5: "found damaged: 1 faults"}},
		"nor one whose WAL it found damaged": {policy: backup.Policy{KeepBackups: 1}, change: func(s *backup.Stock) { found(s, 5, backup.LostWAL) },
			want: []string{"condemn backup 1", "condemn backup 2", "condemn backup 3"}},
		"a fault that loses nothing leaves a backup good": {policy: backup.Policy{KeepBackups: 1}, change: func(s *backup.Stock) { found(s, 5, "") },
			want: []string{"condemn backup 1", "condemn backup 2", "condemn backup 3", "condemn backup 4"}},
		"where none is good nothing of any goes": {policy: backup.Policy{KeepFor: day}, change: func(s *backup.Stock) {
			for n := range 5 {
				found(s, n+1, backup.LostContent)
			}
		}, why: map[int]string{1: "there is no good backup"}},
		"backups of an abandoned branch do not count": {policy: backup.Policy{KeepBackups: 1}, change: failover,
			want: []string{"condemn backup 1", "condemn backup 2", "condemn backup 3"}, why: map[int]string{4: "newest good", 5: "left timeline 1"}},
		"the recovery window keeps the backup to begin with, and WAL from there": {policy: backup.Policy{KeepBackups: 1, RecoveryWindow: 2*day + time.Hour},
			want: []string{"condemn backup 1", "condemn backup 2", "condemn backup 4",
				"condemn wal 00000001000000000000000C..000000010000000000000013", "condemn wal 000000010000000000000016..00000001000000000000001D"},
			why: map[int]string{3: "recovery to any point"}},
		"behind a hole in the recovery window another backup is needed": {policy: backup.Policy{KeepBackups: 1, RecoveryWindow: 4*day + time.Hour}, change: func(s *backup.Stock) {
			s.WAL = append(s.WAL[:2], s.WAL[3:]...)
			lost := s.WAL[1]
			s.WAL[1].Last, lost.First = 25, 27
			s.WAL = append(s.WAL[:2], append([]backup.WALSpan{lost}, s.WAL[2:]...)...)
		}, want: []string{"condemn backup 2", "condemn backup 3"}, why: map[int]string{1: "recovery to any point", 4: "behind WAL segment 00000001000000000000001A"}},
		"a restore needs WAL to the present": {policy: backup.Policy{KeepBackups: 5, RecoveryWindow: time.Hour}, change: func(s *backup.Stock) {
			s.Readers = append(s.Readers, repo.Marked[repo.Reader]{ID: repotest.ID(90), Marker: repo.Reader{Backup: repotest.ID(3)}, Renewed: s.Now})
		}, want: []string{"condemn wal 00000001000000000000000C..000000010000000000000013", "condemn wal 000000010000000000000016..00000001000000000000001D"}},
		"WAL of an abandoned branch stays for the recovery window": {policy: backup.Policy{KeepBackups: 9, RecoveryWindow: 30 * time.Hour}, change: func(s *backup.Stock) {
			failover(s)
			s.WAL[4].Newest = s.Now.Add(-29 * time.Hour)
		}, want: []string{"condemn wal 00000001000000000000000C..000000010000000000000013", "condemn wal 000000010000000000000016..00000001000000000000001D",
			"condemn wal 000000010000000000000020..000000010000000000000027"}},
		"and then goes, but for what its own backups need": {policy: backup.Policy{KeepBackups: 9, RecoveryWindow: 20 * time.Hour}, change: func(s *backup.Stock) {
			failover(s)
			s.WAL[3].Newest, s.WAL[4].Newest = s.Now.Add(-3*day), s.Now.Add(-29*time.Hour)
		}, want: []string{"condemn wal 00000001000000000000000C..000000010000000000000013", "condemn wal 000000010000000000000016..00000001000000000000001D",
			"condemn wal 000000010000000000000020..000000010000000000000027", "condemn wal 00000001000000000000002D..000000010000000000000031", "condemn wal 000000010000000000000034..00000001000000000000003B"}},
		"pending":                            {change: func(s *backup.Stock) { s.Backups[4].Pending = true }},
		"pending for long, with a newer one": {change: func(s *backup.Stock) { s.Backups[0].Pending, s.Backups[0].Stored = true, s.Now.Add(-8*day) }, want: []string{"condemn pending backup 1"}},
		"pending, and given up": {change: func(s *backup.Stock) {
			s.Backups[0].Pending, s.Fences[repotest.ID(1)] = true, s.Now
			condemn(s, 1, day, "", nil)
		}, want: []string{"remove pending backup 1", "remove packs 1"}},
		"pending, and committed by now": {change: func(s *backup.Stock) {
			p := s.Backups[0]
			p.Pending = true
			s.Backups = slices.Insert(s.Backups, 0, p)
		}, want: []string{"remove pending backup 1"}},
		"what was said about a backup that is gone": {change: func(s *backup.Stock) {
			say := func(n, about int, ago time.Duration) {
				s.Said = append(s.Said, repo.StoredEvent{ID: repotest.ID(n), Event: repo.Event{Kind: "pin", Subject: repotest.ID(about).String()}, Object: storage.Object{Modified: s.Now.Add(-ago)}})
			}
			say(201, 5, 9*day)
			say(202, 6, 9*day)
			say(203, 6, day-time.Second) // the backup may have come since
		}, want: []string{"remove event event/" + repotest.ID(202).String() + "-pin"}},
		"what a killed expiry leaves": {change: func(s *backup.Stock) {
			for n, ago := range map[int]time.Duration{201: 2 * day, 202: time.Hour} {
				s.Said = append(s.Said, repo.StoredEvent{ID: repotest.ID(n), Event: repo.Event{Kind: "clock"}, Object: storage.Object{Modified: s.Now.Add(-ago)}})
			}
		}, want: []string{"remove event event/" + repotest.ID(201).String() + "-clock"}},
		"an old tombstone": {change: func(s *backup.Stock) {
			s.Fences[repotest.ID(7)], s.Fences[repotest.ID(8)] = s.Now.Add(-31*day), s.Now.Add(-29*day)
		}, want: []string{"remove tombstone 7"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := stock(c.policy)
			if c.change != nil {
				c.change(s)
			}
			e := backup.DecideExpiry(s)
			if got := decided(e); !slices.Equal(got, c.want) {
				t.Errorf("decided\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
			}
			for _, it := range e.Items {
				if it.Reason == "" {
					t.Errorf("%s %s %s has no reason", it.Action, it.Kind, it.Name)
				}
				for n, words := range c.why {
					if it.Kind == backup.ItemBackup && it.Name == repotest.ID(n).String() && !strings.Contains(it.Reason, words) {
						t.Errorf("backup %d: %q, want %q", n, it.Reason, words)
					}
				}
			}
		})
	}
}
