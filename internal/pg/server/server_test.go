package server_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// One primary and one standby serve all tests of a version.
func TestOnEachMajorVersion(t *testing.T) {
	pgtest.EachMajor(t, func(t *testing.T, major int) {
		primary := pgtest.New(t, pgtest.Options{Major: major, Checksums: true, WALSegSize: 1, Config: map[string]string{
			"archive_mode": "on", "archive_command": "/bin/true", "wal_log_hints": "on",
		}})
		primary.Exec(t, "CREATE TABLESPACE other LOCATION '"+pgtest.Dir(t)+"'",
			"CREATE TABLE t TABLESPACE other AS SELECT i, md5(i::text) AS v FROM generate_series(1, 20000) i")
		standby := pgtest.StandbyOf(t, primary, pgtest.Options{})
		e := env{primary: primary, standby: standby}
		t.Run("info", e.info)
		t.Run("positions and WAL helpers", e.wal)
		t.Run("slots", e.slots)
		t.Run("the end of a session", e.ends)
		t.Run("replication commands", e.replication)
		t.Run("backup of the primary", func(t *testing.T) { e.backup(t, primary) })
		t.Run("backup of the standby", func(t *testing.T) { e.backup(t, standby) })
		t.Run("abandoned backup", e.abandoned)
		t.Run("base backup", e.baseBackup)
		t.Run("stream", e.stream)
		t.Run("promotion ends a backup and a timeline", e.promotion) // the last: the standby is none any more
	})
}

type env struct{ primary, standby *pgtest.Cluster }

func (e env) info(t *testing.T) {
	p, err := e.primary.Connect(t).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p.Version.Major() != e.primary.Major || p.PostmasterStart.IsZero() || time.Since(p.PostmasterStart) > time.Hour {
		t.Errorf("version %s, started at %s", p.Version, p.PostmasterStart)
	}
	want := server.Info{
		Version: p.Version, PostmasterStart: p.PostmasterStart, SystemID: p.SystemID,
		Timeline: 1, SegmentSize: 1 << 20, BlockSize: 8192, DataChecksums: true, WALLogHints: true,
		FullPageWrites: true, WALLevel: "replica", DataDirectory: e.primary.DataDir,
		ArchiveMode: "on", ArchiveCommand: "/bin/true",
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
	s, err := e.standby.Connect(t).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want.InRecovery, want.DataDirectory, want.PostmasterStart = true, e.standby.DataDir, s.PostmasterStart
	if diff := cmp.Diff(want, s); diff != "" {
		t.Error(diff)
	}
}

// hasWAL asks about the oldest segment, as it is, with a byte changed in what
// counts and after that, and under a name that there is none of.
func (e env) hasWAL(t *testing.T, p *server.Conn) {
	t.Helper()
	dir := filepath.Join(e.primary.DataDir, "pg_wal")
	names, err := filepath.Glob(filepath.Join(dir, strings.Repeat("[0-9A-F]", 24)))
	if err != nil || len(names) == 0 {
		t.Fatalf("no segments: %v", err)
	}
	content, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	length := len(content) - 1000
	for _, c := range []struct {
		name    string
		changed int
		want    bool
	}{
		{filepath.Base(names[0]), len(content) - 1, true},
		{filepath.Base(names[0]), length - 1, false},
		{filepath.Base(names[0]), 0, false},
		{"0000000100000000000000FF", len(content) - 1, false},
	} {
		other := bytes.Clone(content)
		other[c.changed] ^= 1
		if got, err := p.HasWAL(t.Context(), c.name, bytes.NewReader(other), int64(length)); err != nil || got != c.want {
			t.Errorf("%s with byte %d changed: %v, %v, want %v", c.name, c.changed, got, err, c.want)
		}
	}
}

func (e env) wal(t *testing.T) {
	ctx, p, s := t.Context(), e.primary.Connect(t), e.standby.Connect(t)
	point, err := p.CreateRestorePoint(ctx, "it's a point")
	if err != nil {
		t.Fatal(err)
	}
	switched, err := p.SwitchWAL(ctx)
	if err != nil || switched < point {
		t.Fatalf("switched at %s after %s, %v", switched, point, err)
	}
	if err := p.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	e.hasWAL(t, p)
	cp, err := p.LastCheckpoint(ctx)
	if err != nil || cp.Redo.LSN < switched || cp.Redo.Timeline != 1 || cp.Checkpoint < cp.Redo.LSN || cp.Time.IsZero() {
		t.Fatalf("checkpoint %+v after %s, %v", cp, switched, err)
	}
	at, err := p.Positions(ctx)
	if err != nil || at.InRecovery || at.Flush < cp.Checkpoint || at.Insert < at.Flush {
		t.Fatalf("primary at %+v, %v", at, err)
	}
	if err := s.WaitReplay(ctx, at.Flush, server.WaitOptions{Poll: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if at, err = s.Positions(ctx); err != nil || !at.InRecovery || at.Replay <= cp.Checkpoint || at.Receive < at.Replay || at.Paused {
		t.Fatalf("standby at %+v, %v", at, err)
	}
	if err := s.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	if restart, err := s.LastCheckpoint(ctx); err != nil || restart.Redo != cp.Redo {
		t.Errorf("restartpoint %+v, %v; want %+v", restart, err, cp)
	}

	var stalled *server.StalledError
	e.standby.Exec(t, "SELECT pg_wal_replay_pause()")
	err = s.WaitReplay(ctx, pg.MaxLSN, server.WaitOptions{Poll: time.Millisecond, Stall: 300 * time.Millisecond})
	e.standby.Exec(t, "SELECT pg_wal_replay_resume()")
	if !errors.As(err, &stalled) || !stalled.Paused {
		t.Errorf("a wait for paused replay ended with %v", err)
	}
	if err := p.WaitReplay(ctx, 1, server.WaitOptions{}); !errors.Is(err, server.ErrNotStandby) {
		t.Errorf("a wait for a primary's replay ended with %v", err)
	}
	if _, err := s.SwitchWAL(ctx); err == nil || server.IsUnavailable(err) || server.SQLState(err) != "55000" {
		t.Errorf("a standby switched WAL: %v", err)
	}
	e.primary.WaitFor(t, "SELECT archived_count > 0 FROM pg_stat_archiver", "t")
	stats, err := p.ArchiverStats(ctx)
	if err != nil || stats.Archived == 0 || stats.Failed != 0 || stats.LastArchived == "" || stats.LastArchivedAt.IsZero() || !stats.LastFailedAt.IsZero() {
		t.Errorf("archiver %+v, %v", stats, err)
	}
	set, err := p.Settings(ctx, "archive_mode", "no_such_setting")
	if diff := cmp.Diff(map[string]string{"archive_mode": "on"}, set); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func (e env) slots(t *testing.T) {
	ctx := t.Context()
	for _, c := range []*pgtest.Cluster{e.primary, e.standby} {
		conn := c.Connect(t)
		held, err := conn.CreateSlot(ctx, "pgtender_test", true)
		if err != nil {
			t.Fatal(err)
		}
		at, err := conn.Positions(ctx)
		if err != nil {
			t.Fatal(err)
		}
		target := max(at.Flush, at.Replay)
		if got, err := conn.AdvanceSlot(ctx, "pgtender_test", target); err != nil || got != target {
			t.Errorf("advanced from %s to %s, %v; want %s", held, got, err, target)
		}
		slots, err := conn.PhysicalSlots(ctx)
		want := []server.Slot{{Name: "pgtender_test", Temporary: true, Active: true, Restart: target, WALStatus: "reserved"}}
		if diff := cmp.Diff(want, slots); err != nil || diff != "" {
			t.Error(err, diff)
		}
		if _, err := conn.CreateSlot(ctx, "Robert'; DROP", false); err == nil {
			t.Error("a name that is none was accepted")
		}
		if _, err := conn.CreateSlot(ctx, "lasting", false); err != nil {
			t.Error(err)
		}
		if err := conn.DropSlot(ctx, "lasting"); err != nil {
			t.Error(err)
		}
		conn.Close()
		c.WaitFor(t, "SELECT count(*) FROM pg_replication_slots", "0")
	}
}

// ends wants the end of an idle session to be noticed, and a session that was only
// watched to be as good as before.
func (e env) ends(t *testing.T) {
	c := e.primary.Connect(t)
	watched, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.WaitEnd(watched) }()
	e.primary.Exec(t, "NOTIFY nobody")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("nobody ended the session: %v", err)
	}
	pid, err := c.Query(t.Context(), "SELECT pg_backend_pid()")
	if err != nil {
		t.Fatalf("after it was watched: %v", err)
	}
	go func() { ended <- c.WaitEnd(t.Context()) }()
	e.primary.Exec(t, "SELECT pg_terminate_backend("+pid[0][0]+")")
	if err := <-ended; server.SQLState(err) != "57P01" {
		t.Errorf("the session was ended: %v", err)
	}
}

func (e env) replication(t *testing.T) {
	ctx := t.Context()
	info, err := e.primary.Connect(t).Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*pgtest.Cluster{e.primary, e.standby} {
		r := c.ConnectReplication(t)
		id, err := r.Identify(ctx)
		if err != nil || id.SystemID != info.SystemID || id.Pos.Timeline != 1 || id.Pos.LSN == 0 {
			t.Errorf("identity %+v, %v", id, err)
		}
		if size, err := r.SegmentSize(ctx); err != nil || size != 1<<20 {
			t.Errorf("segment size %d, %v", size, err)
		}
		if r.Version() != info.Version {
			t.Errorf("version %s, want %s", r.Version(), info.Version)
		}
		if _, err := r.Show(ctx, "no_such_setting"); err == nil {
			t.Error("an unknown setting has a value")
		}
		if err := r.CreateTemporarySlot(ctx, "pgtender_repl"); err != nil {
			t.Error(err)
		}
		if _, err := r.TimelineHistory(ctx, 9); err == nil {
			t.Error("timeline 9 has a history")
		}
	}
}

func (e env) abandoned(t *testing.T) {
	const inBackup = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgtender' AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
	conn := e.primary.Connect(t)
	ctx, b, err := conn.StartBackup(t.Context(), server.BackupOptions{Label: "x", Fast: true, KeepAlive: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	b.Abort()
	b.Abort()
	if ctx.Err() == nil || conn.Ping(t.Context()) == nil {
		t.Error("an aborted backup leaves its session")
	}
	e.primary.WaitFor(t, inBackup, "0")

	conn = e.primary.Connect(t)
	ctx, b, err = conn.StartBackup(t.Context(), server.BackupOptions{Label: "x", Fast: true, KeepAlive: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	e.primary.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgtender' AND pid <> pg_backend_pid()")
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, server.ErrSessionLost) || !server.IsUnavailable(cause) {
		t.Errorf("the lost session was noticed as %v", cause)
	}
	if _, err := b.Stop(t.Context()); !errors.Is(err, server.ErrSessionLost) {
		t.Errorf("a lost backup was stopped: %v", err)
	}

	if _, _, err := e.primary.Connect(t).StartBackup(t.Context(), server.BackupOptions{Label: "a\nb"}); err == nil {
		t.Error("a label of two lines was accepted")
	}
	cancelled, cancel := context.WithCancelCause(t.Context())
	ctx, b, err = e.primary.Connect(t).StartBackup(cancelled, server.BackupOptions{Label: "x", Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	lease := errors.New("lease lost")
	cancel(lease)
	if _, err := b.Stop(ctx); !errors.Is(err, lease) {
		t.Errorf("a backup without a lease was stopped: %v", err)
	}
}

func (e env) promotion(t *testing.T) {
	conn := e.standby.Connect(t)
	e.standby.CatchUp(t, e.primary)
	ctx, b, err := conn.StartBackup(t.Context(), server.BackupOptions{Label: "x", Fast: true, KeepAlive: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Abort()
	late, lateBackup, err := e.standby.Connect(t).StartBackup(t.Context(), server.BackupOptions{Label: "y", Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	var following follower
	following.from(t, e.standby, 1)
	e.standby.Promote(t)
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, server.ErrPromoted) {
		t.Errorf("the promotion was noticed as %v", cause)
	}
	if late.Err() != nil {
		t.Fatal("the other backup should not have noticed yet")
	}
	if _, err := lateBackup.Stop(t.Context()); !errors.Is(err, server.ErrPromoted) {
		t.Errorf("a backup from before the promotion was stopped: %v", err)
	}
	info, err := e.standby.Connect(t).Info(t.Context())
	if err != nil || info.InRecovery || info.Timeline != 2 {
		t.Errorf("after promotion: %+v, %v", info, err)
	}
	e.standby.Exec(t, "CREATE TABLE on_timeline_2 AS SELECT generate_series(1, 1000) AS i")
	following.to(t, e.standby, 2)
}

func TestConnectingTellsWhyNot(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{TCP: true})
	c.Exec(t, "CREATE ROLE secure LOGIN PASSWORD 'hunter2'", "CREATE ROLE brief LOGIN; ALTER ROLE brief SET statement_timeout = '1ms'")
	hba, err := os.ReadFile(filepath.Join(c.DataDir, "pg_hba.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.DataDir, "pg_hba.conf"), append([]byte("host all secure all scram-sha-256\n"), hba...), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Restart(t)
	good := server.Options{Host: "127.0.0.1", Port: uint16(c.Port), User: "secure", Password: "hunter2", SSLMode: "prefer"}
	with := func(change func(*server.Options)) server.Options {
		o := good
		change(&o)
		return o
	}
	cases := []struct {
		name                string
		o                   server.Options
		unavailable, denied bool
	}{
		{"wrong password", with(func(o *server.Options) { o.Password = "swordfish" }), false, true},
		{"no such role", with(func(o *server.Options) { o.User = "nobody" }), false, true},
		{"nothing listens", with(func(o *server.Options) { o.Port = 1 }), true, false},
		{"no such host", with(func(o *server.Options) { o.Host = "nowhere.invalid" }), true, false},
		{"no such socket", with(func(o *server.Options) { o.Host = "/nonexistent" }), true, false},
		{"no TLS there", with(func(o *server.Options) { o.SSLMode = "require" }), false, false},
	}
	for _, k := range cases {
		_, err := server.Connect(t.Context(), k.o)
		if err == nil {
			t.Errorf("%s: connected", k.name)
			continue
		}
		if server.IsUnavailable(err) != k.unavailable || server.IsDenied(err) != k.denied {
			t.Errorf("%s: unavailable %t, denied %t: %v", k.name, server.IsUnavailable(err), server.IsDenied(err), err)
		}
		if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "swordfish") {
			t.Errorf("%s: the password shows: %v", k.name, err)
		}
	}
	if _, err := server.ConnectReplication(t.Context(), good); !server.IsDenied(err) {
		t.Errorf("a user without REPLICATION: %v", err)
	}
	conn, err := server.Connect(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	rows, err := conn.Query(t.Context(), "SELECT application_name, $1::text, NULL FROM pg_stat_activity WHERE pid = pg_backend_pid()", "x")
	if diff := cmp.Diff([][]string{{"pgtender", "x", ""}}, rows); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if _, err := conn.CreateRestorePoint(t.Context(), "x"); !server.IsDenied(err) {
		t.Errorf("a plain user created a restore point: %v", err)
	}
	brief := c.Options()
	brief.User = "brief"
	patient, err := server.Connect(t.Context(), brief)
	if err != nil {
		t.Fatal(err)
	}
	defer patient.Close()
	if err := patient.Exec(t.Context(), "SELECT pg_sleep(0.05)"); err != nil {
		t.Errorf("a limit set for the role is in force: %v", err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errors.New("lease lost"))
	defer cancel()
	if err := patient.Exec(ctx, "SELECT pg_sleep(60)"); err == nil || !strings.Contains(err.Error(), "lease lost") {
		t.Errorf("a cancelled statement ended with %v", err)
	}
	c.Crash(t)
	if err := conn.Ping(t.Context()); !server.IsUnavailable(err) {
		t.Errorf("the server is gone: %v", err)
	}
	if _, err := server.Connect(t.Context(), good); !server.IsUnavailable(err) {
		t.Errorf("the server is gone: %v", err)
	}
}
