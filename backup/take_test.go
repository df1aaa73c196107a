package backup_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// checkRestored starts a restored cluster, lets it recover, and verifies it.
func checkRestored(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	c.Start(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	c.AMCheck(t)
	c.Checksums(t)
}

// moveWAL puts pg_wal behind a symbolic link.
func moveWAL(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	c.Stop(t, pgtest.Fast)
	dir := filepath.Join(pgtest.Dir(t), "wal")
	link := filepath.Join(c.DataDir, "pg_wal")
	if err := os.Rename(link, dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	c.Start(t)
	return dir
}

func TestABackupOfALoadedPrimaryRestores(t *testing.T) {
	l := newLab(t, pgtest.Options{Checksums: true})
	p := l.primary
	wal := moveWAL(t, p)
	space := pgtest.Dir(t)
	p.Exec(t, fmt.Sprintf("CREATE TABLESPACE space LOCATION '%s'", space))
	p.EnableAMCheck(t)
	p.PgbenchInit(t, 3)
	w := p.Workload(1)
	w.Tablespaces = []string{"space"}
	w.Run(t, 20)

	ctx, stop := context.WithCancel(t.Context())
	load := p.Pgbench(ctx, t, 2)
	ddl := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if err := w.Step(ctx); err != nil && ctx.Err() == nil {
				ddl <- err
				return
			}
		}
		ddl <- nil
	}()
	r := take(t, l.options(t, p))
	stop()
	if err := load.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := <-ddl; err != nil {
		t.Fatal(err)
	}

	b := r.Backup
	if b.SourceRole != repo.RolePrimary || b.WALDirectory != wal || len(b.Tablespaces) != 1 || b.Tablespaces[0].Location != space || b.MinRecovery != 0 {
		t.Errorf("described as %+v", b)
	}
	if r.Read == 0 || b.StoredBytes == 0 || b.Files == 0 || r.Wall < r.Copy+r.Checkpoint+r.WAL || r.Copy == 0 {
		t.Errorf("figures: %+v", r)
	}
	c := l.restore(t, b.ID)
	checkRestored(t, c)
	same := "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers) AND (SELECT count(*) FROM pgbench_accounts) = 300000"
	if got := c.Value(t, same); got != "t" {
		t.Errorf("pgbench's tables do not agree")
	}
	c.Stop(t, pgtest.Fast)
	c.Checksums(t) // every page, now that the server is down
}

func TestABackupOfEachMajorRestores(t *testing.T) {
	pgtest.EachMajor(t, func(t *testing.T, major int) {
		l := newLab(t, pgtest.Options{Major: major, Checksums: true})
		l.primary.EnableAMCheck(t)
		l.primary.PgbenchInit(t, 1)
		l.primary.Workload(2).Run(t, 6)
		s := l.standby(t)

		ctx, stop := context.WithCancel(t.Context())
		load := l.primary.Pgbench(ctx, t, 2)
		r := take(t, l.options(t, s))
		stop()
		if err := load.Wait(); err != nil {
			t.Fatal(err)
		}
		b := r.Backup
		if b.SourceRole != repo.RoleStandby || b.MinRecovery < b.Stop.LSN || b.Start.LSN >= b.Stop.LSN {
			t.Errorf("described as %+v", b)
		}
		if r.Checkpoint == 0 {
			t.Error("no time for the checkpoint")
		}
		checkRestored(t, l.restore(t, b.ID))

		c := l.restore(t, take(t, l.options(t, l.primary)).Backup.ID)
		c.Start(t)
		c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	})
}

func TestABackupOfAnIdleStandbyEqualsItsSource(t *testing.T) {
	l := newLab(t, pgtest.Options{})
	l.primary.PgbenchInit(t, 1)
	l.primary.Workload(3).Run(t, 8)
	s := l.standby(t)
	want := s.Dump(t)
	b := take(t, l.options(t, s)).Backup // the primary is asked to end its segment
	c := l.restore(t, b.ID)
	c.Start(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	if got := c.Dump(t); got != want {
		t.Error("the restored cluster's content differs from the source's")
	}
}

// Ids tell seconds only, and clocks are set back.
func TestALaterBackupHasTheHigherID(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs a server")
	}
	l := newLab(t, pgtest.Options{})
	last := repo.BackupID(0)
	for i := range 4 {
		o := l.options(t, l.primary)
		if i%2 == 1 {
			o.Kind = backup.FullOnly
		}
		b := take(t, o).Backup
		if b.ID <= last {
			t.Errorf("backup %s was taken after %s", b.ID, last)
		}
		last = b.ID
		if i == 0 { // a backup by a clock that is ahead
			s, err := backup.Synthesize(t.Context(), backup.SynthesizeOptions{Repo: l.repo, Backup: b.ID, ToolVersion: "test"})
			if err != nil {
				t.Fatal(err)
			}
			last = s.ID
		}
	}
}
