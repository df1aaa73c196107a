package agent_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/agent"
	"github.com/pgtender/pgtender/internal/pg"
)

const size = pg.SegmentSize(16 << 20)

var now = time.Unix(1_000_000, 0)

// at gives a position in the middle of a segment.
func at(n pg.SegmentNumber) pg.LSN { return size.Start(n) + 1000 }

// missing gives segments with the time since they were written.
func missing(ages map[pg.SegmentNumber]time.Duration, numbers ...pg.SegmentNumber) []archive.LocalSegment {
	var out []archive.LocalSegment
	for _, n := range numbers {
		out = append(out, archive.LocalSegment{Segment: pg.Segment{Timeline: 1, Number: n}, Written: now.Add(-ages[n]).Unix()})
	}
	return out
}

func TestWhatIsHeldAndPushed(t *testing.T) {
	ages := map[pg.SegmentNumber]time.Duration{5: 3 * time.Minute, 6: time.Minute, 7: 59 * time.Second, 8: 0}
	for _, c := range []struct {
		name   string
		f      agent.Facts
		hold   pg.LSN
		lapsed bool
		push   []pg.SegmentNumber
	}{
		{"all is archived: the segment that is being written", agent.Facts{End: at(9), Movable: at(9)}, size.Start(9), false, nil},
		{"from the first that is not archived on; those past their grace are pushed",
			agent.Facts{End: at(9), Movable: at(9), Role: agent.RoleReplica, Missing: missing(ages, 5, 6, 7, 8)}, size.Start(5), false, []pg.SegmentNumber{5, 6}},
		{"a cluster that cannot be asked keeps the grace",
			agent.Facts{End: at(9), Movable: at(9), Role: agent.RoleUnknown, Missing: missing(ages, 6, 7)}, size.Start(6), false, []pg.SegmentNumber{6}},
		{"a leader too is helped when it is late",
			agent.Facts{End: at(9), Movable: at(9), Role: agent.RoleLeader, Missing: missing(ages, 5, 8)}, size.Start(5), false, []pg.SegmentNumber{5}},
		{"where nobody leads all are pushed at once",
			agent.Facts{End: at(9), Movable: at(9), Role: agent.RoleNoLeader, Missing: missing(ages, 5, 8)}, size.Start(5), false, []pg.SegmentNumber{5, 8}},
		{"a file from the future is not late", agent.Facts{End: at(9), Movable: at(9), Missing: missing(map[pg.SegmentNumber]time.Duration{8: -time.Hour}, 8)}, size.Start(8), false, nil},
		{"a slot does not go back, so that what it does not hold is pushed at once",
			agent.Facts{End: at(9), Movable: at(9), Held: at(7), MaxHold: 1 << 40, Role: agent.RoleReplica, Missing: missing(nil, 5, 6, 7)}, at(7), false, []pg.SegmentNumber{5, 6}},
		{"also where the cluster cannot be asked",
			agent.Facts{End: at(9), Movable: at(9), Held: size.Start(7), MaxHold: 1 << 40, Missing: missing(nil, 6, 7)}, size.Start(7), false, []pg.SegmentNumber{6}},
		{"but not by a leader, whose server keeps it",
			agent.Facts{End: at(9), Movable: at(9), Held: size.Start(7), MaxHold: 1 << 40, Role: agent.RoleLeader, Missing: missing(nil, 5)}, size.Start(7), false, nil},
		{"nor where nothing is to be held",
			agent.Facts{End: at(9), Movable: at(9), Held: size.Start(7), Role: agent.RoleReplica, Missing: missing(nil, 5)}, size.Start(7), false, nil},
		{"nor past what a standby has replayed", agent.Facts{End: at(9), Movable: at(6), Held: size.Start(3)}, at(6), false, nil},
		{"an archive that cannot be asked leaves the slot where it is", agent.Facts{End: at(9), Movable: at(9), Held: size.Start(3), Unasked: errors.New("down")}, size.Start(3), false, nil},
		{"more than may be held is let go, and said, and pushed",
			agent.Facts{End: at(9), Movable: at(9), Held: size.Start(3), MaxHold: 2 * int64(size), Missing: missing(nil, 4, 5, 6, 7, 8)}, at(7), true, []pg.SegmentNumber{4, 5, 6}},
		{"also while the archive cannot be asked",
			agent.Facts{End: at(9), Movable: at(9), Held: size.Start(3), MaxHold: 2 * int64(size), Unasked: errors.New("down")}, at(7), true, nil},
		{"a limit that is not reached", agent.Facts{End: at(9), Movable: at(9), Held: size.Start(5), MaxHold: 5 * int64(size), Missing: missing(nil, 6)}, size.Start(6), false, nil},
		{"a limit beyond the beginning of all WAL", agent.Facts{End: at(1), Movable: at(1), MaxHold: 1 << 40}, size.Start(1), false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.f.Now, c.f.Size, c.f.Grace = now, size, time.Minute
			d := agent.Decide(c.f)
			var pushed []pg.SegmentNumber
			for _, g := range d.Push {
				pushed = append(pushed, g.Number)
			}
			if d.Hold != c.hold || d.Lapsed != c.lapsed || d.Why == "" {
				t.Errorf("%+v, want %s, lapsed %v", d, c.hold, c.lapsed)
			}
			if diff := cmp.Diff(c.push, pushed); diff != "" {
				t.Errorf("pushed (-want +got):\n%s", diff)
			}
		})
	}
}
