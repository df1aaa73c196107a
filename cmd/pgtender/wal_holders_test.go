package main

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

func TestWhereBackupsNeedWALFrom(t *testing.T) {
	second := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 5000}}}
	taken := func(status backup.Status, t pg.Timeline, forks []pg.Fork, start, stop pg.LSN) backup.Summary {
		return backup.Summary{Status: status, Backup: &repo.Backup{
			Start: pg.Pos{Timeline: t, LSN: start}, Stop: pg.Pos{Timeline: t, LSN: stop}, History: forks,
		}}
	}
	other := []pg.Fork{{Parent: 1, Switch: 4000}}
	for _, c := range []struct {
		name    string
		backups []backup.Summary
		want    pg.LSN
	}{
		{"none", nil, 0},
		{"the oldest", []backup.Summary{taken(backup.Complete, 2, second.Forks, 6000, 6100), taken(backup.Complete, 1, nil, 3000, 3100)}, 3000},
		{"not one that waits, is condemned or damaged", []backup.Summary{
			taken(backup.Pending, 1, nil, 1000, 1100), taken(backup.Condemned, 1, nil, 1000, 1100), {Status: backup.Damaged}, taken(backup.Complete, 1, nil, 3000, 3100),
		}, 3000},
		{"not one past the fork, nor of another timeline 2", []backup.Summary{taken(backup.Complete, 1, nil, 4900, 5100), taken(backup.Complete, 2, other, 4100, 4200)}, 0},
	} {
		if got := neededFrom(c.backups, second); got != c.want {
			t.Errorf("%s: from %s, want %s", c.name, got, c.want)
		}
	}
}

func TestMembersAreAskedForWhatIsFaulty(t *testing.T) {
	const size = pg.SegmentSize(16 << 20)
	fault := func(kind archive.FaultKind, first, last pg.SegmentNumber) archive.FaultSpan {
		g := func(n pg.SegmentNumber) pg.Segment { return pg.Segment{Timeline: 1, Number: n} }
		return archive.FaultSpan{Fault: archive.Fault{Kind: kind, Segment: g(first), Err: errors.New("x")}, Last: g(last)}
	}
	v := &archive.Verified{SegmentSize: size, Faults: []archive.FaultSpan{
		fault(archive.FaultMissing, 4, 6), fault(archive.FaultUntracked, 7, 7), fault(archive.FaultDamaged, 9, 9),
	}}
	name := func(n pg.SegmentNumber) string { return pg.Segment{Timeline: 1, Number: n}.Name(size) }
	if diff := cmp.Diff([]string{name(4), name(5), name(6), name(9)}, faultySegments(v)); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	noteHolder(v, "pg1", []string{name(6), name(9)})
	noteHolder(v, "pg2", []string{name(5)})
	noteHolder(v, "pg3", nil)
	for i, want := range [][]string{{"pg1", "pg2"}, nil, {"pg1"}} {
		if diff := cmp.Diff(want, v.Faults[i].HeldBy); diff != "" {
			t.Errorf("fault %d is held by (-want +got):\n%s", i, diff)
		}
	}
}
