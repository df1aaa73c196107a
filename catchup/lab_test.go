package catchup_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive/archivetest"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/soak"
)

// lab is a primary that archives into a repository of files, through this very
// program.
type lab struct {
	primary *pgtest.Cluster
	store   string // directory of the repository
	repo    *repo.Repo
	program string // and its environment, to be followed by a command
}

func newLab(t testing.TB, o pgtest.Options) *lab {
	t.Helper()
	l := &lab{store: archivetest.Dir(t), primary: pgtest.New(t, o)}
	system := l.primary.Value(t, "SELECT system_identifier FROM pg_control_system()")
	l.program = archivetest.Install(t, l.store, system)
	var err error
	if l.repo, err = archivetest.Open(t.Context(), l.store, system); err != nil {
		t.Fatal(err)
	}
	l.primary.Configure(t, map[string]string{"archive_mode": "on", "archive_command": l.program + "push %p"})
	l.primary.Restart(t)
	return l
}

// someMajors runs a subtest for the oldest, the newest and the default version;
// all of them where there is time. What depends on a version more than this is
// tried on each by TestAMemberConvergesByBlockMaps.
func someMajors(t *testing.T, run func(t *testing.T, major int)) {
	t.Helper()
	all := pgtest.Majors(t)
	for _, m := range all {
		if !soak.Wanted() && m != all[0] && m != all[len(all)-1] && m != pgtest.DefaultMajor {
			continue
		}
		t.Run(fmt.Sprintf("PostgreSQL %d", m), func(t *testing.T) {
			t.Parallel()
			run(t, m)
		})
	}
}

func (l *lab) restoreCommand(t pg.Timeline) string {
	return l.program + "get %f %p " + t.String()
}

// backup takes a backup of c, the primary or a standby of it.
func (l *lab) backup(t testing.TB, c *pgtest.Cluster) repo.Backup {
	t.Helper()
	connect := func(c *pgtest.Cluster) func(context.Context) (*server.Conn, error) {
		return func(ctx context.Context) (*server.Conn, error) { return server.Connect(ctx, c.Options()) }
	}
	r, err := backup.Take(t.Context(), backup.Options{
		Repo: l.repo, DataDir: c.DataDir, Source: connect(c), Primary: connect(l.primary),
		Member: "m1", Host: "h1", ToolVersion: "test", Workers: 2, Fast: true,
		ArchiveTimeout: time.Minute, ArchiveGrace: 30 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.Backup
}

// archived ends the current segment and waits until it is in the archive.
func (l *lab) archived(t testing.TB) {
	t.Helper()
	l.primary.Exec(t, "CREATE TABLE IF NOT EXISTS nothing(); DROP TABLE nothing")
	segment := l.primary.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	l.primary.WaitFor(t, "SELECT last_archived_wal >= '"+segment+"' FROM pg_stat_archiver", "t")
}

func (l *lab) gather(t testing.TB, o catchup.GatherOptions) catchup.Facts {
	t.Helper()
	o.Repo = l.repo
	f, err := catchup.Gather(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (l *lab) plan(t testing.TB, o catchup.GatherOptions) catchup.Plan {
	t.Helper()
	p, err := catchup.Decide(l.gather(t, o))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (l *lab) run(t testing.TB, p catchup.Plan) catchup.Result {
	t.Helper()
	r, err := catchup.Run(t.Context(), p, catchup.RunOptions{Repo: l.repo, RestoreCommand: l.restoreCommand(p.Timeline), Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// restore restores into a new directory, which it gives.
func (l *lab) restore(t testing.TB, o catchup.GatherOptions) (string, catchup.Result) {
	t.Helper()
	if o.Purpose == "" {
		o.Purpose = catchup.Restore
	}
	if o.Dir == "" {
		o.Dir = filepath.Join(pgtest.Dir(t), "data")
	}
	r := l.run(t, l.plan(t, o))
	return o.Dir, r
}

// adopt makes a cluster of a restored directory. Its server archives nothing.
func (l *lab) adopt(t testing.TB, dir string) *pgtest.Cluster {
	t.Helper()
	links, err := os.ReadDir(filepath.Join(dir, "pg_tblspc"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range links {
		if to, err := os.Readlink(filepath.Join(dir, "pg_tblspc", e.Name())); err == nil {
			pgtest.Own(t, to)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "pg_wal")); err == nil {
		pgtest.Own(t, to)
	}
	return pgtest.Adopt(t, dir, pgtest.Options{Major: l.primary.Major, Config: map[string]string{"archive_mode": "off"}})
}

// start starts a restored directory and waits until it has left recovery.
func (l *lab) start(t testing.TB, dir string) *pgtest.Cluster {
	t.Helper()
	c := l.adopt(t, dir)
	c.Start(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	return c
}

// leader gives what Patroni's DCS and a look at the primary would tell.
func (l *lab) leader(t testing.TB) *catchup.LeaderFacts {
	t.Helper()
	// Not pg_control's: that has the new one only after a checkpoint.
	timeline, err := pg.ParseTimeline(l.primary.Value(t, "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"))
	if err != nil {
		t.Fatal(err)
	}
	h := pg.FirstTimeline()
	if timeline > 1 {
		content, err := os.ReadFile(filepath.Join(l.primary.DataDir, "pg_wal", pg.HistoryName(timeline)))
		if err == nil {
			h, err = pg.ParseHistory(timeline, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	flush, err := pg.ParseLSN(l.primary.Value(t, "SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	return &catchup.LeaderFacts{Member: "m1", History: h, Flush: flush}
}

func (l *lab) asLeader(t testing.TB) func(context.Context) (*catchup.LeaderFacts, error) {
	return func(context.Context) (*catchup.LeaderFacts, error) { return l.leader(t), nil }
}

// testLog fails the test when something is logged that it does not expect.
func testLog(t testing.TB, expected ...string) *slog.Logger {
	return slog.New(slog.NewTextHandler(logWriter{t, expected}, nil))
}

type logWriter struct {
	t        testing.TB
	expected []string
}

func (w logWriter) Write(b []byte) (int, error) {
	line := strings.TrimSuffix(string(b), "\n")
	w.t.Log(line)
	if strings.Contains(line, "level=INFO") {
		return len(b), nil
	}
	for _, e := range w.expected {
		if strings.Contains(line, e) {
			return len(b), nil
		}
	}
	w.t.Errorf("unexpected log record: %s", line)
	return len(b), nil
}
