package catchup_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

func TestARestoredServerEqualsItsSource(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, major int) {
		l := newLab(t, pgtest.Options{Major: major, Checksums: true})
		l.primary.EnableAMCheck(t)
		work := l.primary.Workload(uint64(major))
		work.Run(t, 10)
		l.backup(t, l.primary)
		work.Run(t, 10)
		want := l.primary.Dump(t)
		l.archived(t)
		dir, r := l.restore(t, catchup.GatherOptions{})
		if r.Files == 0 || r.Bytes == 0 || r.Resumed != 0 || r.Rung != catchup.FullRestore {
			t.Errorf("result %+v", r)
		}
		if _, err := os.Stat(filepath.Join(dir, ".pgtender")); !os.IsNotExist(err) {
			t.Errorf("the work directory is there still: %v", err)
		}
		c := l.start(t, dir)
		if diff := cmp.Diff(want, c.Dump(t)); diff != "" {
			t.Error(diff)
		}
		c.AMCheck(t)
		c.Exec(t, "CHECKPOINT")
		c.Checksums(t)
	})
}

// TestRecoveryStopsAtEachKindOfTarget writes rows with marks between them and
// asks for each mark.
func TestRecoveryStopsAtEachKindOfTarget(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, major int) {
		l := newLab(t, pgtest.Options{Major: major})
		l.primary.Exec(t, "CREATE TABLE t (i int)")
		// A target setting in postgresql.conf must not get in the way.
		l.primary.Configure(t, map[string]string{"recovery_target_name": "stale"})
		l.backup(t, l.primary)
		stop := l.primary.Value(t, "SELECT pg_current_wal_lsn()")

		l.primary.Exec(t, "INSERT INTO t VALUES (1)")
		xid := l.primary.Value(t, "WITH new AS (INSERT INTO t VALUES (2) RETURNING i) SELECT txid_current() FROM new")
		l.primary.Exec(t, "INSERT INTO t VALUES (3)")
		lsn := l.primary.Value(t, "SELECT pg_current_wal_lsn()")
		l.primary.Exec(t, "INSERT INTO t VALUES (4)")
		l.primary.Exec(t, "SELECT pg_create_restore_point('here')")
		l.primary.Exec(t, "INSERT INTO t VALUES (5)")
		at := l.primary.Value(t, "SELECT clock_timestamp()")
		l.primary.Exec(t, "INSERT INTO t VALUES (6)")
		l.archived(t)

		for name, test := range map[string]struct {
			target catchup.Target
			want   string
		}{
			"xid":                {catchup.Target{Kind: catchup.AtXID, XID: uint32(number(t, xid))}, "1,2"},
			"xid, exclusive":     {catchup.Target{Kind: catchup.AtXID, XID: uint32(number(t, xid)), Exclusive: true}, "1"},
			"lsn, exclusive":     {catchup.Target{Kind: catchup.AtLSN, LSN: position(t, lsn), Exclusive: true}, "1,2,3"},
			"name":               {catchup.Target{Kind: catchup.AtName, Name: "here"}, "1,2,3,4"},
			"time":               {catchup.Target{Kind: catchup.AtTime, Time: moment(t, at)}, "1,2,3,4,5"},
			"immediate":          {catchup.Target{Kind: catchup.Immediate}, ""},
			"end of the archive": {catchup.Target{}, "1,2,3,4,5,6"},
		} {
			t.Run(name, func(t *testing.T) {
				test.target.Action = "promote"
				dir, _ := l.restore(t, catchup.GatherOptions{Target: test.target})
				c := l.start(t, dir)
				if got := c.Value(t, "SELECT coalesce(string_agg(i::text, ',' ORDER BY i), '') FROM t"); got != test.want {
					t.Errorf("holds %s, want %s", got, test.want)
				}
			})
		}
		for name, target := range map[string]catchup.Target{
			"a transaction that never was": {Kind: catchup.AtXID, XID: uint32(number(t, xid)) + 1000},
			"an unknown restore point":     {Kind: catchup.AtName, Name: "nowhere"},
			"a time to come":               {Kind: catchup.AtTime, Time: moment(t, at).Add(time.Hour)},
			"an LSN to come":               {Kind: catchup.AtLSN, LSN: position(t, lsn) + 1<<30},
			"an LSN behind the last switch": {Kind: catchup.AtLSN, LSN: pg.DefaultSegmentSize.Start(
				pg.DefaultSegmentSize.SegmentOf(position(t, lsn))+1) - 8},
			"an LSN inside the backup": {Kind: catchup.AtLSN, LSN: position(t, stop) - 1<<20},
		} {
			t.Run("refused: "+name, func(t *testing.T) {
				f := l.gather(t, catchup.GatherOptions{Purpose: catchup.Restore, Target: target, Dir: filepath.Join(pgtest.Dir(t), "data")})
				if p, err := catchup.Decide(f); err == nil {
					t.Errorf("planned %+v", p)
				}
			})
		}
	})
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func position(t *testing.T, s string) pg.LSN {
	t.Helper()
	l, err := pg.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func moment(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02 15:04:05.999999-07", s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestATimelineIsFollowedAsAsked(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	l.primary.Exec(t, "CREATE TABLE t AS SELECT 1 AS i")
	s := pgtest.StandbyOf(t, l.primary, pgtest.Options{Config: map[string]string{"archive_mode": "on", "archive_command": l.program + "push %p"}})
	l.backup(t, l.primary)
	l.archived(t)
	s.CatchUp(t, l.primary)
	s.Promote(t)
	// Both go on, on two branches; the old one is older than the other.
	l.primary.Exec(t, "INSERT INTO t VALUES (10)")
	l.archived(t)
	s.Exec(t, "INSERT INTO t VALUES (20)")
	(&lab{primary: s}).archived(t)
	for name, test := range map[string]struct {
		target catchup.Target
		want   string
	}{
		"the surviving one":    {catchup.Target{}, "1,20"},
		"by number":            {catchup.Target{Timeline: 1}, "1,10"},
		"the backup's own one": {catchup.Target{Current: true}, "1,10"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := l.restore(t, catchup.GatherOptions{Target: test.target})
			c := l.start(t, dir)
			if got := c.Value(t, "SELECT string_agg(i::text, ',' ORDER BY i) FROM t"); got != test.want {
				t.Errorf("holds %s, want %s", got, test.want)
			}
		})
	}
}

func TestTablespacesAndWALGoWhereTheyAreMapped(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	space := pgtest.Dir(t)
	l.primary.Exec(t, fmt.Sprintf("CREATE TABLESPACE away LOCATION '%s'", space),
		"CREATE TABLE t TABLESPACE away AS SELECT generate_series(1, 50000) AS i")
	b := l.backup(t, l.primary)
	l.archived(t)
	other, wal := filepath.Join(pgtest.Dir(t), "deep", "space"), filepath.Join(pgtest.Dir(t), "wal")
	version := pg.TablespaceVersionDir(b.Major(), b.CatalogVersion)

	_, err := catchup.Decide(l.gather(t, catchup.GatherOptions{Purpose: catchup.Restore, Dir: filepath.Join(pgtest.Dir(t), "data")}))
	if err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("the source's own tablespace may be overwritten: %v", err)
	}
	dir, _ := l.restore(t, catchup.GatherOptions{Tablespaces: map[string]string{space: other}, WALDir: wal})
	for link, want := range map[string]string{fmt.Sprintf("pg_tblspc/%d", b.Tablespaces[0].OID): other, "pg_wal": wal} {
		if got, err := os.Readlink(filepath.Join(dir, link)); err != nil || got != want {
			t.Errorf("%s leads to %s, not %s (%v)", link, got, want, err)
		}
	}
	for _, place := range []string{wal, filepath.Join(other, version)} {
		if _, err := os.Stat(filepath.Join(place, ".pgtender")); !os.IsNotExist(err) {
			t.Errorf("the marker is there still: %v", err)
		}
	}
	pgtest.Own(t, filepath.Dir(filepath.Dir(other)))
	c := l.start(t, dir)
	if got := c.Value(t, "SELECT sum(i) FROM t"); got != "1250025000" {
		t.Errorf("sum is %s", got)
	}
	if got, err := filepath.EvalSymlinks(filepath.Join(c.DataDir, c.Value(t, "SELECT pg_relation_filepath('t')"))); err != nil || !strings.HasPrefix(got, other) {
		t.Errorf("the table lies at %s (%v)", got, err)
	}
}

// TestModesDoNotDependOnTheUmask: Patroni runs its children under 077.
func TestModesDoNotDependOnTheUmask(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	l.primary.Stop(t, pgtest.Fast)
	for _, dir := range []string{"base", "global", "base/1", "pg_xact"} {
		if err := os.Chmod(filepath.Join(l.primary.DataDir, dir), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(l.primary.DataDir, 0o750); err != nil {
		t.Fatal(err)
	}
	l.primary.Start(t)
	l.backup(t, l.primary)
	dir := filepath.Join(pgtest.Dir(t), "data")
	l.child(t, "077", child{Dir: dir, Purpose: catchup.Restore, Command: "x"})
	for name, want := range map[string]os.FileMode{"": 0o750, "base/1": 0o750, "pg_wal": 0o700, "PG_VERSION": 0o600, "global/pg_control": 0o600, "base/1/1259": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q has mode %v, want %v (%v)", name, info.Mode(), want, err)
		}
	}
}
