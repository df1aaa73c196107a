package backup_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"

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

func TestAnIncrementalBackupEqualsAFullOne(t *testing.T) {
	pgtest.EachMajor(t, func(t *testing.T, major int) {
		c := newChain(t, pgtest.Options{Major: major, Checksums: major%2 == 1, WALSegSize: 1}, uint64(major))
		if major%3 == 0 {
			c.standby = c.lab.standby(t)
		}
		t.Log(c.long(t, 3, 4))
	})
}

// TestSoakIncrementalBackups makes one random chain of backups after the other,
// with rounds of work between them, failovers and changes of the cluster's
// checksums. Every backup is audited, and restored, and compared; see
// chain.compareEach. The chains are numbered, with the major version behind;
// those that have passed are listed in a file (see soak.Open). One is repeated,
// once it is taken off that list, with
// -run 'TestSoakIncrementalBackups/CHAIN,'. PGTENDER_SOAK_ROUNDS is how many
// there are for each version. A machine with memory to spare does more of them
// with TMPDIR on a tmpfs; what differs is kept there.
func TestSoakIncrementalBackups(t *testing.T) {
	soak.Skip(t)
	chains, _ := strconv.Atoi(os.Getenv("PGTENDER_SOAK_ROUNDS"))
	passed := soak.Open(t, "backup-soak")
	account := func() {
		sum := passed.Total("") // those of an older form of the list did not count their work
		t.Logf("%d rounds of work and %d incremental backups in %d chains have passed: %s", sum["work"], sum["backups"], sum["rounds"], sum)
	}
	account()
	for i := range cmp.Or(chains, 2000) {
		for _, major := range pgtest.Majors(t) {
			name := fmt.Sprintf("%d-%d", i, major)
			if passed.Passed(name) {
				continue
			}
			t.Run(name+",", func(t *testing.T) {
				c := newChainOf(t, pgtest.Options{Major: major, Checksums: i%2 == 0, WALSegSize: []int{1, 4, 1, 16}[i%4]}, uint64(1000*i+major), chainRows/3)
				if i%3 > 0 {
					c.standby = c.lab.standby(t)
				}
				tally := c.long(t, 4+c.rng.IntN(6), 16)
				if !t.Failed() {
					passed.Note(t, name, tally)
					account()
				}
			})
		}
	}
}
