package catchup_test

import (
	"strings"
	"testing"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestTwoServersWentOnFromOnePlace promotes two standbys where the primary ended,
// each without a sight of the other's history file. Their timelines have one number
// and one beginning, and nothing but WAL tells that they are two.
func TestTwoServersWentOnFromOnePlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		checkpoint bool // the one that comes back has made one since
	}{
		{"before a checkpoint", false},
		{"after a checkpoint", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config := map[string]string{"wal_keep_size": "0", "autovacuum": "off", "checkpoint_timeout": "1h"}
			l := newLab(t, pgtest.Options{Major: 16, Checksums: true, Config: config})
			l.primary.EnableAMCheck(t)
			l.primary.Exec(t, "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 6) AS pad FROM generate_series(1, 20000) AS i", "CHECKPOINT")
			old := pgtest.StandbyOf(t, l.primary, pgtest.Options{Config: map[string]string{"archive_mode": "off"}})
			next := pgtest.StandbyOf(t, l.primary, pgtest.Options{Config: map[string]string{"archive_mode": "on", "archive_command": l.program + "push %p"}})
			old.CatchUp(t, l.primary)
			next.CatchUp(t, l.primary)
			l.primary.Stop(t, pgtest.Fast)
			old.Promote(t)
			next.Promote(t)
			l.primary = next
			if c.checkpoint {
				old.Exec(t, "UPDATE t SET pad = 'lost' WHERE i % 50 = 3", "CHECKPOINT")
			}
			old.Exec(t, "UPDATE t SET pad = 'lost too' WHERE i % 50 = 4")
			next.Exec(t, "UPDATE t SET pad = 'kept' WHERE i % 2 = 1", "CREATE TABLE more AS SELECT * FROM t")
			l.backup(t, next)
			l.archived(t)
			x := &branched{lab: l, branch: branch{major: 16, stop: "diverged, crashed", protect: "checksums"}, old: old}
			old.Crash(t)

			p, closed := x.chosen(t, catchup.ByMaps)
			if p.Local.Diverged || p.Local.Timeline != 2 || !p.Local.History.Equal(x.leader(t).History) {
				t.Fatalf("histories differ: %+v", p.Local)
			}
			if p.Choice != catchup.ByHashes || !strings.Contains(closed, "one place") {
				t.Errorf("chose %q, since %q: %+v", p.Choice, closed, p.Rungs)
			}
			x.back(t, catchup.ByHashes)
		})
	}
}

// spoiltWAL changes bytes in the member's own WAL, past the fork. To recovery
// that would be the end of it, and the changes from there on would be overlooked.
func (x *branched) spoiltWAL(t *testing.T) {
	const size = pg.DefaultSegmentSize
	p, _ := x.chosen(t, catchup.ByMaps)
	l := p.Local
	last := size.Start(size.SegmentBefore(l.End))
	for name, at := range map[string]pg.LSN{
		"in the segment of its end": last + (l.End-last)/2,
		"early":                     l.Fork + 1<<18,
	} {
		t.Run(name, func(t *testing.T) {
			// Far enough from the end for whole records to follow.
			if at <= l.Fork || at+1<<16 > l.End {
				t.Fatalf("%s is not between the fork %s and the end %s", at, l.Fork, l.End)
			}
			y := x.copied(t)
			y.damage(t, "pg_wal/"+pg.Segment{Timeline: l.Timeline, Number: size.SegmentOf(at)}.Name(size), int64(size.Offset(at)))
			if p, closed := y.chosen(t, catchup.ByMaps); p.Choice != catchup.ByHashes || !strings.Contains(closed, "goes on") {
				t.Errorf("chose %q, since %q", p.Choice, closed)
			}
		})
	}
}
