package backup

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

func TestDecideKind(t *testing.T) {
	b := repotest.Backup(repotest.ID(1))
	gap := errors.New("segment X is missing")
	refused := []Rejected{{repotest.ID(2), "is of another branch"}, {repotest.ID(1), "is older"}}
	for _, c := range []struct {
		name    string
		q       question
		kind    repo.Kind
		method  Method
		why     string // part of the reason, or of the error
		refused bool
	}{
		{name: "full is asked for", q: question{request: FullOnly, parent: &b}, kind: repo.Full, why: "asked for"},
		{name: "the first backup", q: question{none: true}, kind: repo.Full, why: "no backup yet"},
		{name: "the first backup, and no full may stand in", q: question{none: true, noFallback: "never"}, kind: repo.Full, why: "no backup yet"},
		{name: "the first backup, and incremental is asked for", q: question{request: IncrementalOnly, none: true}, refused: true, why: "no backup yet"},
		{name: "changes are known", q: question{parent: &b}, kind: repo.Incremental, method: ByMaps, why: b.ID.String()},
		{name: "changes are known, and incremental is asked for", q: question{request: IncrementalOnly, parent: &b}, kind: repo.Incremental, method: ByMaps},
		{name: "a map is missing", q: question{parent: &b, gap: gap}, kind: repo.Full, why: "segment X is missing"},
		{name: "a map is missing, and pages tell", q: question{parent: &b, gap: gap, scan: true}, kind: repo.Incremental, method: ByLSN, why: "segment X is missing"},
		{name: "a map is missing, and no full may stand in", q: question{parent: &b, gap: gap, noFallback: "it is day"}, refused: true, why: "it is day"},
		{name: "a map is missing, and incremental is asked for", q: question{request: IncrementalOnly, parent: &b, gap: gap}, refused: true, why: "segment X is missing"},
		{name: "no parent", q: question{rejected: refused}, kind: repo.Full, why: repotest.ID(2).String() + " is of another branch"},
		{name: "no parent, and no full may stand in", q: question{rejected: refused, noFallback: "it is day"}, refused: true, why: "it is day"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := decideKind(c.q)
			if (err != nil) != c.refused {
				t.Fatalf("got %+v, %v", a, err)
			}
			text := a.why
			if err != nil {
				if text = err.Error(); finding.Hint(err) == "" {
					t.Error("the refusal has no hint")
				}
			}
			if a.kind != c.kind || a.method != c.method || !strings.Contains(text, c.why) || text == "" {
				t.Errorf("got %+v, %v", a, err)
			}
		})
	}
}

// forked is a server on timeline 3 that left 1 at 0/3000 and 2 at 0/5000, and
// starts a backup at 0/9000.
func forked() beginning {
	h := pg.History{Timeline: 3, Forks: []pg.Fork{{Parent: 1, Switch: 0x3000}, {Parent: 2, Switch: 0x5000}}}
	b := repotest.Backup(repotest.ID(1))
	return beginning{at: pg.Pos{Timeline: 3, LSN: 0x9000}, history: h, control: pg.Control{
		SystemID: b.SystemID, CatalogVersion: b.CatalogVersion, ControlVersion: b.ControlVersion,
		BlockSize: uint32(b.BlockSize), SegmentSize: b.SegmentSize, DataChecksumVersion: b.ChecksumVersion,
	}}
}

// parentAt is a backup of that cluster.
func parentAt(n int, startTLI pg.Timeline, start pg.LSN, stopTLI pg.Timeline, stop pg.LSN) repo.Backup {
	b := repotest.Backup(repotest.ID(n))
	b.Start, b.Stop = pg.Pos{Timeline: startTLI, LSN: start}, pg.Pos{Timeline: stopTLI, LSN: stop}
	b.History = slices.Clone(forked().history.Forks[:stopTLI-1])
	return b
}

func TestAParentLiesWhollyOnTheSourcesHistory(t *testing.T) {
	for _, c := range []struct {
		name   string
		parent repo.Backup
		change func(*repo.Backup)
		why    string // "": fit
	}{
		{name: "on the same timeline", parent: parentAt(1, 3, 0x6000, 3, 0x7000)},
		{name: "ends exactly where this one starts", parent: parentAt(1, 3, 0x6000, 3, 0x9000)},
		{name: "on an older timeline, taken of another member", parent: parentAt(1, 1, 0x1000, 1, 0x2000)},
		{name: "ends exactly at the switch", parent: parentAt(1, 1, 0x1000, 1, 0x3000)},
		{name: "across a switch", parent: parentAt(1, 1, 0x2000, 2, 0x4000)},
		{name: "past the switch, on the branch that was left", parent: parentAt(1, 1, 0x2000, 1, 0x3001), why: "left timeline"},
		{name: "wholly past the switch", parent: parentAt(1, 2, 0x6000, 2, 0x7000), why: "left timeline"},
		{name: "ends past this one's start", parent: parentAt(1, 3, 0x6000, 3, 0x9001), why: "no restartpoint"},
		{name: "starts where this one does", parent: parentAt(1, 3, 0x9000, 3, 0xA000), why: "no restartpoint"},
		{name: "another timeline 2", parent: parentAt(1, 1, 0x1000, 2, 0x4000), change: func(b *repo.Backup) { b.History[0].Switch = 0x2000 }, why: "another timeline"},
		{name: "a timeline that was never the source's", parent: parentAt(1, 1, 0x1000, 1, 0x2000), change: func(b *repo.Backup) { b.Start.Timeline, b.Stop.Timeline = 7, 7 }, why: "does not descend"},
		{name: "checksums were off", parent: parentAt(1, 3, 0x6000, 3, 0x7000), change: func(b *repo.Backup) { b.ChecksumVersion ^= 1 }, why: "checksum"},
		{name: "another major version", parent: parentAt(1, 3, 0x6000, 3, 0x7000), change: func(b *repo.Backup) { b.CatalogVersion++ }, why: "catalog version"},
		{name: "another block size", parent: parentAt(1, 3, 0x6000, 3, 0x7000), change: func(b *repo.Backup) { b.BlockSize *= 2 }, why: "block size"},
		{name: "another cluster", parent: parentAt(1, 3, 0x6000, 3, 0x7000), change: func(b *repo.Backup) { b.SystemID++ }, why: "system identifier"},
		{name: "damaged pages were accepted", parent: parentAt(1, 3, 0x6000, 3, 0x7000), change: func(b *repo.Backup) { b.DamagedPages = 1 }, why: "damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.change != nil {
				c.change(&c.parent)
			}
			why := unfitParent(&c.parent, forked())
			if (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
				t.Errorf("got %q", why)
			}
		})
	}
}

func TestTheParentIsTheFitOneWithTheFewestChanges(t *testing.T) {
	old, best, diverged := parentAt(1, 3, 0x5800, 3, 0x6000), parentAt(2, 3, 0x6000, 3, 0x7000), parentAt(4, 1, 0x2000, 1, 0x8000)
	twin := parentAt(3, 3, 0x6000, 3, 0x6800) // of another standby, from the same restartpoint
	all := []repo.Backup{old, best, twin, diverged}
	parent, rejected := chooseParent(all, forked(), 0)
	if parent == nil || parent.ID != twin.ID || len(rejected) != 1 || rejected[0].Backup != diverged.ID {
		t.Errorf("got %v, rejected %v", parent, rejected)
	}
	if parent, _ = chooseParent(all, forked(), old.ID); parent.ID != old.ID {
		t.Errorf("the preferred one was not taken, but %s", parent.ID)
	}
	if parent, _ = chooseParent(all, forked(), diverged.ID); parent.ID != twin.ID {
		t.Errorf("preferred and unfit: got %s", parent.ID)
	}
	if parent, rejected = chooseParent([]repo.Backup{diverged}, forked(), 0); parent != nil || len(rejected) != 1 {
		t.Errorf("got %v", parent)
	}
}

func TestPageLSNsTellOnlyWhereEveryChangeMovesThem(t *testing.T) {
	for _, c := range []struct {
		want                       bool
		sumNow, sumThen, now, then bool
	}{
		{want: false},
		{sumNow: true, sumThen: true, want: true},
		{now: true, then: true, want: true},
		{now: true, want: false},
		{then: true, want: false},
		{sumNow: true, then: true, want: false},
	} {
		b := repotest.Backup(repotest.ID(1))
		b.ChecksumVersion, b.WALLogHints = 0, c.then
		var control pg.Control
		control.WALLogHints = c.now
		if c.sumThen {
			b.ChecksumVersion = 1
		}
		if c.sumNow {
			control.DataChecksumVersion = 1
		}
		if got := scanSafe(&b, control); got != c.want {
			t.Errorf("%+v: got %t", c, got)
		}
	}
}

func TestASummaryOfAnotherBranchIsNotTaken(t *testing.T) {
	h := forked().history // 1 to 0/3000, 2 to 0/5000, then 3
	list := []walSummary{{1, 0x1000, 0x2000}, {1, 0x1000, 0x3000}, {1, 0x2800, 0x3800}, {2, 0x3000, 0x4000}, {2, 0x4000, 0x5800}, {3, 0x5000, 0x6000}, {3, 0x7000, 0x8000}}
	for _, c := range []struct{ at, want pg.LSN }{
		{0x1000, 0x3000}, {0x2900, 0x3000}, {0x3000, 0x4000}, {0x4000, 0}, {0x5000, 0x6000}, {0x6000, 0}, {0x7800, 0x8000},
	} {
		if got, ok := nextSummary(list, h, c.at); got.end != c.want || ok != (c.want != 0) {
			t.Errorf("from %s: got %+v, %t", c.at, got, ok)
		}
	}
}
