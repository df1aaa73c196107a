package pg_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

const major = pgtest.DefaultMajor

// run runs one of PostgreSQL's programs and gives what it printed.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := pgtest.Command(ctx, t, pgtest.Tool(t, major, name), args...).CombinedOutput()
	return string(out), err
}

func mustRun(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := run(t, name, args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

func control(t *testing.T, dataDir string) pg.Control {
	t.Helper()
	_, c, err := pg.ReadControl(t.Context(), dataDir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func entries(t *testing.T, dataDir string) []pg.Entry {
	t.Helper()
	d, err := pg.OpenDataDir(dataDir, control(t, dataDir).Layout())
	if err != nil {
		t.Fatal(err)
	}
	var all []pg.Entry
	for e, err := range d.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func TestEveryMajorsControlFileIsRead(t *testing.T) {
	pgtest.EachMajor(t, func(t *testing.T, major int) {
		c := pgtest.New(t, pgtest.Options{Major: major, Checksums: true})
		c.Exec(t, "CHECKPOINT")
		got := control(t, c.DataDir)
		if got.Major() != major || got.State != pg.StateProduction || !got.Checksums() {
			t.Errorf("major %d, %s, checksums %v", got.Major(), got.State, got.Checksums())
		}
		sql := c.Query(t, `SELECT system_identifier, checkpoint_lsn, redo_lsn, timeline_id, next_oid
			FROM pg_control_system(), pg_control_checkpoint()`)[0]
		k := got.CheckpointCopy
		read := []string{got.SystemID.String(), got.Checkpoint.String(), k.Redo.String(), k.Timeline.String(), fmt.Sprint(k.NextOID)}
		if diff := cmp.Diff(sql, read); diff != "" {
			t.Error(diff)
		}
	})
}

func TestControlAgreesWithControldata(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Checksums: true, WALSegSize: 4})
	c.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 1000)", "CHECKPOINT")
	c.Stop(t, pgtest.Fast)
	compareControldata(t, c.DataDir)

	// And of a file that was edited, which the program warns of if its CRC is off.
	name := filepath.Join(c.DataDir, pg.ControlPath)
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	raw, err = pg.EditControl(raw, func(c *pg.Control) {
		c.State, c.MinRecovery, c.MinRecoveryTLI = pg.StateArchiveRecovery, 0x5_0000_0028, 3
		c.BackupStart, c.BackupEnd, c.BackupEndRequired = 0x28, 0x1_0000_0000, true
		c.WALLogHints, c.TrackCommitTimestamp, c.MaxPreparedXacts = true, true, 7
		c.CheckpointCopy.NextXID = 3<<32 | 12345
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	compareControldata(t, c.DataDir)
}

func compareControldata(t *testing.T, dataDir string) {
	t.Helper()
	c := control(t, dataDir)
	k := c.CheckpointCopy
	onOff := map[bool]string{true: "on", false: "off"}
	yesNo := map[bool]string{true: "yes", false: "no"}
	mine := map[string]any{
		"pg_control version number": c.ControlVersion, "Catalog version number": c.CatalogVersion,
		"Database system identifier": c.SystemID, "Database cluster state": c.State,
		"pg_control last modified":   c.Time.Format("Mon Jan _2 15:04:05 2006"),
		"Latest checkpoint location": c.Checkpoint, "Latest checkpoint's REDO location": k.Redo,
		"Latest checkpoint's REDO WAL file": pg.Segment{Timeline: k.Timeline, Number: c.SegmentSize.SegmentOf(k.Redo)}.Name(c.SegmentSize),
		"Latest checkpoint's TimeLineID":    k.Timeline, "Latest checkpoint's PrevTimeLineID": k.PrevTimeline,
		"Latest checkpoint's full_page_writes": onOff[k.FullPageWrites],
		"Latest checkpoint's NextXID":          fmt.Sprintf("%d:%d", k.NextXID>>32, uint32(k.NextXID)),
		"Latest checkpoint's NextOID":          k.NextOID, "Latest checkpoint's NextMultiXactId": k.NextMulti,
		"Latest checkpoint's NextMultiOffset": k.NextMultiOffset, "Latest checkpoint's oldestXID": k.OldestXID,
		"Latest checkpoint's oldestXID's DB": k.OldestXIDDB, "Latest checkpoint's oldestActiveXID": k.OldestActiveXID,
		"Latest checkpoint's oldestMultiXid": k.OldestMulti, "Latest checkpoint's oldestMulti's DB": k.OldestMultiDB,
		"Latest checkpoint's oldestCommitTsXid": k.OldestCommitTS, "Latest checkpoint's newestCommitTsXid": k.NewestCommitTS,
		"Time of latest checkpoint":            k.Time.Format("Mon Jan _2 15:04:05 2006"),
		"Fake LSN counter for unlogged rels":   c.UnloggedLSN,
		"Minimum recovery ending location":     c.MinRecovery,
		"Min recovery ending loc's timeline":   c.MinRecoveryTLI,
		"Backup start location":                c.BackupStart,
		"Backup end location":                  c.BackupEnd,
		"End-of-backup record required":        yesNo[c.BackupEndRequired],
		"wal_level setting":                    c.WALLevel,
		"wal_log_hints setting":                onOff[c.WALLogHints],
		"max_connections setting":              c.MaxConnections,
		"max_worker_processes setting":         c.MaxWorkerProcesses,
		"max_wal_senders setting":              c.MaxWALSenders,
		"max_prepared_xacts setting":           c.MaxPreparedXacts,
		"max_locks_per_xact setting":           c.MaxLocksPerXact,
		"track_commit_timestamp setting":       onOff[c.TrackCommitTimestamp],
		"Database block size":                  c.BlockSize,
		"Blocks per segment of large relation": c.RelSegBlocks,
		"WAL block size":                       c.WALBlockSize,
		"Bytes per WAL segment":                uint32(c.SegmentSize),
		"Data page checksum version":           c.DataChecksumVersion,
	}
	out := mustRun(t, "pg_controldata", dataDir)
	if strings.Contains(out, "WARNING") {
		t.Error(out)
	}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if want, known := mine[key]; known {
			delete(mine, key)
			if got := strings.TrimSpace(value); got != fmt.Sprint(want) {
				t.Errorf("%s: pg_controldata says %q, we say %q", key, got, fmt.Sprint(want))
			}
		}
	}
	if len(mine) > 0 {
		t.Errorf("not in pg_controldata's output: %v", mine)
	}
}

func TestChecksumsAgreeWithThePrograms(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Checksums: true})
	c.Exec(t, "CREATE TABLE t AS SELECT i, repeat('x', i % 500) AS pad FROM generate_series(1, 20000) i",
		"CREATE INDEX ON t (i)", "CREATE UNLOGGED TABLE u AS SELECT * FROM t", "VACUUM t", "CREATE DATABASE other")
	path := c.Value(t, "SELECT pg_relation_filepath('t')")
	c.Stop(t, pgtest.Fast)

	bad, files, blocks := verifyAll(t, c.DataDir)
	out := mustRun(t, "pg_checksums", "--check", "-D", c.DataDir)
	if len(bad) != 0 {
		t.Errorf("a fresh cluster has bad pages: %v", bad)
	}
	for label, n := range map[string]int{"Files scanned": files, "Blocks scanned": blocks} {
		if !regexp.MustCompile(label + `: +` + strconv.Itoa(n) + `\n`).MatchString(out) {
			t.Errorf("we read %s %d, pg_checksums says\n%s", label, n, out)
		}
	}
	for _, at := range []int64{3*8192 + 5000, 77*8192 + 4} {
		f, err := os.OpenFile(filepath.Join(c.DataDir, path), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 0x10
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	out, err := run(t, "pg_checksums", "--check", "-D", c.DataDir)
	if err == nil {
		t.Fatalf("pg_checksums is content with flipped bits:\n%s", out)
	}
	var theirs []string
	complaint := regexp.MustCompile(`in file "` + regexp.QuoteMeta(c.DataDir) + `/([^"]+)", block (\d+): calculated checksum ([0-9A-F]+) but block contains ([0-9A-F]+)`)
	for _, m := range complaint.FindAllStringSubmatch(out, -1) {
		theirs = append(theirs, strings.Join(m[1:], " "))
	}
	bad, _, _ = verifyAll(t, c.DataDir)
	if diff := cmp.Diff(theirs, bad); diff != "" || len(bad) != 2 {
		t.Errorf("%d bad pages: %s", len(bad), diff)
	}
}

// verifyAll checks each relation file; it gives the bad pages as path, block,
// computed and stored checksum.
func verifyAll(t *testing.T, dataDir string) (bad []string, files, blocks int) {
	t.Helper()
	c := control(t, dataDir)
	for _, e := range entries(t, dataDir) {
		if e.Kind != pg.KindRelation && e.Kind != pg.KindUnlogged {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dataDir, e.Path))
		if err != nil {
			t.Fatal(err)
		}
		files++
		blocks += len(content) / int(c.BlockSize)
		for _, b := range c.PageVerifier().Verify(content, e.Rel.FirstBlock(c.RelSegBlocks)) {
			bad = append(bad, fmt.Sprintf("%s %d %X %X", e.Path, b.Block, b.Want, b.Stored))
		}
	}
	return bad, files, blocks
}

func TestWhatIsCopiedAgreesWithBaseBackup(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Config: map[string]string{"autovacuum": "off", "temp_tablespaces": "space"}})
	space := pgtest.Dir(t)
	c.Exec(t, fmt.Sprintf("CREATE TABLESPACE space LOCATION '%s'", space))
	c.Exec(t, "CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 10000) AS i",
		"CREATE UNLOGGED TABLE u (i int, s text)", "CREATE INDEX ON u (i)", "INSERT INTO u SELECT i, 'x' FROM generate_series(1, 9999) i",
		"CREATE UNLOGGED TABLE v TABLESPACE space AS SELECT * FROM u", "VACUUM t, u, v",
		"SELECT pg_create_physical_replication_slot('s', true)")
	session := c.Connect(t)
	if err := session.Exec(t.Context(), "CREATE TEMP TABLE a AS SELECT generate_series(1, 1000); CREATE TEMP TABLE b (i int) TABLESPACE pg_default"); err != nil {
		t.Fatal(err)
	}
	db := "base/" + c.Value(t, "SELECT oid FROM pg_database WHERE datname = 'postgres'")
	tree(t, c.DataDir, "junk", "backup_label.old", "tablespace_map.old", "pgsql_tmpfile", "current_logfiles.tmp", "current_logfiles", ".DS_Store",
		"postgresql.auto.conf.tmp", "backup_manifest", "sub/pg_notify/deep/", "sub/pg_notify/x", "sub/backup_label", "sub/backup_label.d/", "sub/empty/",
		"sub/standby.signal", "pg_stat_tmp/x", "pg_snapshots/x", "pg_wal/junk", "log -> /tmp", "pg_tblspc/stray",
		db+"/junk", db+"/t9_999", db+"/t9_999_fsm.1", db+"/t9_x", db+"/pgsql_tmp/", db+"/pg_internal.init.12", db+"/16385_vm.x",
		db+"/77777", db+"/77777_init", db+"/77777.1", db+"/77777_vm", "base/pgsql_tmp/")
	tree(t, space, "PG_99_1/", "PG_99_1/x", "stray")
	pgtest.Own(t, c.DataDir)
	pgtest.Own(t, space)

	out, moved := filepath.Join(pgtest.Dir(t), "out"), filepath.Join(pgtest.Dir(t), "space")
	mustRun(t, "pg_basebackup", "-h", c.Host, "-p", strconv.Itoa(c.Port), "-U", "postgres", "-D", out, "-T", space+"="+moved,
		"-X", "none", "-c", "fast", "--no-manifest", "--no-sync")
	var theirs []string
	for prefix, dir := range map[string]string{"": out, "pg_tblspc/" + spaceOID(t, c): moved} {
		err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(dir, name)
			if err == nil && e.Type() != fs.ModeSymlink && rel != "backup_label" && rel != "tablespace_map" {
				theirs = append(theirs, filepath.Join(prefix, rel))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var ours []string
	kinds := map[pg.Kind]int{}
	for _, e := range entries(t, c.DataDir) {
		kinds[e.Kind]++
		if e.Copied() {
			ours = append(ours, e.Path)
		}
	}
	slices.Sort(theirs)
	slices.Sort(ours)
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Errorf("pg_basebackup's files (-) and ours (+):\n%s", diff)
	}
	for _, k := range []pg.Kind{pg.KindRelation, pg.KindTemp, pg.KindUnlogged, pg.KindExcluded, pg.KindForeign, pg.KindSymlink, pg.KindControl} {
		if kinds[k] == 0 {
			t.Errorf("the case has no %s", k)
		}
	}
	label, err := os.ReadFile(filepath.Join(out, "backup_label"))
	if err != nil {
		t.Fatal(err)
	}
	if l, err := pg.ParseBackupLabel(label); err != nil || l.FromStandby() {
		t.Errorf("%+v, %v", l, err)
	}
}

func spaceOID(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	return c.Value(t, "SELECT oid FROM pg_tablespace WHERE spcname = 'space'")
}

func TestRunningServersAreSeen(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	check := func(when string, want bool, wantPID int) {
		t.Helper()
		got, pid, err := pg.Running(c.DataDir)
		if got != want || err != nil || wantPID != 0 && pid != wantPID {
			t.Errorf("%s: %v, pid %d, %v; want %v, pid %d", when, got, pid, err, want, wantPID)
		}
	}
	content, err := os.ReadFile(filepath.Join(c.DataDir, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := pg.ParsePostmaster(content); err != nil || p.PID != c.PID() || p.DataDir != c.DataDir || p.Port != c.Port || p.SocketDir != c.Host || p.Status != "ready" || time.Since(p.Start) > time.Hour {
		t.Errorf("postmaster.pid: %+v, %v", p, err)
	}
	check("while it runs", true, c.PID())
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(c.DataDir, link); err != nil {
		t.Fatal(err)
	}
	if got, _, err := pg.Running(link); !got || err != nil {
		t.Errorf("by another name: %v, %v", got, err)
	}

	backend, err := strconv.Atoi(query(t, c, "SELECT pg_backend_pid()"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(backend, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(backend, syscall.SIGKILL)
	if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.WaitExit(t)
	waitFor(t, "only the backend is left", func() bool {
		got, pid, err := pg.Running(c.DataDir)
		return got && pid == backend && err == nil
	})
	if err := syscall.Kill(backend, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "nothing is left", func() bool {
		got, _, err := pg.Running(c.DataDir)
		return !got && err == nil
	})
	if _, err := os.Stat(filepath.Join(c.DataDir, "postmaster.pid")); err != nil {
		t.Errorf("the case is to have a stale file: %v", err)
	}
}

// query asks in a session that stays open until the test ends.
func query(t *testing.T, c *pgtest.Cluster, sql string) string {
	t.Helper()
	rows, err := c.Connect(t).Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	return rows[0][0]
}

func waitFor(t *testing.T, what string, state func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !state(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not reached: %s", what)
		}
	}
}

func TestStalePidFilesAreNotServers(t *testing.T) {
	dir := t.TempDir()
	elsewhere := exec.Command("sleep", "60")
	elsewhere.Dir = t.TempDir()
	if err := elsewhere.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		elsewhere.Process.Kill()
		elsewhere.Wait()
	}()
	for name, tt := range map[string]struct {
		pid  int
		want bool
	}{
		"of a process elsewhere": {elsewhere.Process.Pid, false},
		"of this very process":   {os.Getpid(), false},
		"of nobody":              {1<<30 - 1, false},
	} {
		if err := os.WriteFile(filepath.Join(dir, "postmaster.pid"), fmt.Appendf(nil, "%d\n%s\n1767322800\n", tt.pid, dir), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, pid, err := pg.Running(dir); got != tt.want || err != nil {
			t.Errorf("%s: %v, pid %d, %v", name, got, pid, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "postmaster.pid"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _, err := pg.Running(dir); got || err == nil {
		t.Errorf("an empty file: %v, %v", got, err)
	}
	if got, _, err := pg.Running(filepath.Join(dir, "gone")); got || err != nil {
		t.Errorf("no directory: %v, %v", got, err)
	}
}

func TestAServerReadsSettingsAsWritten(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	c.Stop(t, pgtest.Fast)
	value := `cp "it's" \n %p 'a''b' # no comment` + "\ttab"
	name := filepath.Join(c.DataDir, "postgresql.auto.conf")
	old := "restore_command = 'old'\nRECOVERY_TARGET_NAME = 'gone'\nrecovery_target_xid '7'\n"
	text, err := pg.EditConf(old, pg.RecoveryTargets(), []pg.Setting{{"restore_command", value}, {"recovery_target", "immediate"}, {"pgtender.note", "new\nline"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, name)
	postgres := filepath.Join(pgtest.BinDir(t, major), "postgres")
	for setting, want := range map[string]string{
		"restore_command": value, "recovery_target": "immediate", "recovery_target_name": "", "recovery_target_xid": "", "pgtender.note": "new\nline",
	} {
		out, err := pgtest.Command(t.Context(), t, postgres, "-D", c.DataDir, "-C", setting).Output()
		if err != nil || string(out) != want+"\n" {
			t.Errorf("%s is %q, %v; want %q", setting, out, err, want)
		}
	}
}

// A timeline that recovery left before it began: see [pg.Fork].
func TestRecoveryBeforeAnOlderForkWritesADescendingHistory(t *testing.T) {
	archive := pgtest.Dir(t)
	restore := map[string]string{"restore_command": "cp " + archive + "/%f %p"}
	c := pgtest.New(t, pgtest.Options{Config: map[string]string{
		"archive_mode": "on", "archive_command": "cp %p " + archive + "/%f", "wal_keep_size": "0",
	}})
	c.Stop(t, pgtest.Fast)
	first, second := copyOf(t, c.DataDir), copyOf(t, c.DataDir)
	c.Start(t)
	c.Exec(t, "SELECT pg_create_restore_point('early')", "CREATE TABLE t AS SELECT generate_series(1, 100000)", "SELECT pg_create_restore_point('late')")
	c.Stop(t, pgtest.Fast) // archives the rest

	promote := func(dir string, settings map[string]string) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "recovery.signal"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for k, v := range restore {
			settings[k] = v
		}
		settings["recovery_target_action"] = "promote"
		r := pgtest.Adopt(t, dir, pgtest.Options{Config: settings})
		r.Start(t)
		r.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
		r.Exec(t, "SELECT pg_switch_wal()", "CHECKPOINT")
		tli := control(t, dir).CheckpointCopy.Timeline
		name := pg.HistoryName(tli)
		waitFor(t, name+" is archived", func() bool { _, err := os.Stat(filepath.Join(archive, name)); return err == nil })
		r.Stop(t, pgtest.Fast)
		content, err := os.ReadFile(filepath.Join(archive, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	h2 := parseHistory(t, 2, promote(first, map[string]string{"recovery_target_name": "late"}))
	h3 := parseHistory(t, 3, promote(second, map[string]string{"recovery_target_name": "early", "recovery_target_timeline": "2"}))
	if len(h3.Forks) != 2 || h3.Forks[1].Switch >= h3.Forks[0].Switch {
		t.Fatalf("the case is to descend: %+v", h3)
	}
	early := h3.Forks[1].Switch
	if got, want := h2.Common(h3), (pg.Pos{Timeline: 1, LSN: early}); got != want {
		t.Errorf("timelines 2 and 3 share up to %s, want %s", got, want)
	}
	if h3.Contains(pg.Pos{Timeline: 1, LSN: early + 1}) || h3.TimelineAt(early) != 3 {
		t.Errorf("WAL after %s is not timeline 1's for %+v", early, h3)
	}
}

func copyOf(t *testing.T, dataDir string) string {
	t.Helper()
	to := filepath.Join(pgtest.Dir(t), "data")
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", dataDir, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return to
}
