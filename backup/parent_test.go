package backup_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// loseWAL makes WAL between two backups unknown: one archived segment is gone,
// and pg_wal no longer has it.
func (c *chain) loseWAL(t *testing.T) {
	t.Helper()
	p := c.primary
	p.Exec(t, "UPDATE bulk SET v = md5(v) WHERE id % 100 = 7", "SELECT pg_switch_wal()",
		"UPDATE bulk SET v = md5(v) WHERE id % 100 = 8")
	lost := p.Value(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
	p.Exec(t, "SELECT pg_switch_wal()", "CHECKPOINT", "UPDATE bulk SET v = md5(v) WHERE id % 100 = 9", "SELECT pg_switch_wal()", "CHECKPOINT")
	p.WaitFor(t, fmt.Sprintf("SELECT (last_archived_wal > '%s')::text FROM pg_stat_archiver", lost), "true")
	c.wal.drain(t)
	p.Exec(t, "CHECKPOINT") // what is archived may go now; the server would keep some of it for standbys
	if err := os.Remove(filepath.Join(p.DataDir, "pg_wal", lost)); err != nil {
		t.Fatal(err)
	}
	gone := 0
	for o, err := range c.store.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(o.Key, "/wal/") && strings.HasSuffix(o.Key, lost) {
			gone++
			if err := c.store.Delete(t.Context(), o.Key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if gone != 1 {
		t.Fatalf("%d objects of segment %s", gone, lost)
	}
}

func TestWhereWALIsMissingABackupIsFullAndSaysWhy(t *testing.T) {
	c := newChain(t, pgtest.Options{}, 1)
	take(t, c.options(t, c.primary))
	c.loseWAL(t)

	o := c.options(t, c.primary)
	o.Kind = backup.IncrementalOnly
	if _, err := backup.Take(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is not archived") {
		t.Errorf("asked for an incremental one: %v", err)
	}
	o.Kind, o.NoFallback = backup.Auto, "it is day"
	if _, err := backup.Take(t.Context(), o); err == nil || !strings.Contains(err.Error(), "it is day") {
		t.Errorf("no full one may stand in: %v", err)
	}
	if got := len(listed(t, c.repo)); got != 1 {
		t.Fatalf("%d backups after two refusals", got)
	}
	o.NoFallback = ""
	plan, err := backup.Preview(t.Context(), o)
	if err != nil || plan.Kind != repo.Full || !strings.Contains(plan.Why, "is not archived") {
		t.Errorf("preview: %+v, %v", plan, err)
	}
	r := take(t, o)
	if r.Backup.Kind != repo.Full || !strings.Contains(r.Plan.Why, "is not archived") {
		t.Errorf("took %s: %s", r.Backup.Kind, r.Plan.Why)
	}
	// From the new one on all is known again.
	c.primary.Exec(t, "UPDATE bulk SET v = md5(v) WHERE id % 100 = 9")
	if plan, err = backup.Preview(t.Context(), o); err != nil || plan.Kind != repo.Incremental || plan.Parent != r.Backup.ID {
		t.Errorf("preview: %+v, %v", plan, err)
	}
	c.backUp(t)
}

func TestWhereWALIsMissingPagesTell(t *testing.T) {
	c := newChain(t, pgtest.Options{Checksums: true}, 2)
	first := take(t, c.options(t, c.primary)).Backup
	c.primary.Exec(t, "CREATE DATABASE made_since") // its pages are older than it
	c.loseWAL(t)
	c.primary.Exec(t, "VACUUM bulk")
	r := take(t, c.options(t, c.primary))
	if r.Backup.Kind != repo.Incremental || r.Plan.Method != backup.ByLSN || r.Backup.Parent != first.ID {
		t.Fatalf("took %s: %s", r.Backup.Kind, r.Plan.Why)
	}
	if r.Backup.RawBytes*2 > first.RawBytes {
		t.Errorf("%d of %d bytes were stored again", r.Backup.RawBytes, first.RawBytes)
	}
	if kept := c.inherited(t, r.Backup.ID); kept == 0 {
		t.Error("nothing was kept")
	}
	c.compare(t, r.Backup.ID)
}

// The archiver is behind, as on any busy server, and the last segment that it
// archived has just been removed from pg_wal: a record begins in the one and ends
// in what the other alone has.
func TestARecordFromTheArchiveIntoLocalWAL(t *testing.T) {
	c := newChain(t, pgtest.Options{}, 11)
	p := c.primary
	take(t, c.options(t, p))
	last := p.Value(t, "SELECT pg_walfile_name(pg_current_wal_lsn() + 16777216)")
	c.wal.stopAfter(last)
	behind := p.Value(t, "SELECT pg_walfile_name(pg_current_wal_lsn() + 2 * 16777216)")
	for p.Value(t, "SELECT pg_walfile_name(pg_current_wal_lsn())") <= behind {
		p.Exec(t, "UPDATE bulk SET v = md5(v)")
	}
	p.WaitFor(t, fmt.Sprintf("SELECT (last_archived_wal >= '%s')::text FROM pg_stat_archiver", behind), "true")
	c.wal.drain(t)
	p.Exec(t, "CHECKPOINT")
	if err := os.Remove(filepath.Join(p.DataDir, "pg_wal", last)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	o := c.options(t, p)
	o.Progress = func(p backup.Progress) {
		if p.Phase == backup.PhaseScan {
			c.wal.stopAfter("")
		}
	}
	r := take(t, o)
	if r.Backup.Kind != repo.Incremental || r.Plan.Method != backup.ByMaps || r.Plan.Told.LocalWAL == 0 {
		t.Fatalf("took %s: %s, %+v", r.Backup.Kind, r.Plan.Why, r.Plan.Told)
	}
	c.compare(t, r.Backup.ID)
}

func TestWhereWALIsMissingTheServersSummariesTell(t *testing.T) {
	majors := pgtest.Majors(t)
	if majors[len(majors)-1] < 17 {
		t.Skip("no version with WAL summaries is tested")
	}
	c := newChain(t, pgtest.Options{Major: majors[len(majors)-1]}, 3)
	c.primary.Exec(t, "ALTER SYSTEM SET summarize_wal = on", "SELECT pg_reload_conf()")
	c.primary.WaitFor(t, "SELECT (summarized_lsn > '0/0')::text FROM pg_get_wal_summarizer_state()", "true")
	c.primary.Exec(t, "CHECKPOINT")
	first := take(t, c.options(t, c.primary)).Backup
	c.work.Run(t, 10)
	c.loseWAL(t)
	r := take(t, c.options(t, c.primary))
	if r.Backup.Kind != repo.Incremental || r.Plan.Method != backup.ByMaps || r.Plan.Told.Summaries == 0 {
		t.Fatalf("took %s: %s, %+v", r.Backup.Kind, r.Plan.Why, r.Plan.Told)
	}
	if kept := c.inherited(t, r.Backup.ID); kept == 0 || r.Backup.Parent != first.ID {
		t.Errorf("kept %d pages of %s", kept, r.Backup.Parent)
	}
	c.compare(t, r.Backup.ID)
}

// TestABackupOfALeftBranchIsNoParent: two backups exist when the cluster goes on
// from a point between them. The newer one is of timeline 1, as the older, and
// its start lies before everything that the new leader writes.
func TestABackupOfALeftBranchIsNoParent(t *testing.T) {
	c := newChain(t, pgtest.Options{}, 4)
	winner := c.lab.standby(t)
	common := take(t, c.options(t, c.primary)).Backup
	winner.CatchUp(t, c.primary)
	winner.Exec(t, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
	winner.WaitFor(t, "SELECT count(*)::text FROM pg_stat_wal_receiver", "0")
	c.primary.Exec(t, "UPDATE bulk SET v = md5(v) WHERE id % 10 = 1")
	dead := take(t, c.options(t, c.primary)).Backup
	if dead.Parent != common.ID {
		t.Fatalf("the parent of the backup of the dead branch is %s", dead.Parent)
	}
	c.primary.Crash(t)
	winner.Promote(t)
	c.primary = winner
	c.work = winner.Workload(44)
	// As much WAL as the dead branch has, and more.
	winner.Exec(t, "UPDATE bulk SET v = md5(v) WHERE id % 10 = 2", "SELECT pg_switch_wal()", "UPDATE bulk SET v = md5(v) WHERE id % 10 = 3", "SELECT pg_switch_wal()",
		"UPDATE bulk SET v = md5(v) WHERE id % 10 = 4", "SELECT pg_switch_wal()", "CHECKPOINT")
	c.work.Run(t, 5)
	r := take(t, c.options(t, winner))
	if r.Backup.Kind != repo.Incremental || r.Backup.Parent != common.ID || r.Backup.Stop.Timeline != 2 {
		t.Fatalf("took %s on %s: %s", r.Backup.Kind, r.Backup.Parent, r.Plan.Why)
	}
	if len(r.Plan.Rejected) != 1 || r.Plan.Rejected[0].Backup != dead.ID || !strings.Contains(r.Plan.Rejected[0].Why, "left timeline") {
		t.Errorf("rejected: %+v", r.Plan.Rejected)
	}
	c.inherited(t, r.Backup.ID)
	c.compare(t, r.Backup.ID)
}

func TestAParentOfAnotherMemberBeforeTheSwitch(t *testing.T) {
	c := newChain(t, pgtest.Options{Checksums: true}, 5)
	s := c.lab.standby(t)
	full := take(t, c.options(t, c.primary)).Backup
	c.work.Run(t, 4)
	first := take(t, c.options(t, s))
	if first.Backup.Parent != full.ID || first.Backup.SourceRole != repo.RoleStandby {
		t.Fatalf("took %s on %s: %s", first.Backup.Kind, first.Backup.Parent, first.Plan.Why)
	}
	c.inherited(t, first.Backup.ID)
	c.work.Run(t, 4)
	s.CatchUp(t, c.primary)
	c.primary.Crash(t)
	s.Promote(t)
	c.primary = s
	c.work = s.Workload(55)
	c.work.Run(t, 4)
	r := take(t, c.options(t, s))
	if r.Backup.Parent != first.Backup.ID || r.Backup.Stop.Timeline != 2 {
		t.Fatalf("took %s on %s: %s", r.Backup.Kind, r.Backup.Parent, r.Plan.Why)
	}
	c.inherited(t, r.Backup.ID)
	c.compare(t, r.Backup.ID)
}

func TestTwoStandbysAtOnce(t *testing.T) {
	c := newChain(t, pgtest.Options{}, 6)
	a, b := c.lab.standby(t), c.lab.standby(t)
	take(t, c.options(t, c.primary))
	c.work.Run(t, 5)
	var inner backup.Result
	o := c.options(t, a)
	o.Progress = func(p backup.Progress) {
		if p.Phase == backup.PhaseScan {
			other := c.options(t, b)
			other.Grace = time.Nanosecond // the first one's marker counts for nothing
			inner = take(t, other)
		}
	}
	outer := take(t, o)
	for _, r := range []backup.Result{inner, outer} {
		if r.Backup.Kind != repo.Incremental {
			t.Fatalf("took %s: %s", r.Backup.Kind, r.Plan.Why)
		}
		c.inherited(t, r.Backup.ID)
	}
	c.work.Run(t, 3)
	next := c.backUp(t)
	c.compare(t, next.ID)
	c.compare(t, inner.Backup.ID)
}

func TestAParentThatVanishesMeansAnotherOne(t *testing.T) {
	c := newChain(t, pgtest.Options{}, 7)
	first := take(t, c.options(t, c.primary)).Backup
	second := take(t, c.options(t, c.primary)).Backup
	manifest := c.repo.Key(repo.Key{Kind: repo.KeyManifest, ID: second.ID})
	o := c.options(t, c.primary)
	var begun atomic.Int32
	var marked []repo.BackupID
	o.Progress = func(p backup.Progress) {
		if p.Phase != backup.PhaseCheckpoint {
			return
		}
		begun.Add(1)
		running, err := c.repo.RunningBackups(t.Context())
		if err != nil || len(running) != 1 {
			t.Fatalf("%d markers, %v", len(running), err)
		}
		marked = append(marked, running[0].Marker.Parent)
		if err := c.store.Delete(t.Context(), manifest); err != nil {
			t.Fatal(err)
		}
	}
	r := take(t, o)
	if r.Backup.Parent != first.ID || begun.Load() != 2 || marked[0] != second.ID || marked[1] != first.ID {
		t.Errorf("took %s on %s at attempt %d, marked %s: %s", r.Backup.Kind, r.Backup.Parent, begun.Load(), marked, r.Plan.Why)
	}
}

// A damaged page that nobody changes would be in every backup from now on.
func TestABackupThatWasFoundDamagedIsNoParent(t *testing.T) {
	c := newChain(t, pgtest.Options{}, 10)
	first := take(t, c.options(t, c.primary)).Backup
	second := take(t, c.options(t, c.primary)).Backup
	packs, err := c.repo.StoredPacks(t.Context())
	if err != nil || second.Parent != first.ID {
		t.Fatalf("%s is on %s (%v)", second.ID, second.Parent, err)
	}
	own := packs[second.ID][0]
	key := c.repo.Key(repo.Key{Kind: repo.KeyPack, ID: own.Backup, Number: own.Number})
	content, err := storage.ReadAll(t.Context(), c.store, key, own.Size)
	if err != nil {
		t.Fatal(err)
	}
	flip := func() {
		content[len(content)/2] ^= 1
		if err := errors.Join(c.store.Delete(t.Context(), key), c.store.Put(t.Context(), key, bytes.NewReader(content), own.Size, storage.PutOptions{})); err != nil {
			t.Fatal(err)
		}
	}
	flip()
	if v, err := backup.Verify(t.Context(), backup.VerifyOptions{Repo: c.repo, Deep: true}); err != nil || v.OK {
		t.Fatalf("%+v, %v", v, err)
	}
	r := take(t, c.options(t, c.primary))
	if r.Backup.Parent != first.ID || len(r.Plan.Rejected) != 1 || !strings.Contains(r.Plan.Rejected[0].Why, "found damaged") {
		t.Errorf("took %s on %s, rejected %+v", r.Backup.Kind, r.Backup.Parent, r.Plan.Rejected)
	}
	flip() // what is left behind has to be whole
}

func TestAnIncrementalThatWaitsForWALIsCommittedByTheNext(t *testing.T) {
	c := newChain(t, pgtest.Options{}, 8)
	take(t, c.options(t, c.primary))
	c.work.Run(t, 3)
	c.wal.pause(true)
	o := c.options(t, c.primary)
	o.ArchiveTimeout, o.ArchiveGrace = time.Second, time.Hour
	r, err := backup.Take(t.Context(), o)
	var pending *backup.PendingError
	if !errors.As(err, &pending) || r.Plan.Kind != repo.Incremental {
		t.Fatalf("took %s, %v", r.Plan.Kind, err)
	}
	c.wal.pause(false)
	c.wal.drain(t)
	c.work.Run(t, 3)
	next := take(t, c.options(t, c.primary))
	if len(next.Earlier) != 1 || next.Earlier[0] != pending.Backup || next.Backup.Parent != pending.Backup {
		t.Fatalf("committed %v, took %s on %s: %s", next.Earlier, next.Backup.Kind, next.Backup.Parent, next.Plan.Why)
	}
	c.inherited(t, pending.Backup)
	c.inherited(t, next.Backup.ID)
	c.compare(t, next.Backup.ID)
}

// TestWALWithTwoContentsRulesAParentOut: of two servers that wrote WAL under one
// name nobody knows which the parent was taken of.
func TestWALWithTwoContentsRulesAParentOut(t *testing.T) {
	c := newChain(t, pgtest.Options{Checksums: true}, 9)
	take(t, c.options(t, c.primary))
	segment := c.primary.Value(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
	c.primary.Exec(t, "UPDATE bulk SET v = md5(v) WHERE id % 100 = 1", "SELECT pg_switch_wal()")
	c.primary.WaitFor(t, fmt.Sprintf("SELECT (last_archived_wal >= '%s')::text FROM pg_stat_archiver", segment), "true")
	c.wal.drain(t)
	for o, err := range c.store.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(o.Key, "/wal/") || !strings.HasSuffix(o.Key, segment) {
			continue
		}
		header, err := c.repo.ReadWALHeader(t.Context(), o.Key)
		if err != nil {
			t.Fatal(err)
		}
		src, err := c.store.Get(t.Context(), o.Key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(src); err != nil {
			t.Fatal(err)
		}
		src.Close()
		beside := o.Key + "~" + header.Digest.String()
		if err := c.store.Put(t.Context(), beside, bytes.NewReader(b.Bytes()), int64(b.Len()), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	r := take(t, c.options(t, c.primary))
	if r.Backup.Kind != repo.Full || !strings.Contains(r.Plan.Why, segment) || !strings.Contains(r.Plan.Why, "different contents") {
		t.Errorf("took %s: %s", r.Backup.Kind, r.Plan.Why)
	}
	c.backUp(t)
}

// A backup from before that has the cluster's setting of now does, since WAL
// tells all that changed.
func TestBackupsWithOtherChecksumsAreNoParents(t *testing.T) {
	c := newChain(t, pgtest.Options{}, 10)
	if !c.primary.CanSetChecksums() {
		t.Skipf("no pg_checksums for PostgreSQL %d is installed", c.primary.Major)
	}
	take(t, c.options(t, c.primary))
	for range 2 {
		c.work.Run(t, 2)
		c.changeChecksums(t)
		c.work.Run(t, 2)
		last := c.backUp(t)
		c.mark(t, last.ID)
		c.compareEach(t)
	}
}
