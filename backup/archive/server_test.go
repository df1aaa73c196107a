package archive_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/archivetest"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
	"github.com/pgtender/pgtender/internal/pgtest"
)

func TestMain(m *testing.M) {
	more := map[string]func(context.Context, *repo.Repo, []string) error{"yield": yields}
	os.Exit(archivetest.Main(m, archivetest.Options{CheckOwner: true, More: more}))
}

const systemID = "SELECT system_identifier FROM pg_control_system()"

// TestAFailoverLeavesNoHole: the leader dies with segments that it had not
// archived; the standby that takes over has them, marked as done.
func TestAFailoverLeavesNoHole(t *testing.T) {
	store := archivetest.Dir(t)
	primary := pgtest.New(t, pgtest.Options{Checksums: true, WALSegSize: 1, Config: map[string]string{"wal_keep_size": "200MB"}})
	run := archivetest.Install(t, store, primary.Value(t, systemID))
	archiving := map[string]string{"archive_mode": "on", "archive_command": run + "push %p"}
	primary.Configure(t, archiving)
	primary.Restart(t)
	standby := pgtest.StandbyOf(t, primary, pgtest.Options{Config: archiving})
	work := primary.Workload(1)
	work.Run(t, 5)
	copied := filepath.Join(pgtest.Dir(t), "copy")
	primary.BaseBackup(t, copied)
	segment := primary.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	primary.WaitFor(t, "SELECT last_archived_wal >= '"+segment+"' FROM pg_stat_archiver", "t")

	primary.Configure(t, map[string]string{"archive_command": "/bin/false"})
	primary.Reload(t)
	primary.WaitFor(t, "SHOW archive_command", "/bin/false")
	work.Run(t, 10)
	primary.Exec(t, "CREATE TABLE survives AS SELECT generate_series(1, 20000) AS i")
	lost := primary.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	primary.Exec(t, "CREATE TABLE survives_too AS SELECT 1 AS i")
	standby.CatchUp(t, primary)
	primary.Crash(t)
	standby.Promote(t)
	standby.Exec(t, "CREATE TABLE afterwards AS SELECT 2 AS i")
	segment = standby.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	standby.WaitFor(t, "SELECT last_archived_wal >= '"+segment+"' FROM pg_stat_archiver", "t")

	r, err := archivetest.Open(t.Context(), store, standby.Value(t, systemID))
	if err != nil {
		t.Fatal(err)
	}
	s, err := archive.ReadStatus(t.Context(), r, archive.LineageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range s.Findings() {
		if f.Severity > 1 {
			t.Errorf("%s", f)
		}
	}
	size := pg.SegmentSize(1 << 20)
	wanted, err := pg.ParseSegment(lost, size)
	if err != nil {
		t.Fatal(err)
	}
	cover, err := archive.RestoreCoverage(t.Context(), r, s.Lineage.History, size, size.Start(wanted.Number))
	if err != nil || cover.Segments < 2 || cover.Hole() {
		t.Errorf("from %s on: %+v, %v", lost, cover, err)
	}
	newest, err := archive.LastCommit(t.Context(), r, size, cover)
	if err != nil || time.Since(newest.Time).Abs() > time.Hour {
		t.Errorf("newest transaction is %+v, %v", newest, err)
	}

	restored := pgtest.Adopt(t, copied, pgtest.Options{Config: map[string]string{
		"archive_mode": "off", "restore_command": run + "get %f %p", "recovery_target_timeline": "latest",
	}})
	restored.Append(t, "recovery.signal", "")
	restored.Start(t)
	restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if diff := cmp.Diff(standby.Dump(t), restored.Dump(t)); diff != "" {
		t.Errorf("the restored server differs (-new leader +restored):\n%s", diff)
	}
	restored.AMCheck(t)
	if got := restored.Value(t, "SELECT timeline_id FROM pg_control_checkpoint()"); got != "3" {
		t.Errorf("the restored server is on timeline %s, want 3: it must not take a number that is used", got)
	}
}

// TestWALOfEveryVersion: what a server wrote goes in and comes out, its block
// maps are there, and recovery targets of every kind are found in it.
func TestWALOfEveryVersion(t *testing.T) {
	pgtest.EachMajor(t, func(t *testing.T, major int) {
		c := pgtest.New(t, pgtest.Options{Major: major, WALSegSize: 1, Config: map[string]string{
			"wal_keep_size": "1GB", "max_prepared_transactions": "5", "track_commit_timestamp": "on",
		}})
		c.Workload(uint64(major)).Run(t, 10)
		c.Exec(t, "CREATE TABLE doomed (i int PRIMARY KEY)", "SELECT pg_create_restore_point('before')")
		session := c.Connect(t)
		var xids []uint32
		xid := func(end string, statements ...string) {
			t.Helper()
			sql := "BEGIN; "
			for _, s := range statements {
				sql += s + "; "
			}
			if err := session.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
			rows, err := session.Query(t.Context(), "SELECT txid_current()")
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.ParseUint(rows[0][0], 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			xids = append(xids, uint32(n))
			if err := session.Exec(t.Context(), end); err != nil {
				t.Fatal(err)
			}
		}
		xid("COMMIT", "INSERT INTO public.doomed VALUES (1)")
		xid("ROLLBACK", "INSERT INTO public.doomed VALUES (2)")
		xid("PREPARE TRANSACTION 'kept'", "SAVEPOINT a", "DROP TABLE public.doomed", "CREATE TABLE public.made (i int)")
		c.Exec(t, "COMMIT PREPARED 'kept'")
		xid("PREPARE TRANSACTION 'gone'", "SAVEPOINT a", "DROP TABLE public.made", "CREATE TABLE public.vain (i int)")
		c.Exec(t, "ROLLBACK PREPARED 'gone'")
		last := c.Value(t, "SELECT extract(epoch FROM max(t.timestamp)) FROM pg_last_committed_xact() t")
		end := c.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
		id, err := pg.ParseSystemID(c.Value(t, systemID))
		if err != nil {
			t.Fatal(err)
		}
		store := mem.New()
		r := repo.Open(store, repo.ClusterID{Scope: "demo", SystemID: id}, repo.Options{})
		size := pg.SegmentSize(1 << 20)
		dir := filepath.Join(c.DataDir, "pg_wal")
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		first := ""
		for _, e := range entries {
			if !pg.IsSegmentName(e.Name()) || e.Name() > end {
				continue
			}
			if first == "" {
				first = e.Name()
			}
			pushedAndFetched(t, r, filepath.Join(dir, e.Name()))
		}
		seg, err := pg.ParseSegment(first, size)
		if err != nil {
			t.Fatal(err)
		}
		cover, err := archive.RestoreCoverage(t.Context(), r, pg.FirstTimeline(), size, size.Start(seg.Number))
		if err != nil || cover.Missing.Name(size) <= end || cover.Segments < 3 {
			t.Fatalf("coverage is %+v, %v; want past %s", cover, err, end)
		}
		found := func(target archive.Target) archive.Reached {
			t.Helper()
			got, err := archive.FindTarget(t.Context(), r, size, cover, cover.From, target)
			if err != nil || !got.Found {
				t.Fatalf("%+v: %+v, %v", target, got, err)
			}
			return got
		}
		at := found(archive.Target{Name: "before"}).Start
		for _, n := range xids {
			next := found(archive.Target{XID: n}).Start
			if next <= at {
				t.Errorf("transaction %d ended at %s, before %s", n, next, at)
			}
			at = next
		}
		newest, err := archive.LastCommit(t.Context(), r, size, cover)
		if err != nil {
			t.Fatal(err)
		}
		// An abort came after the last commit.
		if seconds, err := strconv.ParseFloat(last, 64); err != nil || newest.Time.Sub(time.UnixMicro(int64(seconds*1e6))).Abs() > 5*time.Second {
			t.Errorf("newest transaction ended at %s, the server says %s", newest.Time, last)
		}
		repotest.Check(t, store)
	})
}

// pushedAndFetched archives a segment and compares what comes back.
func pushedAndFetched(t *testing.T, r *repo.Repo, path string) {
	t.Helper()
	result := push(t, r, path)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	in, err := wal.Inspect(content, wal.Expect{})
	if err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	if err := get(t, r, pg.FirstTimeline(), result.Name, dest); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dest)
	if err != nil {
		t.Fatal(err)
	}
	n := in.Info.End - in.Info.Start
	if len(got) != len(content) || !bytes.Equal(got[:n], content[:n]) || len(bytes.Trim(got[n:], "\x00")) != 0 {
		t.Errorf("%s comes back differently", result.Name)
	}
	meta, err := r.ReadWALMeta(t.Context(), result.Key, 0)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := wal.DecodeBlockMap(meta.BlockMap); err != nil || !m.Equal(in.Map) {
		t.Errorf("%s: block map differs: %v", result.Name, err)
	}
	if _, err := os.Stat(dest); errors.Is(err, fs.ErrNotExist) {
		t.Error("nothing was fetched")
	}
}
