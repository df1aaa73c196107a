package catchup_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/soak"
)

// TestARelationIsCutWhileItIsBackedUp makes a backup that has zeros where the
// member has rows: what a relation loses while it is copied is copied as zeros, and
// cut off by replay.
func TestARelationIsCutWhileItIsBackedUp(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{Major: 16, Config: map[string]string{"wal_keep_size": "0", "autovacuum": "off", "wal_log_hints": "on", "checkpoint_timeout": "1h"}})
	l.primary.EnableAMCheck(t)
	l.primary.Exec(t, "CREATE TABLE large AS SELECT i, repeat(md5(i::text), 6) AS pad FROM generate_series(1, 40000) AS i",
		"CREATE TABLE cut AS SELECT i, repeat(md5(i::text), 6) AS pad FROM generate_series(1, 20000) AS i",
		"DELETE FROM cut", "VACUUM (TRUNCATE off) cut", "CHECKPOINT")
	old := pgtest.StandbyOf(t, l.primary, pgtest.Options{Config: map[string]string{"archive_mode": "off"}})
	old.CatchUp(t, l.primary)
	old.Stop(t, pgtest.Fast)
	l.primary.Exec(t, "UPDATE large SET pad = 'new' WHERE i % 50 = 1")
	l.archived(t)
	x := &branched{lab: l, branch: branch{major: 16, stop: "lagging, clean", protect: "hints"}, old: old}
	var once sync.Once
	b := x.takeMeanwhile(t, l.primary, func() *pgtest.Cluster { return l.primary }, func() {
		once.Do(func() { l.primary.Exec(t, "VACUUM (DISABLE_PAGE_SKIPPING) cut") })
	})
	if n := l.primary.Value(t, "SELECT pg_relation_size('cut')"); n != "0" {
		t.Fatalf("the relation still has %s bytes", n)
	}
	l.archived(t)
	t.Logf("backup from %s to %s", b.Start, b.Stop)
	x.back(t, catchup.ByMaps)
	if x.found.later == 0 {
		t.Error("no page of the backup differs from the member's")
	}
}

// TestSoakPositionsOfHints has a checkpoint write pages just when hints are set
// in them, until the primary and its standby have different positions in a page. The
// oracle must tell why.
func TestSoakPositionsOfHints(t *testing.T) {
	soak.Skip(t)
	l := newLab(t, pgtest.Options{Major: 18, Config: map[string]string{"wal_log_hints": "on", "checkpoint_timeout": "1h", "autovacuum": "off", "shared_buffers": "64MB"}})
	s := pgtest.StandbyOf(t, l.primary, pgtest.Options{Config: map[string]string{"archive_mode": "off"}})
	_, control, err := pg.ReadControl(t.Context(), l.primary.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	d := differences{comparison: comparison{after: true, logged: &logged{repo: l.repo, history: pg.FirstTimeline(), layout: control.Layout(), control: control}}}
	for n := 0; d.images == 0; n++ {
		if n == 200 {
			t.Fatal("no page has two positions")
		}
		table := fmt.Sprintf("t%d", n)
		l.primary.Exec(t, "CREATE TABLE "+table+" (i int, pad text)", "INSERT INTO "+table+" SELECT i, repeat(md5(i::text), 6) FROM generate_series(1, 60000) AS i")
		var both sync.WaitGroup
		both.Go(func() { l.primary.Exec(t, "CHECKPOINT") })
		both.Go(func() { l.primary.Exec(t, "SELECT count(*) FROM "+table) })
		both.Wait()
		l.primary.Exec(t, "CHECKPOINT")
		l.archived(t)
		s.CatchUp(t, l.primary)
		s.Exec(t, "CHECKPOINT")
		path := l.primary.Value(t, "SELECT pg_relation_filepath('"+table+"')")
		if err := d.file(t.Context(), path, filepath.Join(l.primary.DataDir, path), filepath.Join(s.DataDir, path)); err != nil {
			t.Fatal(err)
		}
		for _, w := range d.wrong {
			t.Fatal(w)
		}
		l.primary.Exec(t, "DROP TABLE "+table)
	}
	t.Logf("%s", d)
}
