package backup_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/process"
)

func TestACopyWhoseWALDoesNotArriveIsCommittedByTheNextRun(t *testing.T) {
	l := newLab(t, pgtest.Options{})
	l.primary.PgbenchInit(t, 1)
	l.wal.pause(true)
	o := l.options(t, l.primary)
	o.ArchiveTimeout = time.Second
	_, err := backup.Take(t.Context(), o)
	var pending *backup.PendingError
	if !errors.As(err, &pending) || pending.Missing == "" || finding.Hint(err) == "" {
		t.Fatalf("got %v", err)
	}
	if ids := listed(t, l.repo); len(ids) != 0 {
		t.Fatalf("listed as complete: %v", ids)
	}
	if all, err := backup.List(t.Context(), l.repo); err != nil || len(all) != 1 || all[0].Status != backup.Pending || all[0].ID != pending.Backup {
		t.Fatalf("listed: %+v, %v", all, err)
	}
	// It still waits: another look changes nothing.
	if done, err := backup.FinishPending(t.Context(), l.repo, nil); err != nil || len(done) != 0 {
		t.Fatalf("finished %v, %v", done, err)
	}

	l.wal.pause(false)
	o.ArchiveTimeout = time.Minute
	r := take(t, o)
	if !slices.Equal(r.Earlier, []repo.BackupID{pending.Backup}) {
		t.Errorf("committed %v of earlier runs, want %s", r.Earlier, pending.Backup)
	}
	if got := listed(t, l.repo); !slices.Equal(got, []repo.BackupID{pending.Backup, r.Backup.ID}) {
		t.Errorf("listed: %v", got)
	}
	c := l.restore(t, pending.Backup)
	c.Start(t)
	if got := c.Value(t, "SELECT count(*) FROM pgbench_accounts"); got != "100000" {
		t.Errorf("restored %s rows", got)
	}
}

func TestSegmentsThatTheArchiverIsLateWithComeFromTheSource(t *testing.T) {
	for _, from := range []string{"primary", "standby"} {
		t.Run("a "+from, func(t *testing.T) {
			l := newLab(t, pgtest.Options{Config: map[string]string{"archive_command": "false"}})
			c := l.primary
			if from == "standby" {
				c = l.standby(t)
			}
			o := l.options(t, c)
			o.ArchiveGrace = 100 * time.Millisecond
			b := take(t, o).Backup
			restored := l.restore(t, b.ID)
			restored.Start(t)
			restored.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
		})
	}
}

func TestAMissingSegmentSaysWhatTheArchiverReports(t *testing.T) {
	l := newLab(t, pgtest.Options{Config: map[string]string{"archive_command": "false"}})
	o := l.options(t, l.primary)
	l.primary.Exec(t, "SELECT pg_switch_wal()")
	l.primary.WaitFor(t, "SELECT (failed_count > 0)::text FROM pg_stat_archiver", "true")
	o.ArchiveTimeout = time.Second
	_, err := backup.Take(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "archive_command fails on the primary") {
		t.Fatalf("got %v", err)
	}
}

// corrupt makes a table, damages two of its pages, and gives its path.
func corrupt(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	c.Exec(t, "CREATE TABLE hurt AS SELECT g, repeat('x', 500) FROM generate_series(1, 2000) g")
	path := c.Value(t, "SELECT pg_relation_filepath('hurt')")
	c.Stop(t, pgtest.Fast)
	c.CorruptPage(t, path, 3)
	c.CorruptPage(t, path, 77)
	c.Start(t)
	return path
}

func TestADamagedPageFailsTheBackupAndIsNamed(t *testing.T) {
	l := newLab(t, pgtest.Options{Checksums: true})
	path := corrupt(t, l.primary)
	o := l.options(t, l.primary)
	_, err := backup.Take(t.Context(), o)
	var damage *backup.DamageError
	if !errors.As(err, &damage) || damage.Path != path || !slices.Equal(damage.Blocks, []uint32{3, 77}) {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(finding.Hint(err), "--allow-damaged-pages") {
		t.Errorf("hint: %q", finding.Hint(err))
	}
	if ids := listed(t, l.repo); len(ids) != 0 {
		t.Fatalf("listed: %v", ids)
	}

	o.AllowDamagedPages = true
	b := take(t, o).Backup
	want := []repo.DamagedPage{{File: path, Block: 3}, {File: path, Block: 77}}
	if diff := cmp.Diff(want, b.Damage); diff != "" || b.DamagedPages != 2 {
		t.Errorf("%d damaged pages, %s", b.DamagedPages, diff)
	}
}

func TestABackupHoldsWhatBaseBackupHolds(t *testing.T) {
	l := newLab(t, pgtest.Options{})
	p := l.primary
	space := pgtest.Dir(t)
	p.Exec(t, fmt.Sprintf("CREATE TABLESPACE space LOCATION '%s'", space),
		"CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 1000) AS i",
		"CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 1000) AS i", "CHECKPOINT")
	for _, name := range []string{
		"patroni.dynamic.json", "postgresql.conf.backup", "postgresql.auto.conf.tmp", "current_logfiles.tmp", "backup_manifest",
		"base/pgsql_tmp", "base/1/pgsql_tmp99", "base/1/t3_12345", "pg_stat_tmp/x", "pg_replslot/x", "postmaster.opts", "global/pg_internal.init.7", "log/server.log",
	} {
		if err := os.MkdirAll(filepath.Join(p.DataDir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		p.Append(t, name, "text\n")
	}
	pgtest.Own(t, p.DataDir)

	dir := filepath.Join(pgtest.Dir(t), "data")
	p.BaseBackup(t, dir)
	want := append(tree(t, dir), "tablespace_map") // an option of BASE_BACKUP, for those who do not make links
	// Made by BASE_BACKUP's client, or WAL.
	want = slices.DeleteFunc(want, func(s string) bool {
		return s == "backup_manifest" || strings.HasPrefix(s, "pg_wal/") && s != "pg_wal/archive_status"
	})
	slices.Sort(want)

	b := take(t, l.options(t, p)).Backup
	m, err := l.repo.OpenManifest(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for e, err := range m.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Path)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("BASE_BACKUP's files (-) and the backup's (+) differ:\n%s", diff)
	}
}

// tree lists a directory as a manifest does, tablespaces included.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	var walk func(rel string)
	walk = func(rel string) {
		entries, err := os.ReadDir(filepath.Join(dir, rel))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			name := filepath.Join(rel, e.Name())
			out = append(out, name)
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			} else if info.IsDir() {
				walk(name)
			}
		}
	}
	walk("")
	slices.Sort(out)
	return out
}

func TestASecondBackupIsRefusedWhileOneRuns(t *testing.T) {
	l := newLab(t, pgtest.Options{})
	other := repo.Running{ID: repo.NewBackupID(time.Now()), Member: "m2", Host: "h2", PID: 1, Started: time.Now()}
	err := l.repo.Heartbeat(t.Context(), other, repo.Beat{}, func(ctx context.Context) error {
		_, err := backup.Take(ctx, l.options(t, l.primary))
		if !errors.Is(err, backup.ErrRunning) || !strings.Contains(err.Error(), `"m2"`) {
			return fmt.Errorf("got %w", err)
		}
		// Whoever holds the lease knows that m2 has lost it.
		leased := l.options(t, l.primary)
		leased.Leased = true
		if _, err := backup.Take(ctx, leased); err != nil {
			return fmt.Errorf("under the lease: %w", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	take(t, l.options(t, l.primary))
}

// A synthesis that died can be gone on with until there is a newer backup.
func TestADeadSynthesisIsLeftUntilABackupIsComplete(t *testing.T) {
	l := newLab(t, pgtest.Options{})
	first := take(t, l.options(t, l.primary)).Backup.ID
	mark := strings.Fields(process.Mark())
	mark[len(mark)-1] = "1" // an earlier process of our number
	dead := repo.Running{ID: repo.NewBackupID(time.Now()), Parent: first, Host: "h1", PID: os.Getpid(), Process: strings.Join(mark, " "), Stage: string(repo.Synthetic)}
	ctx, kill := context.WithCancel(t.Context())
	if err := l.repo.Heartbeat(ctx, dead, repo.Beat{}, func(ctx context.Context) error { kill(); return ctx.Err() }); err == nil {
		t.Fatal("it did not die")
	}
	markers := func() (ids []repo.BackupID) {
		all, err := l.repo.RunningBackups(t.Context())
		if err != nil {
			t.Error(err)
		}
		for _, m := range all {
			ids = append(ids, m.ID)
		}
		return ids
	}
	o := l.options(t, l.primary)
	left := false
	o.Progress = func(p backup.Progress) {
		left = left || p.Phase == backup.PhaseStop && slices.Contains(markers(), dead.ID)
	}
	take(t, o)
	if ids := markers(); !left || len(ids) != 0 {
		t.Errorf("while the backup ran: left %t; afterwards: %v", left, ids)
	}
}

func TestAStandbyPromotedDuringTheBackupFailsIt(t *testing.T) {
	l := newLab(t, pgtest.Options{})
	l.primary.PgbenchInit(t, 2)
	s := l.standby(t)
	o := l.options(t, s)
	o.MaxRate = 8 << 20
	var once sync.Once
	o.Progress = func(p backup.Progress) {
		if p.Phase == backup.PhaseCopy && p.Done > 0 {
			once.Do(func() { s.Promote(t) })
		}
	}
	_, err := backup.Take(t.Context(), o)
	if !errors.Is(err, server.ErrPromoted) {
		t.Fatalf("got %v", err)
	}
	if all, err := backup.List(t.Context(), l.repo); err != nil || len(all) != 0 {
		t.Errorf("listed: %v, %v", all, err)
	}
}

var errLease = errors.New("the lease is lost")

func TestNothingIsStoredOnceTheLeaseIsLost(t *testing.T) {
	l := newLab(t, pgtest.Options{})
	l.primary.PgbenchInit(t, 2)
	l.wal.pause(true)
	ctx, lose := context.WithCancelCause(t.Context())
	var mu sync.Mutex
	lost := false
	watched := storagetest.Faulty(l.store, func(c storagetest.Call) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		if lost && c.Verb != storagetest.Get && c.Verb != storagetest.List {
			t.Errorf("%s %s after the lease was lost", c.Verb, c.Key)
		}
		return true, nil
	})
	o := l.options(t, l.primary)
	o.Repo = repo.Open(watched, l.repo.Cluster(), repo.Options{})
	o.MaxRate = 4 << 20
	o.Progress = func(p backup.Progress) {
		if p.Phase == backup.PhaseCopy && p.Done > 0 {
			mu.Lock()
			lose(errLease)
			lost = true
			mu.Unlock()
		}
	}
	begin := time.Now()
	_, err := backup.Take(ctx, o)
	if !errors.Is(err, errLease) {
		t.Fatalf("got %v", err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("took %s to stop", took)
	}
	// The session that held backup mode is gone.
	l.primary.WaitFor(t, "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'pgtender' AND pid <> pg_backend_pid()", "0")
}

func TestAWrongSourceIsRefusedBeforeAnythingIsStored(t *testing.T) {
	l := newLab(t, pgtest.Options{})
	s := l.standby(t)
	foreign := repo.Open(l.store, repo.ClusterID{Scope: "demo", SystemID: 42}, repo.Options{})
	for _, c := range []struct {
		name   string
		change func(*backup.Options)
		want   string
	}{
		{"another server's data directory", func(o *backup.Options) { o.DataDir = l.primary.DataDir }, "the server's data directory is"},
		{"another cluster's repository", func(o *backup.Options) { o.Repo = foreign }, "system identifier"},
		{"no way to the primary", func(o *backup.Options) { o.Primary = nil }, "no way to its primary"},
		{"a primary that does not answer", func(o *backup.Options) {
			o.Primary = func(context.Context) (*server.Conn, error) { return nil, io.ErrUnexpectedEOF }
		}, "the primary cannot be asked"},
		{"a primary that is none", func(o *backup.Options) { o.Primary = connect(s) }, "is a standby"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := l.options(t, s)
			c.change(&o)
			_, err := backup.Take(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), c.want) || finding.Hint(err) == "" {
				t.Errorf("got %v (hint %q)", err, finding.Hint(err))
			}
		})
	}
	for o, err := range l.store.List(t.Context(), "", "") {
		if err != nil || !strings.Contains(o.Key, "/wal/") {
			t.Errorf("stored %s, %v", o.Key, err)
		}
	}
}

// TestEachRequestThatFails takes a backup for each of its writes to the
// repository, which fails with or without effect. Whatever is listed afterwards
// is whole (the lab's store is checked at the end), and Take never says ok
// without a listed backup nor lists one that it disowns, except where the
// answer to the commit itself was lost for good.
func TestEachRequestThatFails(t *testing.T) {
	l := newLab(t, pgtest.Options{})
	var mu sync.Mutex
	var calls, failAt int
	var apply bool
	var failed storagetest.Call
	broken := errors.New("the store is broken")
	faulty := storagetest.Faulty(l.store, func(c storagetest.Call) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		if c.Verb != storagetest.Put && c.Verb != storagetest.Delete {
			return true, nil
		}
		if calls++; calls == failAt {
			failed = c
			return apply, broken
		}
		return true, nil
	})
	o := l.options(t, l.primary)
	o.Repo = repo.Open(faulty, l.repo.Cluster(), repo.Options{})
	// Runs follow each other closely, and a failed one may leave its marker,
	// which this same process would not count as dead.
	o.Grace = time.Nanosecond
	count := func() int { return len(listed(t, l.repo)) }
	for failAt = 1; ; failAt++ {
		for _, apply = range []bool{false, true} {
			calls, failed = 0, storagetest.Call{}
			before := count()
			r, err := backup.Take(t.Context(), o)
			if failed.Key == "" {
				if err != nil {
					t.Fatal(err)
				}
				if failAt < 6 {
					t.Errorf("a backup took %d writes only", failAt-1)
				}
				return
			}
			name := fmt.Sprintf("write %d, %s %s, applied: %v", failAt, failed.Verb, failed.Key, apply)
			now := count()
			switch {
			case err == nil && !slices.Contains(listed(t, l.repo), r.Backup.ID):
				t.Errorf("%s: Take says ok, but the backup is not listed", name)
			case err != nil && !errors.Is(err, broken):
				t.Errorf("%s: got %v", name, err)
			case err != nil && now > before+len(r.Earlier):
				t.Errorf("%s: Take says %v, but a backup is listed", name, err)
			}
		}
	}
}
