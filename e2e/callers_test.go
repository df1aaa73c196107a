package e2e_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestCallersOtherThanTheServer: Patroni runs archive_command on a stopped former
// leader, with absolute paths and a working directory of its own, for each segment
// that waits (postgresql/rewind.py, _archive_ready_wals), and pg_rewind runs
// restore_command for a segment that the stopped server no longer has.
func TestCallersOtherThanTheServer(t *testing.T) {
	bin := program(t)
	major := 15 // the oldest tools that Patroni calls so, and the one of Debian
	if !slices.Contains(pgtest.Majors(t), major) {
		major = pgtest.Majors(t)[0]
	}
	dir := pgtest.Dir(t)
	repository, config := filepath.Join(dir, "repo"), filepath.Join(dir, "pgtender.yml")
	if err := os.Mkdir(repository, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, repository)
	settings := map[string]string{"archive_mode": "on", "archive_command": "/bin/false", "wal_keep_size": "64MB", "wal_log_hints": "on"}
	old := pgtest.New(t, pgtest.Options{Major: major, WALSegSize: 1, TCP: true, Config: settings})
	text := fmt.Sprintf("repository: file://%s\ncluster: main/%s\nagent: {socket: \"\"}\n", repository, old.Value(t, "SELECT system_identifier FROM pg_control_system()"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	push := bin + " -c " + config + " archive-push %p"
	next := pgtest.StandbyOf(t, old, pgtest.Options{TCP: true, Config: map[string]string{
		"archive_mode": "on", "archive_command": push, "wal_keep_size": "64MB",
	}})
	old.Exec(t, "CREATE TABLE t (i int)", "CHECKPOINT")
	var before []string // between the last common checkpoint and the fork
	for range 3 {
		old.Exec(t, "INSERT INTO t SELECT generate_series(1, 3000)")
		before = append(before, old.Value(t, "SELECT pg_walfile_name(pg_switch_wal())"))
	}
	old.Exec(t, "INSERT INTO t VALUES (1)")
	next.CatchUp(t, old)
	next.Promote(t)
	next.Exec(t, "INSERT INTO t VALUES (2)", "CHECKPOINT", "SELECT pg_switch_wal()")
	next.WaitFor(t, "SELECT last_archived_wal >= '000000020000000000000000' FROM pg_stat_archiver", "t")
	old.Exec(t, "INSERT INTO t SELECT generate_series(1, 3000)", "SELECT pg_switch_wal()", "INSERT INTO t VALUES (3)") // lost by the failover
	old.Stop(t, pgtest.Fast)

	waiting, err := filepath.Glob(filepath.Join(old.DataDir, "pg_wal", "archive_status", "*.ready"))
	if err != nil || len(waiting) < len(before)+1 {
		t.Fatalf("%d segments wait: %v", len(waiting), err)
	}
	for _, ready := range waiting {
		name := strings.TrimSuffix(filepath.Base(ready), ".ready")
		path := filepath.Join(old.DataDir, "pg_wal", name)
		if out, err := pgtest.Command(t.Context(), t, "/bin/sh", "-c", strings.ReplaceAll(push, "%p", path)).CombinedOutput(); err != nil {
			t.Fatalf("push of %s: %v\n%s", name, err, out)
		}
		if pg.IsSegmentName(name) && !holds(t, repository, name) {
			t.Errorf("%s is said to be archived, and is not", name)
		}
	}

	// pg_rewind reads from the last common checkpoint on.
	if err := os.Remove(filepath.Join(old.DataDir, "pg_wal", before[1])); err != nil {
		t.Fatal(err)
	}
	old.Configure(t, map[string]string{"restore_command": bin + " -c " + config + " archive-get %f %p"})
	rewind := pgtest.Command(t.Context(), t, pgtest.Tool(t, major, "pg_rewind"), "-D", old.DataDir, "--source-server", next.ConnString()+" dbname=postgres", "--restore-target-wal")
	if out, err := rewind.CombinedOutput(); err != nil {
		t.Fatalf("pg_rewind: %v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}

// holds reports whether a repository in a directory has an object of a name.
func holds(t *testing.T, repository, name string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(repository, func(_ string, d fs.DirEntry, err error) error {
		found = found || err == nil && d.Name() == name
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
