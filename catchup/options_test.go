package catchup_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/catchup"
)

const gib = 1 << 30

// old is a stopped standby on the leader's history, whose pages each backup
// would bring back at a cost.
func old(cost ...catchup.Convergence) func(*catchup.Facts) {
	return func(f *catchup.Facts) {
		replica(f)
		dir(catchup.DirFacts{State: catchup.DirData, Used: gib})(f)
		f.Local = &catchup.LocalFacts{Redo: 2 * seg, End: 3 * seg}
		f.Replay = &catchup.ReplayFacts{Closed: "000000010000000000000002 is neither in pg_wal nor archived", MayPass: true}
		for i := range cost {
			f.Candidates[i].Converge = &cost[i]
		}
	}
}

func costing(fetch int64) catchup.Convergence {
	return catchup.Convergence{Lower: 2 * seg, Cost: catchup.Cost{Fetch: fetch, Requests: 10, Write: fetch, Pages: fetch / 8192}}
}

func closed(why string) catchup.Convergence { return catchup.Convergence{Closed: why} }

func TestThePlanTakesTheBackupFromWhichItIsCheapest(t *testing.T) {
	replay := func(n int, bytes int64) func(*catchup.Facts) {
		return func(f *catchup.Facts) { f.Candidates[n-1].Cover.Bytes = bytes }
	}
	for name, test := range map[string]struct {
		facts  catchup.Facts
		backup int
		way    catchup.RungName
		says   map[int]string // of the other backups
	}{
		"the newest, if all cost the same": {
			facts(old(costing(gib), costing(gib), costing(gib))), 3, catchup.ByMaps,
			map[int]string{1: "older than one that serves", 2: "older than one that serves"}},
		"an older one that needs fewer pages": {
			facts(old(costing(gib/100), costing(3*gib), costing(3*gib))), 1, catchup.ByMaps,
			map[int]string{1: "takes the least time from it", 3: "but to converge by block maps takes"}},
		"but not if replay from there takes longer": {
			facts(old(costing(gib/100), costing(gib/100), costing(gib)), replay(1, 100*gib), replay(2, 50*gib)), 3, catchup.ByMaps,
			map[int]string{1: "but to converge by block maps takes", 2: "but to converge by block maps takes"}},
		"an older one, where the maps do not lead to the newest": {
			facts(old(closed("it is ahead"), costing(gib), closed("the data shares no history with it"))), 2, catchup.ByMaps,
			map[int]string{3: "not to converge by block maps: the data shares no history with it"}},
		"the newest for page hashes, where maps lead to none": {
			facts(old(closed("no"), closed("no"), closed("no"))), 3, catchup.ByHashes, nil},
		"the one that was asked for, whatever it costs": {
			facts(old(costing(gib), costing(gib), costing(gib)), func(f *catchup.Facts) { f.Backup = repotest.ID(1) }), 1, catchup.ByMaps, nil},
		"the one of an interrupted run, whatever others cost": {
			facts(old(), func(f *catchup.Facts) {
				f.Dir.State, f.Dir.Backup, f.Dir.Rung = catchup.DirUnfinished, repotest.ID(2), catchup.ByMaps
			}), 2, catchup.ByMaps, map[int]string{2: "an interrupted run has part of it"}},
		"another one, where the newest has no room": {
			facts(old(costing(gib), costing(gib), costing(gib)), func(f *catchup.Facts) {
				f.Dir.Free, f.Candidates[2].Backup.Bytes = 0, 5*gib
			}), 2, catchup.ByMaps, map[int]string{3: "bytes free, the backup needs"}},
		"the newest of those that were looked at": {
			facts(old(costing(gib), costing(gib), costing(gib)), func(f *catchup.Facts) {
				f.Candidates[0].Unchecked, f.Candidates[0].Converge = true, nil
			}), 3, catchup.ByMaps, map[int]string{1: "older than one that serves"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := catchup.Decide(test.facts)
			if err != nil {
				t.Fatal(err)
			}
			if p.Backup.ID != repotest.ID(test.backup) || p.Choice != test.way {
				t.Errorf("took %s by %q, want %s by %q: %+v", p.Backup.ID, p.Choice, repotest.ID(test.backup), test.way, p.Candidates)
			}
			for n, want := range test.says {
				if v := p.Candidates[3-n]; v.Backup != repotest.ID(n) || !strings.Contains(v.Reason, want) {
					t.Errorf("of %s it says %q, not %q", v.Backup, v.Reason, want)
				}
			}
			if p.Choice == catchup.ByMaps && p.Dir.State == catchup.DirData && p.Lower != 2*seg {
				t.Errorf("counts from %s", p.Lower)
			}
			for _, r := range p.Rungs {
				if r.Name == p.Choice && r.Backup != p.Backup.ID {
					t.Errorf("the way leans on %s, the plan on %s", r.Backup, p.Backup.ID)
				}
			}
		})
	}
}

func TestAnEmptyDirectoryGetsTheNewestBackup(t *testing.T) {
	// Even if an older one were quicker to fetch: it would leave more to replay
	// than is known.
	p, err := catchup.Decide(facts(replica, func(f *catchup.Facts) { f.Candidates[0].Backup.Bytes = 1 }))
	if err != nil || p.Backup.ID != repotest.ID(3) {
		t.Errorf("took %s (%v)", p.Backup.ID, err)
	}
}

func TestAWayThatIsInsistedOnIsWaitedForWhereThatMayHelp(t *testing.T) {
	insist := func(way catchup.RungName) func(*catchup.Facts) {
		return func(f *catchup.Facts) { f.Rung = way }
	}
	replayable := func(f *catchup.Facts) { f.Replay = &catchup.ReplayFacts{} }
	for name, test := range map[string]struct {
		facts     catchup.Facts
		permanent bool
		says      string
	}{
		"WAL that may be archived yet": {facts(old(), insist(catchup.ByReplay)), false, "neither in pg_wal nor archived"},
		"maps that may come": {facts(old(costing(1), costing(1), catchup.Convergence{Closed: "not known", MayPass: true}), insist(catchup.ByMaps), func(f *catchup.Facts) {
			f.Backup = repotest.ID(3)
		}), false, "not known"},
		"maps that never will":             {facts(old(closed("hint bits"), closed("hint bits"), closed("hint bits")), insist(catchup.ByMaps)), true, "hint bits"},
		"a backup that may be taken":       {facts(old(), replayable, insist(catchup.FullRestore), func(f *catchup.Facts) { f.Candidates = nil }), false, "holds no backup"},
		"and the same of maps":             {facts(old(), replayable, insist(catchup.ByMaps), func(f *catchup.Facts) { f.Candidates = nil }), false, "no backup serves"},
		"a backup that does not fit":       {facts(old(), replayable, insist(catchup.ByHashes), each(func(c *catchup.Candidate) { c.Backup.Bytes = 1 << 50 })), false, "no backup serves"},
		"a way that there is not":          {facts(old(), insist("by prayer")), true, "not known"},
		"a mapping of what is not in them": {facts(old(), replayable, insist(catchup.ByHashes), func(f *catchup.Facts) { f.Mapping = map[string]string{"/x": "/y"} }), true, "no backup serves"},
		"a backup of another timeline":     {facts(old(), replayable, insist(catchup.ByHashes), each(func(c *catchup.Candidate) { c.Err = repo.ErrCorrupt })), false, "no backup serves"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := catchup.Decide(test.facts)
			var refusal *catchup.RefusalError
			if !errors.As(err, &refusal) {
				t.Fatalf("got %v, no refusal", err)
			}
			if refusal.Permanent != test.permanent || !strings.Contains(err.Error(), test.says) {
				t.Errorf("permanent %t: %v", refusal.Permanent, err)
			}
		})
	}
}
