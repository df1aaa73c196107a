package pgtest_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pgtest"
)

func TestAStandbyEqualsItsPrimaryAfterAWorkload(t *testing.T) {
	pgtest.EachMajor(t, func(t *testing.T, major int) {
		c := pgtest.New(t, pgtest.Options{Major: major, Checksums: true})
		space := pgtest.Dir(t)
		c.Exec(t, "CREATE TABLESPACE other LOCATION '"+space+"'")
		c.EnableAMCheck(t)
		w := c.Workload(uint64(major))
		w.Tablespaces = []string{"other"}
		w.Run(t, 20)
		s := pgtest.StandbyOf(t, c, pgtest.Options{})
		w.Run(t, 20)
		s.CatchUp(t, c)
		if diff := cmp.Diff(c.Dump(t), s.Dump(t)); diff != "" {
			t.Errorf("the standby differs (-primary +standby):\n%s", diff)
		}
		s.AMCheck(t)
		s.Checksums(t)
		c.Crash(t)
		s.Promote(t)
		s.Exec(t, "CREATE TABLE after_promotion AS SELECT 1 AS i")
		s.AMCheck(t)
		s.Checksums(t)
	})
}

func TestClustersFromOneTemplateAreDifferentClusters(t *testing.T) {
	const id = "SELECT system_identifier FROM pg_control_system()"
	a := pgtest.New(t, pgtest.Options{WALSegSize: 1})
	b := pgtest.New(t, pgtest.Options{WALSegSize: 1})
	if a.Value(t, id) == b.Value(t, id) {
		t.Error("two clusters have one system identifier")
	}
	if got := a.Value(t, "SHOW wal_segment_size"); got != "1MB" {
		t.Errorf("the segment size is %s", got)
	}
	if err := pgtest.Adopt(t, a.DataDir, pgtest.Options{}).TryStart(t); err == nil {
		t.Error("a server started on a directory in use")
	}
}

func TestACrashedServerRecoversWhatWasCommitted(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Checksums: true})
	c.PgbenchInit(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	load := c.Pgbench(ctx, t, 2)
	c.WaitFor(t, "SELECT count(*) > 20 FROM pgbench_history", "t")
	c.Crash(t)
	if err := load.Wait(); err == nil {
		t.Error("pgbench did not notice that its server was killed")
	}
	cancel()
	if err := c.TryStart(t); err != nil {
		t.Fatal(err)
	}
	if got := c.Value(t, "SELECT count(*) > 20 FROM pgbench_history"); got != "t" {
		t.Error("committed rows are gone")
	}
	ctx, cancel = context.WithCancel(t.Context())
	load = c.Pgbench(ctx, t, 2)
	cancel()
	if err := load.Wait(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(c.Log(), "automatic recovery in progress") {
		t.Error("the server did not have to recover: it was not killed")
	}
}

// An oracle that cannot fail proves nothing.
func TestTheOraclesSeeDamage(t *testing.T) {
	const table = "CREATE TABLE t AS SELECT i, md5(i::text) AS v FROM generate_series(1, 5000) i"
	pgtest.EachMajor(t, func(t *testing.T, major int) {
		c := pgtest.New(t, pgtest.Options{Major: major, Checksums: true})
		c.Exec(t, table, "CREATE INDEX ON t (v)")
		before := c.Dump(t)
		heap := c.Value(t, "SELECT pg_relation_filepath('t')")
		index := c.Value(t, "SELECT pg_relation_filepath('t_v_idx')")
		c.Stop(t, pgtest.Fast)

		// A row vanishes from an index that stays well-formed.
		c.Start(t)
		c.Exec(t, "SET allow_system_table_mods = on; UPDATE pg_index SET indisready = false, indisvalid = false WHERE indexrelid = 't_v_idx'::regclass")
		c.Exec(t, "INSERT INTO t VALUES (0, 'zero')")
		c.Exec(t, "UPDATE pg_index SET indisready = true, indisvalid = true WHERE indexrelid = 't_v_idx'::regclass")
		if !fails(t, c.AMCheck) {
			t.Error("AMCheck does not see a row that is missing in an index")
		}
		if c.Dump(t) == before {
			t.Error("Dump does not see a new row")
		}
		if fails(t, c.Checksums) {
			t.Error("Checksums sees damage where there is none")
		}

		c.Stop(t, pgtest.Fast)
		c.CorruptPage(t, heap, 1)
		c.CorruptPage(t, index, 1)
		if major <= 16 && !fails(t, c.Checksums) {
			t.Error("Checksums does not see a damaged page of a stopped server")
		}
		c.Start(t)
		if !fails(t, c.Checksums) {
			t.Error("Checksums does not see a damaged page of a running server")
		}
		if !fails(t, c.AMCheck) {
			t.Error("AMCheck does not see a damaged page")
		}
	})
}

func TestWaldumpReadsTheClustersWAL(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	if !c.HasWaldump() {
		t.Fatalf("PostgreSQL %d has no pg_waldump", c.Major)
	}
	file := c.Value(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
	c.Exec(t, "CREATE TABLE t (i int)", "INSERT INTO t VALUES (1)")
	c.Stop(t, pgtest.Fast)
	if out := c.Waldump(t, filepath.Base(file)); !strings.Contains(out, "CHECKPOINT_SHUTDOWN") {
		t.Errorf("no shutdown checkpoint in:\n%s", out)
	}
}

// fails reports whether a check ends its test as failed.
func fails(t *testing.T, check func(testing.TB)) bool {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		check(r)
	}()
	<-done
	return r.failed
}
