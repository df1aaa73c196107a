package drill_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive/archivetest"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/catchup/drill"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/servertest"
)

func TestMain(m *testing.M) { os.Exit(archivetest.Main(m, archivetest.Options{})) }

// hostile gives a cluster settings that its own server has not read yet, and with
// which a copy would not start, or would reach outside. It gives the file that a
// command among them makes.
func hostile(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	reached := filepath.Join(pgtest.Dir(t), "reached")
	for name, value := range map[string]string{
		"shared_preload_libraries": "no_such_library, another", "listen_addresses": "192.0.2.1", "synchronous_standby_names": "nobody",
		"ssl": "on", "ssl_cert_file": "/nowhere/cert", "primary_conninfo": "host=192.0.2.1", "external_pid_file": reached,
		"archive_cleanup_command": "touch " + reached, "recovery_end_command": "touch " + reached,
	} {
		quoted := "'" + value + "'"
		if name == "shared_preload_libraries" {
			quoted = value
		}
		c.Exec(t, "ALTER SYSTEM SET "+name+" = "+quoted)
	}
	c.Exec(t, "CREATE DATABASE closed")
	c.Exec(t, "ALTER DATABASE closed SET session_preload_libraries = 'no_such_library'")
	c.Exec(t, "ALTER DATABASE closed SET zero_damaged_pages = on")
	auto, err := os.OpenFile(filepath.Join(c.DataDir, "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = auto.WriteString("include '/nowhere/more.conf'\n")
		err = errors.Join(err, auto.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return reached
}

func TestABackupIsTried(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Major: pgtest.DefaultMajor, Checksums: true})
	store := archivetest.Dir(t)
	system := c.Value(t, "SELECT system_identifier FROM pg_control_system()")
	program := archivetest.Install(t, store, system)
	r, err := archivetest.Open(t.Context(), store, system)
	if err != nil {
		t.Fatal(err)
	}
	c.Configure(t, map[string]string{"archive_mode": "on", "archive_command": program + "push %p"})
	c.Restart(t)
	space := pgtest.Dir(t)
	c.Exec(t, "CREATE TABLE numbers AS SELECT generate_series(1, 5000) AS n; CREATE INDEX ON numbers (n)")
	c.Exec(t, fmt.Sprintf("CREATE TABLESPACE other LOCATION '%s'", space))
	c.Exec(t, "CREATE TABLE elsewhere (n int) TABLESPACE other; INSERT INTO elsewhere VALUES (42)")
	reached := hostile(t, c)
	taken, err := backup.Take(t.Context(), backup.Options{
		Repo: r, DataDir: c.DataDir, Source: func(ctx context.Context) (*server.Conn, error) { return server.Connect(ctx, c.Options()) },
		Member: "m1", Host: "h1", ToolVersion: "test", Fast: true, ArchiveTimeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	scratch := pgtest.Dir(t)
	text := func(s string) *string { return &s }
	run := func(checks ...drill.Check) drill.Result {
		t.Helper()
		result, err := drill.Run(t.Context(), drill.Options{
			Repo: r, ScratchDir: scratch, BinDir: pgtest.BinDir(t, c.Major), Role: c.Options().User, Checks: checks, By: "test",
			RestoreCommand: func(p catchup.Plan) (string, error) { return program + "get %f %p " + p.Timeline.String(), nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
			t.Errorf("the scratch directory holds %v (%v)", left, err)
		}
		return result
	}

	got := run(drill.Check{SQL: "SELECT count(*), sum(n) FROM numbers", Expect: text("5000|12502500\n")}, drill.Check{SQL: "SELECT n FROM elsewhere", Expect: text("42")}, drill.Check{SQL: "SELECT 1"},
		drill.Check{Database: "closed", SQL: "SELECT current_setting('archive_mode'), current_setting('listen_addresses'), current_setting('shared_preload_libraries'), " +
			"current_setting('session_preload_libraries'), current_setting('zero_damaged_pages'), current_setting('max_logical_replication_workers')", Expect: text("off||||off|0")})
	if !got.OK || got.Backup != taken.Backup.ID || got.Consistent < taken.Backup.Stop.LSN || len(got.Checks) != 6 {
		t.Errorf("%+v", got)
	}
	if !slices.Contains(got.Skipped, "shared_preload_libraries: not loaded: no_such_library, another") {
		t.Errorf("skipped: %q", got.Skipped)
	}
	if _, err := os.Lstat(reached); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the server ran a command of the cluster's: %v", err)
	}
	for _, check := range got.Checks {
		if !check.OK || check.Got == "0 bytes" && check.SQL == "pg_dumpall" {
			t.Errorf("%+v", check)
		}
	}
	got = run(drill.Check{SQL: "SELECT count(*) FROM numbers", Expect: text("4999")}, drill.Check{SQL: "SELECT * FROM nothing"}, drill.Check{Database: "nowhere", SQL: "SELECT 1"})
	if got.OK || len(got.Faults) != 3 || !strings.Contains(got.Faults[0], `the answer is "5000", not "4999"`) {
		t.Errorf("%+v", got)
	}
	marks, err := backup.ReadMarks(t.Context(), r)
	if m := marks[taken.Backup.ID].Verified[backup.DepthRestore]; err != nil || m.OK || !strings.HasPrefix(m.Faults, "3 faults") || m.By != "test" {
		t.Errorf("kept: %+v (%v)", m, err)
	}

	// Too little room is a fault of the drill, not of the backup.
	small := pgtest.Dir(t)
	servertest.MountDisk(t, small, 16)
	result, err := drill.Run(t.Context(), drill.Options{
		Repo: r, ScratchDir: small, BinDir: pgtest.BinDir(t, c.Major), Role: c.Options().User, By: "test",
		RestoreCommand: func(p catchup.Plan) (string, error) { return program + "get %f %p " + p.Timeline.String(), nil },
	})
	if err == nil || !strings.Contains(err.Error(), "bytes free") || len(result.Faults) > 0 {
		t.Errorf("in 16 MiB: %+v, %v", result, err)
	}

	// A damaged pack is a fault of the backup, not of the drill.
	packs, err := filepath.Glob(filepath.Join(store, "demo", system, "pack", taken.Backup.ID.String(), "*"))
	if err != nil || len(packs) == 0 {
		t.Fatal(err, packs)
	}
	content, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/3] ^= 1
	if err := os.WriteFile(packs[0], content, 0o600); err != nil {
		t.Fatal(err)
	}
	if got = run(); got.OK || len(got.Faults) != 1 || !strings.Contains(got.Faults[0], "damaged") {
		t.Errorf("%+v", got)
	}
}
