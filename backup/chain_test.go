package backup_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/soak"
)

// chain works on a cluster at random and backs it up again and again, each
// backup on the one before, from any of its servers.
type chain struct {
	*lab
	rng      *rand.Rand
	work     *pgtest.Workload
	standby  *pgtest.Cluster // nil: none
	rows     int             // of the table that has a page map
	checked  bool            // the cluster has page checksums
	changes  int             // of that
	prepared int
	kept     int

	base  backupID // the full backup that the marked ones lean on
	marks []mark   // backups to be compared
}

// mark is a backup and the restore point behind it.
type mark struct {
	id    backupID
	point string
}

// chainRows make a table large enough to be a file with a page map: 8 MB.
const chainRows = 20000

func newChain(t *testing.T, o pgtest.Options, seed uint64) *chain {
	t.Helper()
	return newChainOf(t, o, seed, chainRows)
}

func newChainOf(t *testing.T, o pgtest.Options, seed uint64, rows int) *chain {
	t.Helper()
	o.Config = map[string]string{"max_prepared_transactions": "5", "autovacuum": "off"}
	l := newLab(t, o)
	p := l.primary
	space := pgtest.Dir(t)
	p.Exec(t, fmt.Sprintf("CREATE TABLESPACE space LOCATION '%s'", space),
		"CREATE TABLE bulk (id int, v text, w text) WITH (fillfactor = 60)", bulk(1, rows, "x"),
		"CREATE INDEX ON bulk (v)", "VACUUM bulk")
	c := &chain{lab: l, rng: rand.New(rand.NewPCG(seed, 1)), work: p.Workload(seed), rows: rows, checked: o.Checksums}
	c.work.Tablespaces = []string{"space"}
	c.work.Run(t, 8)
	return c
}

// bulk inserts rows into the large table.
func bulk(first, last int, pad string) string {
	return fmt.Sprintf("INSERT INTO bulk SELECT i, md5(i::text), repeat('%s', 200) FROM generate_series(%d, %d) i", pad, first, last)
}

// long takes a full backup and so many on one another, with up to so many rounds
// of work before each, and compares them all. It counts what there was.
func (c *chain) long(t *testing.T, backups, rounds int) soak.Tally {
	t.Helper()
	tally := soak.Tally{}
	c.base = take(t, c.options(t, c.primary)).Backup.ID
	var last repo.Backup
	for range backups {
		for range 1 + c.rng.IntN(rounds) {
			c.work.Run(t, 1+c.rng.IntN(4))
			c.step(t)
			tally["work"]++
			if c.standby != nil && c.rng.IntN(20) == 0 {
				c.failOver(t)
				tally["failovers"]++
			}
		}
		if c.standby == nil && c.primary.CanSetChecksums() && c.rng.IntN(8) == 0 {
			tally["compared"] += c.compareEach(t)
			c.changeChecksums(t)
			tally["checksum-changes"]++
		}
		last = c.backUp(t)
		c.mark(t, last.ID)
		tally["backups"]++
	}
	if c.kept == 0 {
		t.Error("nothing was kept from older backups")
	}
	tally["pages-kept"] = c.kept
	tally["compared"] += c.compareEach(t)
	restored := c.compare(t, last.ID)
	restored.Append(t, "postgresql.auto.conf", "recovery_target_name = ''\nhot_standby = on\n")
	restored.Start(t)
	restored.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	restored.AMCheck(t)
	return tally
}

// step changes something that a workload does not.
func (c *chain) step(t *testing.T) {
	t.Helper()
	p := c.primary
	switch c.rng.IntN(8) {
	case 0:
		p.Exec(t, "SELECT lo_from_bytea(0, decode(repeat(md5('a'), 5000), 'hex'))")
	case 1:
		stay := c.rows * 3 / 4
		p.Exec(t, fmt.Sprintf("DELETE FROM bulk WHERE id > %d", stay), "VACUUM (TRUNCATE) bulk", bulk(stay+1, c.rows, "y"))
	case 2:
		c.update(t)
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
		p.Exec(t, "BEGIN; TRUNCATE bulk; "+bulk(1, c.rows, "z")+"; COMMIT")
	case 6:
		p.Exec(t, "VACUUM FULL bulk")
	case 7:
		p.Exec(t, "VACUUM (FREEZE) bulk", "CHECKPOINT")
	}
}

func (c *chain) update(t *testing.T) {
	t.Helper()
	c.primary.Exec(t, fmt.Sprintf("UPDATE bulk SET v = md5(v) WHERE id %% 500 = %d", c.rng.IntN(500)))
}

// failOver makes the standby the primary, in the middle of a segment, and makes
// a new standby. The primary of before crashes, or is stopped.
func (c *chain) failOver(t *testing.T) {
	t.Helper()
	c.endSegment(t) // whole segments that die with their server would leave a hole
	c.update(t)
	c.standby.CatchUp(t, c.primary)
	if c.rng.IntN(2) == 0 {
		c.primary.Crash(t)
	} else {
		c.primary.Stop(t, pgtest.Fast)
	}
	c.standby.Promote(t)
	c.primary = c.standby
	c.work.MoveTo(c.primary)
	c.standby = c.lab.standby(t)
}

// changeChecksums turns the cluster's checksums on or off. No backup of the other
// kind does as a parent, so the next one is full; once there have been both kinds,
// it builds on the newest of its own.
func (c *chain) changeChecksums(t *testing.T) {
	t.Helper()
	c.primary.Stop(t, pgtest.Fast)
	c.checked = !c.checked
	c.primary.SetChecksums(t, c.checked)
	c.primary.Start(t)
	r := take(t, c.options(t, c.primary))
	c.changes++
	switch {
	case c.changes == 1 && r.Backup.Kind == repo.Full && strings.Contains(r.Plan.Why, "checksum"):
		c.base = r.Backup.ID
	case c.changes > 1 && r.Backup.Kind == repo.Incremental && r.Plan.Method == backup.ByMaps:
		c.kept += c.inherited(t, r.Backup.ID)
		c.mark(t, r.Backup.ID)
	default:
		t.Fatalf("at change %d took a backup of kind %s: %s", c.changes, r.Backup.Kind, r.Plan.Why)
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

// mark sets a restore point behind the backup that was taken last. A checkpoint
// comes before it: a recovery that ends writes its pages out only if it has come
// across one (CreateRestartPoint, xlog.c).
func (c *chain) mark(t *testing.T, id backupID) {
	t.Helper()
	m := mark{id, "behind_" + id.String()}
	c.primary.Exec(t, "CHECKPOINT", fmt.Sprintf("SELECT pg_create_restore_point('%s')", m.point))
	c.marks = append(c.marks, m)
}

// endSegment ends the primary's WAL segment, and waits until it is archived.
func (c *chain) endSegment(t *testing.T) {
	t.Helper()
	last := c.primary.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	c.primary.WaitFor(t, fmt.Sprintf("SELECT (last_archived_wal >= '%s')::text FROM pg_stat_archiver", last), "true")
	c.wal.drain(t)
}

// compareEach restores every marked backup, lets it recover to its mark, and
// holds it against the full backup before it, which recovers from mark to mark
// by WAL alone. It gives how many there were; then there are no marks.
func (c *chain) compareEach(t *testing.T) int {
	t.Helper()
	if len(c.marks) == 0 {
		return 0
	}
	c.endSegment(t)
	wal := c.extractWAL(t)
	full := c.restoreWith(t, c.base, wal)
	for _, m := range c.marks {
		same := t.Run(m.id.String(), func(t *testing.T) {
			recoverTo(t, full, m.point)
			incremental := c.restoreWith(t, m.id, wal)
			recoverTo(t, incremental, m.point)
			sameCluster(t, full.DataDir, incremental.DataDir)
			if t.Failed() {
				preserve(t, map[string]string{"full": filepath.Dir(full.DataDir), "incremental": filepath.Dir(incremental.DataDir), "wal": wal})
			}
		})
		if !same {
			t.FailNow()
		}
	}
	n := len(c.marks)
	c.marks = nil
	return n
}

// compare holds a restored backup against a full one that is taken now, both
// recovered to now. It gives the former.
func (c *chain) compare(t *testing.T, id backupID) *pgtest.Cluster {
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
	c.endSegment(t)
	wal := c.extractWAL(t)
	a, b := c.restoreWith(t, full.ID, wal), c.restoreWith(t, id, wal)
	recoverTo(t, a, point)
	recoverTo(t, b, point)
	sameCluster(t, a.DataDir, b.DataDir)
	return b
}

// recoverTo lets a restored cluster recover to a named point, and stop.
func recoverTo(t *testing.T, c *pgtest.Cluster, point string) {
	t.Helper()
	c.Append(t, "postgresql.auto.conf", fmt.Sprintf("recovery_target_name = '%s'\nrecovery_target_action = 'shutdown'\nhot_standby = off\n", point))
	c.Launch(t)
	c.WaitExit(t)
	if !strings.Contains(c.Log(), fmt.Sprintf("recovery stopping at restore point %q", point)) {
		t.Fatalf("recovery did not reach the restore point:\n%s", c.Log())
	}
}

// preserve copies directories to where the end of the test leaves them.
func preserve(t *testing.T, dirs map[string]string) {
	t.Helper()
	kept, err := os.MkdirTemp("", "pgtender-differs-")
	if err != nil {
		t.Fatal(err)
	}
	for name, dir := range dirs {
		to := filepath.Join(kept, name)
		if out, err := exec.Command("cp", "-a", dir, to).CombinedOutput(); err != nil {
			t.Errorf("copy %s: %v\n%s", dir, err, out)
		}
		spaces, _ := filepath.Glob(filepath.Join(to, "data", "pg_tblspc", "*")) // links to where the tablespaces were
		for _, link := range spaces {
			if err := errors.Join(os.Remove(link), os.Symlink(filepath.Join(to, "data."+filepath.Base(link)), link)); err != nil {
				t.Error(err)
			}
		}
	}
	t.Logf("what differs is kept in %s", kept)
}
