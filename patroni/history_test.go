package patroni_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

func TestTheLeadersHistoryIsGivenOnlyIfItIsTheLeaders(t *testing.T) {
	const rows3 = `[[1,25165824,"a"],[2,67109024,"b","2026-06-01T10:00:00+00:00"]]`
	leader := func(timeline string) string {
		return `{"role":"primary","state":"running","timeline":` + timeline + `}`
	}
	three := pg.History{Timeline: 3, Forks: []pg.Fork{{Parent: 1, Switch: 25165824, Reason: "a"}, {Parent: 2, Switch: 67109024, Reason: "b"}}}
	tests := []struct {
		name            string
		history, leader string
		want            pg.History
		err             error
	}{
		{"the rows end with the leader's timeline", rows3, leader("3"), three, nil},
		{"timeline 1 needs no rows", "[]", leader("1"), pg.FirstTimeline(), nil},
		{"timeline 1 needs no key", "-", leader("1"), pg.FirstTimeline(), nil},
		{"the leader was promoted a moment ago", rows3, leader("4"), pg.History{}, patroni.ErrHistoryStale},
		{"a timeline was skipped", `[[1,25165824,"a"]]`, leader("3"), pg.History{}, patroni.ErrHistoryStale},
		{"the leader is not promoted yet", rows3, `{"role":"replica","state":"running","timeline":3}`, pg.History{}, patroni.ErrHistoryStale},
		{"the leader is being promoted", rows3, `{"role":"promoted","state":"running","timeline":3}`, pg.History{}, patroni.ErrHistoryStale},
		{"the leader is not promoted yet and there was no timeline before", "[]", `{"role":"replica","state":"running","timeline":1}`, pg.History{}, patroni.ErrHistoryStale},
		{"the leader of a standby cluster", rows3, `{"role":"standby_leader","state":"running","timeline":3}`, three, nil},
		{"the leader's timeline is unknown", rows3, leader("null"), pg.History{}, patroni.ErrHistoryStale},
		{"the key is gone", "-", leader("3"), pg.History{}, patroni.ErrNoHistory},
		{"the key is damaged", "{", leader("3"), pg.History{}, patroni.ErrNoHistory},
		{"the oldest rows are gone", `[[2,67109024,"b"]]`, leader("3"), pg.History{}, patroni.ErrHistoryTruncated},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := parse(t, map[string]string{"history": tt.history, "members/pg1": tt.leader})
			got, err := c.LeaderHistory()
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheHistoryTellsWhoLedATimeline(t *testing.T) {
	rows, err := patroni.ParseTimelines(`[[1,5,"","t","pg2"],[2,6,"","t","pg1"],[5,7,"old row"]]`)
	if err != nil {
		t.Fatal(err)
	}
	for tli, want := range map[pg.Timeline]string{1: "", 2: "pg2", 3: "", 5: "pg1", 6: ""} {
		if got := rows.LeaderOf(tli); got != want {
			t.Errorf("timeline %s was led by %q, want %q", tli, got, want)
		}
	}
	if got := rows.Timeline(); got != 6 {
		t.Errorf("current timeline %s", got)
	}
	if got := (patroni.Timelines{}).Timeline(); got != 0 {
		t.Errorf("unknown rows end with timeline %s", got)
	}
	if _, err := patroni.ParseTimelines("{}"); err == nil {
		t.Error("an object was read")
	}
}

func TestALastTimelineLeavesNoRoomForOverflow(t *testing.T) {
	if _, err := patroni.ParseTimelines(`[[4294967295,5,""]]`); err == nil {
		t.Error("timeline 4294967296 came out")
	}
}
