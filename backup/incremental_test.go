package backup_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/soak"
)

type backupID = repo.BackupID

// auditKept reads the pages of m that lie in older backups and refuses one that
// changed at since or later.
func auditKept(t *testing.T, m *repo.Manifest, since pg.LSN) (int, error) {
	layout := pg.Layout{Major: m.Backup.Major(), VersionDir: pg.TablespaceVersionDir(m.Backup.Major(), m.Backup.CatalogVersion)}
	var wants []repo.Want
	var names []string
	for e, err := range m.Entries(t.Context()) {
		if err != nil {
			return 0, err
		}
		class := layout.Classify(e.Path, e.Dir)
		if class.Kind != pg.KindRelation || class.Rel.Fork != pg.MainFork || e.Size == 0 {
			continue
		}
		wants = append(wants, repo.Want{Tag: int64(len(wants)), Entry: e})
		names = append(names, e.Path)
	}
	var kept atomic.Int64
	err := m.Fetch(t.Context(), m.Locate(t.Context(), repo.Values(wants)), repo.FetchOptions{}, func(_ context.Context, r repo.Read, raw []byte) error {
		if r.Backup == m.ID() {
			return nil
		}
		check := func(first uint32, b []byte) error {
			for at := 0; at < len(b); at += pageSize {
				kept.Add(1)
				if lsn := pg.Page(b[at:]).LSN(); lsn >= since {
					return fmt.Errorf("page %d of %s is kept from backup %s, but changed at %s, not before %s", int(first)+at/pageSize, names[r.Tag], r.Backup, lsn, since)
				}
			}
			return nil
		}
		if r.Kind == repo.FrameBundle {
			return check(0, raw)
		}
		for first, b := range r.Runs(raw, pageSize) {
			if err := check(first, b); err != nil {
				return err
			}
		}
		return nil
	})
	return int(kept.Load()), err
}

// restoreTo restores a backup and lets it recover to a named point and stop.
func (l *lab) restoreTo(t *testing.T, id backupID, point string) *pgtest.Cluster {
	t.Helper()
	c := l.restore(t, id)
	c.Append(t, "postgresql.auto.conf", fmt.Sprintf("recovery_target_name = '%s'\nrecovery_target_action = 'shutdown'\nhot_standby = off\n", point))
	c.Launch(t)
	c.WaitExit(t)
	if !strings.Contains(c.Log(), fmt.Sprintf("recovery stopping at restore point %q", point)) {
		t.Fatalf("recovery did not reach the restore point:\n%s", c.Log())
	}
	return c
}

// chain works on a cluster at random and backs it up again and again, each
// backup on the one before, from any of its servers.
type chain struct {
	*lab
	rng      *rand.Rand
	work     *pgtest.Workload
	standby  *pgtest.Cluster // nil: none
	prepared int
	kept     int
}

func newChain(t *testing.T, o pgtest.Options, seed uint64) *chain {
	t.Helper()
	o.Config = map[string]string{"max_prepared_transactions": "5", "autovacuum": "off"}
	l := newLab(t, o)
	p := l.primary
	space := pgtest.Dir(t)
	p.Exec(t, fmt.Sprintf("CREATE TABLESPACE space LOCATION '%s'", space),
		// Large enough to be a file with a page map from the start.
		"CREATE TABLE bulk (id int, v text, w text) WITH (fillfactor = 60)",
		"INSERT INTO bulk SELECT i, md5(i::text), repeat('x', 200) FROM generate_series(1, 20000) i",
		"CREATE INDEX ON bulk (v)", "VACUUM bulk")
	c := &chain{lab: l, rng: rand.New(rand.NewPCG(seed, 1)), work: p.Workload(seed)}
	c.work.Tablespaces = []string{"space"}
	c.work.Run(t, 8)
	return c
}

// step changes something that a workload does not.
func (c *chain) step(t *testing.T) {
	t.Helper()
	p := c.primary
	switch c.rng.IntN(8) {
	case 0:
		p.Exec(t, "SELECT lo_from_bytea(0, decode(repeat(md5('a'), 5000), 'hex'))")
	case 1:
		p.Exec(t, "DELETE FROM bulk WHERE id > 15000", "VACUUM (TRUNCATE) bulk",
			"INSERT INTO bulk SELECT i, md5(i::text), repeat('y', 200) FROM generate_series(15001, 20000) i")
	case 2:
		p.Exec(t, fmt.Sprintf("UPDATE bulk SET v = md5(v) WHERE id %% 500 = %d", c.rng.IntN(500)))
	case 3:
		if c.prepared == 0 {
			p.Exec(t, "BEGIN; CREATE TABLE IF NOT EXISTS two_phase (i int); INSERT INTO two_phase SELECT generate_series(1, 2000); PREPARE TRANSACTION 'two'")
			c.prepared = 1
		} else {
			p.Exec(t, []string{"COMMIT", "ROLLBACK"}[c.rng.IntN(2)]+" PREPARED 'two'")
			c.prepared = 0
		}
	case 4:
		p.Crash(t)
		p.Start(t)
		if c.standby != nil {
			c.standby.CatchUp(t, p)
		}
	case 5: // cut in place and grown again without a record for what is not written
		p.Exec(t, "BEGIN; TRUNCATE bulk; INSERT INTO bulk SELECT i, md5(i::text), repeat('z', 200) FROM generate_series(1, 20000) i; COMMIT")
	case 6:
		p.Exec(t, "VACUUM FULL bulk")
	case 7:
		p.Exec(t, "VACUUM (FREEZE) bulk", "CHECKPOINT")
	}
}

// backUp takes a backup and audits what it keeps.
func (c *chain) backUp(t *testing.T) repo.Backup {
	t.Helper()
	source := c.primary
	if c.standby != nil && c.rng.IntN(3) > 0 {
		source = c.standby
	}
	r := take(t, c.options(t, source))
	if r.Backup.Kind != repo.Incremental || r.Plan.Method != backup.ByMaps {
		t.Fatalf("took a backup of kind %s: %s", r.Backup.Kind, r.Plan.Why)
	}
	c.kept += c.inherited(t, r.Backup.ID)
	return r.Backup
}

// compare holds a restored incremental backup against a restored full one.
func (c *chain) compare(t *testing.T, id backupID) {
	t.Helper()
	if c.prepared > 0 {
		c.primary.Exec(t, "COMMIT PREPARED 'two'")
		c.prepared = 0
	}
	o := c.options(t, c.primary)
	o.Kind = backup.FullOnly
	full := take(t, o).Backup
	if full.Kind != repo.Full {
		t.Fatalf("took %s", full.Kind)
	}
	point := "compare_" + strconv.Itoa(c.rng.Int())
	c.primary.Exec(t, fmt.Sprintf("SELECT pg_create_restore_point('%s')", point))
	last := c.primary.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	c.primary.WaitFor(t, fmt.Sprintf("SELECT (last_archived_wal >= '%s')::text FROM pg_stat_archiver", last), "true")
	c.wal.drain(t)
	a, b := c.restoreTo(t, full.ID, point), c.restoreTo(t, id, point)
	sameCluster(t, a.DataDir, b.DataDir)
}

// round takes a full backup and then so many on one another.
func (c *chain) round(t *testing.T, backups, steps int) repo.Backup {
	t.Helper()
	if r := take(t, c.options(t, c.primary)); r.Backup.Kind == repo.Full && len(listed(t, c.repo)) > 1 {
		t.Fatalf("took a full backup: %s", r.Plan.Why)
	}
	var last repo.Backup
	for range backups {
		for range steps {
			c.work.Run(t, 1+c.rng.IntN(4))
			c.step(t)
		}
		last = c.backUp(t)
	}
	if c.kept == 0 {
		t.Error("nothing was kept from older backups")
	}
	return last
}

func TestAnIncrementalBackupEqualsAFullOne(t *testing.T) {
	pgtest.EachMajor(t, func(t *testing.T, major int) {
		c := newChain(t, pgtest.Options{Major: major, Checksums: major%2 == 1}, uint64(major))
		last := c.round(t, 3, 2)
		c.compare(t, last.ID)
		if major == 15 {
			r := c.restore(t, last.ID)
			checkRestored(t, r)
		}
	})
}

// TestSoakIncrementalBackups makes one random chain of backups after the other.
// The rounds are numbered, with the major version behind; those that have passed
// are listed in a file (see soak.Open). One is repeated, once it is taken off that
// list, with -run 'TestSoakIncrementalBackups/ROUND,'. PGTENDER_SOAK_ROUNDS is how
// many there are for each version.
func TestSoakIncrementalBackups(t *testing.T) {
	soak.Skip(t)
	rounds, _ := strconv.Atoi(os.Getenv("PGTENDER_SOAK_ROUNDS"))
	passed := soak.Open(t, "backup-soak")
	for i := range cmp.Or(rounds, 2000) {
		for _, major := range pgtest.Majors(t) {
			round := fmt.Sprintf("%d-%d", i, major)
			if passed.Passed(round) {
				continue
			}
			seed := uint64(1000*i + major)
			t.Run(round+",", func(t *testing.T) {
				c := newChain(t, pgtest.Options{Major: major, Checksums: i%2 == 0}, seed)
				if i%3 > 0 {
					c.standby = c.lab.standby(t)
				}
				last := c.round(t, 2+c.rng.IntN(5), 1+c.rng.IntN(3))
				c.compare(t, last.ID)
				restored := c.restore(t, last.ID)
				restored.Start(t)
				restored.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
				restored.AMCheck(t)
				if !t.Failed() {
					passed.Note(t, round, soak.Tally{"pages-kept": c.kept})
				}
			})
		}
	}
}
