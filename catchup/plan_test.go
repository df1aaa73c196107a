package catchup_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
)

const seg = 16 << 20

// history is timeline 2, which left 1 at the middle of segment 8.
var history = pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 8*seg + seg/2}}}

// facts are those of a cluster with two backups on timeline 1 and one on 2,
// whose archive goes up to segment 20, and of an empty directory.
func facts(change ...func(*catchup.Facts)) catchup.Facts {
	f := catchup.Facts{
		Purpose: catchup.Restore, Cluster: repotest.Cluster, Places: map[string]catchup.DirFacts{},
		Dir: catchup.DirFacts{Path: "/data", State: catchup.DirEmpty, Free: 1 << 40},
	}
	for i, stop := range []pg.Pos{{Timeline: 1, LSN: 3*seg + 100}, {Timeline: 1, LSN: 6*seg + 100}, {Timeline: 2, LSN: 12*seg + 100}} {
		f.Candidates = append(f.Candidates, candidate(i+1, stop, 20))
	}
	for _, c := range change {
		c(&f)
	}
	return f
}

// candidate is a backup that began 50 bytes before its stop, with all segments
// before until archived.
func candidate(n int, stop pg.Pos, until pg.SegmentNumber) catchup.Candidate {
	b := repotest.Backup(repotest.ID(n))
	b.Stop, b.Start = stop, pg.Pos{Timeline: stop.Timeline, LSN: stop.LSN - 50}
	b.History = nil
	if own, _ := archive.Ancestor(history, stop.Timeline); len(own.Forks) > 0 {
		b.History = own.Forks
	}
	b.Bytes = 1 << 30
	b.Finished = noon.Add(time.Duration(n) * time.Hour)
	size := pg.SegmentSize(seg)
	b.SegmentSize, b.Tablespaces = size, nil
	return catchup.Candidate{
		Listed:  repo.Listed{ID: b.ID, Backup: b},
		Lineage: archive.Lineage{History: history, Source: "repository"},
		Cover: archive.RestoreCover{Cover: archive.Cover{History: history, From: b.Start.LSN, Until: size.Start(until),
			Missing: pg.Segment{Timeline: 2, Number: until}, Bytes: 1000}},
		Newest: archive.Newest{Time: noon.Add(10 * time.Hour)},
	}
}

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func replica(f *catchup.Facts) {
	f.Purpose = catchup.Replica
	f.Leader = &catchup.LeaderFacts{Member: "m1", History: history, Flush: 20*seg + 5}
}

func dir(d catchup.DirFacts) func(*catchup.Facts) {
	return func(f *catchup.Facts) {
		d.Path, d.Free = "/data", 1<<40
		if d.SystemID == 0 {
			d.SystemID = f.Cluster.SystemID
		}
		f.Dir = d
	}
}

func target(t catchup.Target) func(*catchup.Facts) { return func(f *catchup.Facts) { f.Target = t } }

func each(change func(*catchup.Candidate)) func(*catchup.Facts) {
	return func(f *catchup.Facts) {
		for i := range f.Candidates {
			change(&f.Candidates[i])
		}
	}
}

func TestThePlanTakesTheNewestBackupThatServes(t *testing.T) {
	onFork := func(c *catchup.Candidate) {
		// The surviving timeline left 1 before the second backup's end.
		c.Lineage.History = pg.History{Timeline: 3, Forks: []pg.Fork{{Parent: 1, Switch: 5 * seg}}}
	}
	for name, test := range map[string]struct {
		facts catchup.Facts
		want  int // which backup
	}{
		"for the end of the archive": {facts(), 3},
		"before an LSN":              {facts(target(catchup.Target{Kind: catchup.AtLSN, LSN: 10 * seg})), 2},
		"before a time":              {facts(target(catchup.Target{Kind: catchup.AtTime, Time: noon.Add(2*time.Hour + time.Minute)})), 2},
		"whose whole range is on the surviving timeline":    {facts(each(onFork)), 1},
		"that was asked for, though a newer one serves too": {facts(func(f *catchup.Facts) { f.Backup = repotest.ID(1) }), 1},
		"and whose manifest can be read": {facts(func(f *catchup.Facts) {
			f.Candidates[2].Err = repo.ErrCorrupt
		}), 2},
		"and that did not turn out damaged": {facts(func(f *catchup.Facts) {
			f.Broken = map[repo.BackupID]error{repotest.ID(3): repo.ErrCorrupt}
		}), 2},
		"and behind which the archive has no hole": {facts(func(f *catchup.Facts) {
			f.Candidates[0].Cover.Beyond, f.Candidates[1].Cover.Beyond = 3, 3
		}), 3},
		"of the server programs' version": {facts(func(f *catchup.Facts) {
			f.Candidates[2].Backup.ServerVersion = 140005
			f.Major = f.Candidates[1].Backup.Major()
		}), 2},
		"though an older one was begun, where that does not serve": {facts(dir(catchup.DirFacts{State: catchup.DirUnfinished, Backup: repotest.ID(7)})), 3},
		"unless an older one that serves was begun":                {facts(dir(catchup.DirFacts{State: catchup.DirUnfinished, Backup: repotest.ID(2)})), 2},
		"that a replica can follow the leader from":                {facts(replica), 3},
		"that is not past the leader": {facts(replica, func(f *catchup.Facts) {
			f.Leader.Flush = 11 * seg
		}), 2},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := catchup.Decide(test.facts)
			if err != nil {
				t.Fatal(err)
			}
			if want := repotest.ID(test.want); p.Backup.ID != want {
				t.Errorf("took %s, want %s: %+v", p.Backup.ID, want, p.Candidates)
			}
			if p.Choice != catchup.FullRestore || len(p.Candidates) != len(test.facts.Candidates) {
				t.Errorf("chose %q with %d verdicts", p.Choice, len(p.Candidates))
			}
		})
	}
}

func TestWhatCannotReachItsTargetIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		facts catchup.Facts
		want  string
	}{
		"no backup at all":                             {facts(func(f *catchup.Facts) { f.Candidates = nil }), "holds no backup of cluster"},
		"a backup that is not there":                   {facts(func(f *catchup.Facts) { f.Backup = repotest.ID(9) }), "holds no backup " + repotest.ID(9).String()},
		"an LSN past the archive":                      {facts(target(catchup.Target{Kind: catchup.AtLSN, LSN: 21 * seg})), "goes to 0/14000000 only (000000020000000000000014 is missing), not to the target"},
		"an LSN before all backups":                    {facts(target(catchup.Target{Kind: catchup.AtLSN, LSN: seg})), "after the target"},
		"a time after the archive's last transaction":  {facts(target(catchup.Target{Kind: catchup.AtTime, Time: noon.Add(11 * time.Hour)})), "ended at 2026-05-01 22:00:00Z, not after the target"},
		"a time at which the last transaction ended":   {facts(target(catchup.Target{Kind: catchup.AtTime, Time: noon.Add(10 * time.Hour)})), "not after the target"},
		"a time with no transaction after the backup":  {facts(target(catchup.Target{Kind: catchup.AtTime, Time: noon.Add(9 * time.Hour)}), each(func(c *catchup.Candidate) { c.Newest.Time = time.Time{} })), "holds no transaction"},
		"a transaction that the archive does not hold": {facts(target(catchup.Target{Kind: catchup.AtXID, XID: 5}), each(func(c *catchup.Candidate) { c.Reached = &archive.Reached{End: 20 * seg} })), "transaction 5 does not come after it in the archive, which was searched to 0/14000000"},
		"an archive with a hole":                       {facts(each(func(c *catchup.Candidate) { c.Cover.Beyond = 4 })), "4 later segments are there, so it has a hole"},
		"a backup without its own WAL": {facts(each(func(c *catchup.Candidate) {
			c.Cover.Until, c.Cover.Missing.Number = 0, 3
		})), "the archive lacks 000000020000000000000003, which it needs up to its end"},
		"a replica whose WAL the leader has removed": {facts(replica, func(f *catchup.Facts) {
			f.Leader.Flush, f.Leader.Oldest = 30*seg+7, 25*seg
		}), "not to the oldest WAL that the leader still has, 0/19000000"},
		"a replica far behind a leader of whom no more is known": {facts(replica, func(f *catchup.Facts) { f.Leader.Flush = 30*seg + 7 }), "not to the leader's newest segment"},
		"a replica of a leader on another branch": {facts(replica, each(func(c *catchup.Candidate) {
			c.Lineage.History = pg.History{Timeline: 4, Forks: []pg.Fork{{Parent: 1, Switch: 2 * seg}}}
		})), "not on the history of timeline 4"},
		"a cluster that is not the DCS's":     {facts(func(f *catchup.Facts) { f.SystemID = 5 }), "is not the one that the DCS names"},
		"a target that makes no sense":        {facts(target(catchup.Target{Kind: catchup.AtXID})), "has no value"},
		"too little room":                     {facts(func(f *catchup.Facts) { f.Dir.Free = 1000 }), "/data has 1000 bytes free, the backup needs 1073741824"},
		"a mapping of what is no tablespace":  {facts(func(f *catchup.Facts) { f.Mapping = map[string]string{"/x": "/y"} }), "has no tablespace at /x"},
		"a directory in use":                  {facts(dir(catchup.DirFacts{State: catchup.DirData, Running: true, PID: 7})), "a PostgreSQL server runs there (process 7)"},
		"a directory with old data":           {facts(dir(catchup.DirFacts{State: catchup.DirData})), "/data holds a PostgreSQL data directory"},
		"a directory with something else":     {facts(dir(catchup.DirFacts{State: catchup.DirForeign, Example: "etc"})), "holds etc"},
		"an unfinished restore of another":    {facts(dir(catchup.DirFacts{State: catchup.DirUnfinished, SystemID: 8})), "unfinished restore of another cluster"},
		"a finished restore of something":     {facts(dir(catchup.DirFacts{State: catchup.DirFinished, Backup: repotest.ID(2), Purpose: catchup.Restore, Target: catchup.Target{Kind: catchup.Immediate}})), "holds a finished restore"},
		"a replica in place of other data":    {facts(replica, dir(catchup.DirFacts{State: catchup.DirData, SystemID: 8})), "data directory of another cluster: system identifier 8"},
		"a replica where a server still runs": {facts(replica, dir(catchup.DirFacts{State: catchup.DirData, Running: true})), "server runs there"},
		"a tablespace directory that is not empty": {facts(tablespace, func(f *catchup.Facts) {
			f.Places["/space/PG_15_202209061"] = catchup.DirFacts{Path: "/space/PG_15_202209061", State: catchup.DirForeign, Example: "5"}
		}), "/space/PG_15_202209061 is not empty: it holds 5"},
		"a tablespace inside the data directory": {facts(tablespace, func(f *catchup.Facts) {
			f.Mapping = map[string]string{"/space": "/data/space"}
			f.Places["/data/space/PG_15_202209061"] = catchup.DirFacts{State: catchup.DirEmpty}
		}), "one inside the other"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := catchup.Decide(test.facts)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want an error with %q", err, test.want)
			}
			var refusal *catchup.RefusalError
			if !errors.As(err, &refusal) {
				t.Fatalf("%T is no refusal", err)
			}
			if refusal.Advice == "" && !strings.Contains(name, "no sense") {
				t.Error("it has no hint")
			}
		})
	}
}

func tablespace(f *catchup.Facts) {
	for i := range f.Candidates {
		b := &f.Candidates[i].Backup
		b.ServerVersion, b.CatalogVersion = 150004, 202209061
		b.Tablespaces = []repo.Tablespace{{OID: 16400, Location: "/space"}}
	}
	f.Places["/space/PG_15_202209061"] = catchup.DirFacts{Path: "/space/PG_15_202209061", State: catchup.DirEmpty, Free: 1 << 40}
}

// A refusal for good makes Patroni remove the old data.
func TestAPlaceThatCannotBeSeenIsNoRefusalForGood(t *testing.T) {
	_, err := catchup.Decide(facts(replica, dir(catchup.DirFacts{State: catchup.DirData}), tablespace, func(f *catchup.Facts) {
		f.Places["/space/PG_15_202209061"] = catchup.DirFacts{State: catchup.DirForeign, Unseen: "input/output error"}
	}))
	var refusal *catchup.RefusalError
	if !errors.As(err, &refusal) || refusal.Permanent || !strings.Contains(refusal.Reason, "input/output error") || refusal.Advice == "" {
		t.Errorf("got %#v", err)
	}
}

// A mount point without its file system must not be filled: whoever mounts it lays
// the old files over the new ones, and no server notices.
func TestWhatOldDataLeadsToAndIsNotThereIsNotMadeAnew(t *testing.T) {
	space := catchup.Place{OID: 16400, Location: "/space", Path: "/space/PG_15_202209061"}
	elsewhere := func(f *catchup.Facts) {
		f.Mapping = map[string]string{"/space": "/elsewhere"}
		f.Places["/elsewhere/PG_15_202209061"] = catchup.DirFacts{State: catchup.DirEmpty, Free: 1 << 40}
	}
	for name, test := range map[string]struct {
		place  catchup.Place
		change func(*catchup.Facts)
		want   string // "": it is no matter
	}{
		"a tablespace": {space, func(*catchup.Facts) {}, "tablespace 16400 of /data leads to /space, where PG_15_202209061 is not"},
		"a tablespace that has its own place here": {catchup.Place{OID: 16400, Location: "/disk2", Path: "/disk2/PG_15_202209061"}, func(f *catchup.Facts) {
			f.Places["/disk2/PG_15_202209061"] = catchup.DirFacts{State: catchup.DirEmpty, Free: 1 << 40}
		}, "leads to /disk2"},
		"a tablespace that is put elsewhere":         {space, elsewhere, ""},
		"a tablespace that the backup does not have": {catchup.Place{OID: 7, Location: "/gone", Path: "/gone/PG_15_202209061"}, func(*catchup.Facts) {}, ""},
		"pg_wal": {catchup.Place{Location: "/wal", Path: "/wal"}, func(f *catchup.Facts) {
			f.Places["/wal"] = catchup.DirFacts{State: catchup.DirEmpty, Free: 1 << 40}
		}, "pg_wal of /data leads to /wal, where there is none"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := catchup.Decide(facts(replica, dir(catchup.DirFacts{State: catchup.DirData, Missing: []catchup.Place{test.place}}), tablespace, test.change))
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var refusal *catchup.RefusalError
			if !errors.As(err, &refusal) || refusal.Permanent || !strings.Contains(refusal.Reason, test.want) || !strings.Contains(refusal.Advice, "mount") {
				t.Errorf("got %#v", err)
			}
		})
	}
}

func TestOldDataIsReplacedOnlyForAReplica(t *testing.T) {
	p, err := catchup.Decide(facts(replica, dir(catchup.DirFacts{State: catchup.DirData})))
	if err != nil {
		t.Fatal(err)
	}
	if p.Replace || p.Resume || p.Choice != catchup.ByHashes {
		t.Errorf("plan %+v", p)
	}
	p, err = catchup.Decide(facts(replica, dir(catchup.DirFacts{State: catchup.DirData}), func(f *catchup.Facts) { f.Rung = catchup.FullRestore }))
	if err != nil {
		t.Fatal(err)
	}
	if !p.Replace || p.Resume || p.Choice != catchup.FullRestore {
		t.Errorf("plan %+v", p)
	}
}

func TestAFinishedRunNeedsNothing(t *testing.T) {
	done := dir(catchup.DirFacts{State: catchup.DirFinished, Backup: repotest.ID(2), Purpose: catchup.Restore})
	p, err := catchup.Decide(facts(done))
	if err != nil {
		t.Fatal(err)
	}
	if p.Choice != catchup.Nothing || p.Backup.ID != repotest.ID(2) {
		t.Errorf("chose %q of %s", p.Choice, p.Backup.ID)
	}
	// What was finished for something else is old data like any other.
	p, err = catchup.Decide(facts(replica, dir(catchup.DirFacts{State: catchup.DirFinished, Backup: repotest.ID(2), Purpose: catchup.Bootstrap})))
	if err != nil {
		t.Fatal(err)
	}
	if p.Choice != catchup.FullRestore || !p.Replace {
		t.Errorf("chose %q, replace %t", p.Choice, p.Replace)
	}
}

func TestTheTablespaceGoesWhereItIsMapped(t *testing.T) {
	p, err := catchup.Decide(facts(tablespace, func(f *catchup.Facts) {
		f.Mapping = map[string]string{"/space": "/other"}
		f.Places["/other/PG_15_202209061"] = catchup.DirFacts{State: catchup.DirEmpty, Free: 1 << 40}
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := catchup.Place{OID: 16400, Location: "/other", Path: "/other/PG_15_202209061"}
	if len(p.Places) != 1 || p.Places[0] != want {
		t.Errorf("places %+v", p.Places)
	}
}

func TestAttemptsEndAsPatroniNeedsIt(t *testing.T) {
	start := noon
	empty, old := facts(replica), facts(replica, dir(catchup.DirFacts{State: catchup.DirData}))
	unreachable := errors.New("connection refused")
	for name, test := range map[string]struct {
		first  catchup.Facts
		err    error
		waited time.Duration
		again  bool
	}{
		"an outage, for the first minutes":                     {empty, unreachable, 9 * time.Minute, true},
		"an outage, until the next method must get its turn":   {empty, unreachable, 10 * time.Minute, false},
		"an outage, for ever where old data would be removed":  {old, unreachable, 100 * time.Hour, true},
		"a refusal that no retry mends":                        {old, &catchup.RefusalError{Permanent: true}, 0, false},
		"a refusal that a new backup would mend":               {empty, &catchup.RefusalError{}, time.Minute, true},
		"an outage while the directory could not be looked at": {catchup.Facts{Purpose: catchup.Replica}, unreachable, 100 * time.Hour, true},
		"another run, as long as it works":                     {empty, catchup.ErrLocked, 100 * time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			d := catchup.RetryDecision(test.first, test.err, start, start.Add(test.waited))
			if d.Again != test.again || d.Reason == "" {
				t.Errorf("got %+v", d)
			}
			if d.Again && (d.After < time.Second || d.After > 30*time.Second) {
				t.Errorf("waits %s", d.After)
			}
		})
	}
}

func TestABackupOfAnotherTimelineOfTheSameNumberDoesNotServe(t *testing.T) {
	f := facts(replica)
	last := &f.Candidates[2]
	last.Backup.History = []pg.Fork{{Parent: 1, Switch: 9 * seg}}
	p, err := catchup.Decide(f)
	if err != nil {
		t.Fatal(err)
	}
	if p.Backup.ID == last.ID {
		t.Errorf("chose %s, whose timeline 2 left timeline 1 elsewhere", p.Backup.ID)
	}
}

func TestOldDataIsKeptWhileNobodyLeads(t *testing.T) {
	f := facts(replica, dir(catchup.DirFacts{State: catchup.DirData}))
	f.Leader = nil
	var refusal *catchup.RefusalError
	if _, err := catchup.Decide(f); !errors.As(err, &refusal) || refusal.Permanent || !strings.Contains(err.Error(), "nobody leads") {
		t.Errorf("got %v", err)
	}
}

func TestBackendsThatOutliveTheStopAreWaitedFor(t *testing.T) {
	f := facts(replica, dir(catchup.DirFacts{State: catchup.DirData, Running: true, PID: 7}))
	var refusal *catchup.RefusalError
	if _, err := catchup.Decide(f); !errors.As(err, &refusal) || refusal.Permanent {
		t.Errorf("a replica's: got %v", err)
	}
	f.Purpose = catchup.Restore
	if _, err := catchup.Decide(f); !errors.As(err, &refusal) || !refusal.Permanent {
		t.Errorf("a restore's: got %v", err)
	}
}

func TestAnEmptyRepositoryDoesNotHoldUpTheNextMethod(t *testing.T) {
	none := func(f *catchup.Facts) { f.Candidates = nil }
	for state, permanent := range map[catchup.DirState]bool{catchup.DirEmpty: true, catchup.DirData: false} {
		var refusal *catchup.RefusalError
		_, err := catchup.Decide(facts(replica, none, dir(catchup.DirFacts{State: state})))
		if !errors.As(err, &refusal) || refusal.Permanent != permanent {
			t.Errorf("into a directory that is %s: %v", state, err)
		}
	}
}
