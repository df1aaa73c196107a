package archive_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// A copy of the cluster began a timeline and archived it. Nobody leads, or the
// DCS is down.
func TestAStrayTimelineIsNotFollowed(t *testing.T) {
	one := pg.FirstTimeline()
	fork := func(h pg.History, tli pg.Timeline, at pg.LSN) pg.History {
		return pg.History{Timeline: tli, Forks: append(append([]pg.Fork(nil), h.Forks...), pg.Fork{Parent: h.Timeline, Switch: at, Reason: "promoted"})}
	}
	two := fork(one, 2, 0x5000000)
	three := fork(two, 3, 0x7000000)
	stray := fork(one, 2, 0x4000000)      // beside the cluster's own 2
	strayThree := fork(two, 3, 0x6000000) // beside the cluster's own 3
	at := func(h pg.History, lsn pg.LSN) *archive.Follower {
		pos := pg.Pos{Timeline: h.Timeline, LSN: lsn}
		return &archive.Follower{History: h, Checkpoint: pos, Recovered: pos}
	}
	down := errors.New("no answer")
	remembers := func(h pg.History) error { return &archive.LastLeaderError{Last: h, Cause: down} }
	for _, c := range []struct {
		name      string
		archived  []pg.History
		dcs       error
		follower  *archive.Follower
		want      pg.History
		serves    []pg.History
		withholds []pg.History
	}{
		{"a server past the fork of a stray one stays on its own", []pg.History{stray}, down, at(one, 0x4000001), one, nil, []pg.History{stray}},
		{"a checkpoint at the fork is not the stray one's", []pg.History{stray}, down, &archive.Follower{History: one, Checkpoint: pg.Pos{Timeline: 1, LSN: 0x4000000}}, one, nil, []pg.History{stray}},
		{"a server before the fork goes on along it", []pg.History{two}, down, at(one, 0x4000000), two, []pg.History{two}, nil},
		{"a server is on the timeline of the same number", []pg.History{two, stray}, down, at(two, 0x5000001), two, []pg.History{two}, []pg.History{stray}},
		{"its own history is not archived", []pg.History{stray}, down, at(two, 0x5000001), two, nil, []pg.History{stray}},
		{"the last leader's timeline wins over its sibling", []pg.History{two, stray}, remembers(two), nil, two, []pg.History{two}, []pg.History{stray}},
		{"the last leader's timeline went on", []pg.History{two, stray, three}, remembers(two), nil, three, []pg.History{two, three}, []pg.History{stray}},
		{"several went on from the last leader's", []pg.History{two, three, strayThree}, remembers(two), at(one, 0x4000000), two, []pg.History{two}, nil},
		{"the server tells which one went on from the last leader's", []pg.History{two, three, strayThree}, remembers(two), at(two, 0x6000001), three, []pg.History{three}, []pg.History{strayThree}},
		{"a server that has diverged learns of the last leader's", []pg.History{two}, remembers(two), at(one, 0x5000001), two, []pg.History{two}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := archived(t, c.archived, nil)
			leader := func(context.Context) (pg.History, error) { return pg.History{}, c.dcs }
			got, err := archive.ResolveLineage(t.Context(), r, archive.LineageOptions{Leader: leader, Follower: c.follower})
			if err != nil || !got.Equal(c.want) || got.Source != archive.SourceRepository {
				t.Fatalf("got %+v, %v; want %+v", got, err, c.want)
			}
			for _, h := range c.serves {
				if !archive.ServesHistory(got, h) {
					t.Errorf("timeline %+v is withheld", h)
				}
			}
			for _, h := range c.withholds {
				if archive.ServesHistory(got, h) {
					t.Errorf("timeline %+v is served", h)
				}
			}
		})
	}
}

// Two timelines of one number: the caller's name for it tells them apart, or the
// history that restore has put into the reader's pg_wal.
func TestATimelineOfTwoOfTheNumberIsTold(t *testing.T) {
	two := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x5000000}}}
	stray := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x4000000}}}
	r, dir := archived(t, []pg.History{two, stray}, nil), t.TempDir()
	resolve := func(o archive.LineageOptions) (archive.Lineage, error) {
		o.Timeline = 2
		return archive.ResolveLineage(t.Context(), r, o)
	}
	reader := &archive.Follower{WALDir: dir}
	for _, o := range []archive.LineageOptions{{}, {Follower: reader}, {Incarnation: repo.Incarnation{Timeline: 2}}} {
		if l, err := resolve(o); !errors.As(err, new(*archive.AmbiguousError)) {
			t.Errorf("with %+v: %+v, %v", o, l, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "00000002.history"), stray.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []archive.LineageOptions{{Follower: reader}, {Incarnation: repo.IncarnationOf(stray)}} {
		if l, err := resolve(o); err != nil || !l.History.Equal(stray) {
			t.Errorf("with %+v: %+v, %v", o, l, err)
		}
	}
	if l, err := resolve(archive.LineageOptions{Follower: reader, Incarnation: repo.IncarnationOf(two)}); err != nil || !l.History.Equal(two) {
		t.Errorf("the caller's name counts first: %+v, %v", l, err)
	}
	none := repo.IncarnationOf(pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x1000000}}})
	if l, err := resolve(archive.LineageOptions{Incarnation: none}); !errors.Is(err, archive.ErrNoHistory) {
		t.Errorf("one that is not archived: %+v, %v", l, err)
	}
}

func TestAFollowerIsWhatItsControlFileAndHistorySay(t *testing.T) {
	dir := t.TempDir()
	control := &pg.Control{Checkpoint: 0x5000028, CheckpointCopy: pg.Checkpoint{Timeline: 2}, MinRecovery: 0x6000000, MinRecoveryTLI: 3}
	if f := archive.NewFollower(dir, control); f.History.Timeline != 0 {
		t.Errorf("a history that is not there: %+v", f)
	}
	if err := os.WriteFile(filepath.Join(dir, "00000003.history"), []byte("1\t0/4000000\tx\n2\t0/5800000\ty\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := archive.NewFollower(dir, control)
	if f.History.Timeline != 3 || len(f.History.Forks) != 2 || f.Checkpoint.Timeline != 2 || f.Recovered.LSN != 0x6000000 {
		t.Errorf("got %+v", f)
	}
	if f := archive.NewFollower(dir, &pg.Control{CheckpointCopy: pg.Checkpoint{Timeline: 1}}); f.History.Timeline != 1 {
		t.Errorf("timeline 1 has no file: %+v", f)
	}
}
