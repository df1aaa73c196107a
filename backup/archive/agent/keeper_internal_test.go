package agent

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// TestAKeeperForgetsOtherWAL: what is archived of one incarnation of a timeline is
// not what the server has of another, although the names are the same.
func TestAKeeperForgetsOtherWAL(t *testing.T) {
	cluster := repo.ClusterID{Scope: "demo", SystemID: 1}
	history := func(at pg.LSN) pg.History {
		return pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: at}}}
	}
	g := pg.Segment{Timeline: 2, Number: 9}
	k := new(Keeper)
	for _, step := range []struct {
		what    string
		of      repo.ClusterID
		along   pg.History
		forgets bool
	}{
		{"nothing is known at first", cluster, history(100), true},
		{"the same history", cluster, history(100), false},
		{"another timeline 2", cluster, history(200), true},
		{"another cluster", repo.ClusterID{Scope: "demo", SystemID: 2}, history(200), true},
		{"the same again", repo.ClusterID{Scope: "demo", SystemID: 2}, history(200), false},
	} {
		k.remember(step.of, step.along)
		if k.archived[g] == step.forgets {
			t.Errorf("%s: forgets %v", step.what, !k.archived[g])
		}
		k.archived[g], k.again[g] = true, retry{}
	}
}

func TestAServerIsAskedSoonForTheSlotItEnded(t *testing.T) {
	refused := fmt.Errorf("create the slot: %w", &pgconn.PgError{Code: "53400"})
	starting := fmt.Errorf("connect: %w", &pgconn.PgError{Code: "57P03"})
	for _, c := range []struct {
		what     string
		err      error
		since    time.Duration
		interval time.Duration
		want     time.Duration
	}{
		{"no server", errors.New("no server runs"), time.Millisecond, 10 * time.Second, time.Second},
		{"one that starts", starting, 30 * time.Second, 10 * time.Second, time.Second},
		{"for minutes", starting, 5 * time.Minute, 10 * time.Second, 5 * time.Second},
		{"for hours", starting, 5 * time.Hour, 10 * time.Second, 10 * time.Second},
		{"more often than that anyway", starting, time.Hour, 100 * time.Millisecond, 100 * time.Millisecond},
		{"it has no slot to spare", refused, time.Millisecond, 10 * time.Second, 10 * time.Second},
	} {
		if got := until(c.err, c.since, c.interval); got != c.want {
			t.Errorf("%s: again after %s, want %s", c.what, got, c.want)
		}
	}
}

// TestWhatIsNotHeldIsKnownUntilItIsArchived: in segments of 16 MB, whole ones.
func TestWhatIsNotHeldIsKnownUntilItIsArchived(t *testing.T) {
	const size = pg.DefaultSegmentSize
	var g gap
	g.add(size.Start(5), size.Start(5)+1000, size)
	if g != (gap{}) {
		t.Errorf("within a segment: %+v", g)
	}
	for _, step := range []struct {
		what string
		do   func()
		want gap
	}{
		{"a restart", func() { g.add(size.Start(5), size.Start(8)+1000, size) }, gap{size.Start(5), size.Start(8) + 1000}},
		{"the limit is reached, too", func() { g.add(size.Start(9), size.Start(10), size) }, gap{size.Start(5), size.Start(10)}},
		{"the archive does not go as far", func() { g.archived(size.Start(4), size) }, gap{size.Start(5), size.Start(10)}},
		{"a part is archived", func() { g.archived(size.Start(9), size) }, gap{size.Start(9), size.Start(10)}},
		{"all is archived", func() { g.archived(size.Start(10), size) }, gap{}},
	} {
		if step.do(); g != step.want {
			t.Errorf("%s: %+v, want %+v", step.what, g, step.want)
		}
	}
}
