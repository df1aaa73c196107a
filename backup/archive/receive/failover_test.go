package receive_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/receive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestAPromotionIsFollowedAndItsEndRestored: the receiver follows from a dead
// primary to the standby that took over, on its timeline; then that one is gone
// too, and what recovery makes of the repository has the last commit.
func TestAPromotionIsFollowedAndItsEndRestored(t *testing.T) {
	for _, major := range sample(t, 18) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			primary := pgtest.New(t, pgtest.Options{Major: major, WALSegSize: 1, Checksums: true, Config: map[string]string{"wal_keep_size": "1GB"}})
			s := newSite(t, primary)
			standby := pgtest.StandbyOf(t, primary, pgtest.Options{})
			begin := flushed(t, primary)
			s.start()
			primary.Workload(1).Run(t, 6)
			copied := filepath.Join(pgtest.Dir(t), "copy")
			primary.BaseBackup(t, copied)
			primary.Exec(t, "CREATE TABLE before AS SELECT generate_series(1, 1000) AS i")
			s.await(pg.FirstTimeline(), begin, flushed(t, primary))
			standby.CatchUp(t, primary)
			primary.Crash(t)
			standby.Promote(t)
			s.follow(standby)
			standby.Exec(t, "CREATE TABLE after AS SELECT generate_series(1, 1000) AS i")
			content, err := os.ReadFile(filepath.Join(standby.DataDir, "pg_wal", "00000002.history"))
			if err != nil {
				t.Fatal(err)
			}
			second, err := pg.ParseHistory(2, content)
			if err != nil {
				t.Fatal(err)
			}
			s.await(second, begin, flushed(t, standby))
			s.compare(standby, second, segSize.Start(segSize.SegmentOf(begin)))
			standby.Workload(2).Run(t, 3)
			standby.Exec(t, "CREATE TABLE last AS SELECT generate_series(1, 1000) AS i")
			s.await(second, begin, flushed(t, standby))
			want := standby.Dump(t)
			standby.Crash(t)
			s.kill()

			restored := pgtest.Adopt(t, copied, pgtest.Options{Major: major, Config: map[string]string{
				"archive_mode": "off", "restore_command": s.program + "get %f %p", "recovery_target_timeline": "latest",
			}})
			restored.Append(t, "recovery.signal", "")
			restored.Start(t)
			restored.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
			if got := restored.Dump(t); got != want {
				t.Error("the restored content is not what the last leader had")
			}
			restored.AMCheck(t)
		})
	}
}

// TestAReceiverIsNoSynchronousStandby: Patroni sets '*' in strict mode without
// a standby, and a commit must wait for one all the same.
func TestAReceiverIsNoSynchronousStandby(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{WALSegSize: 1})
	s := newSite(t, c)
	begin := flushed(t, c)
	s.start()
	s.await(pg.FirstTimeline(), begin, begin)
	c.WaitFor(t, "SELECT count(*)::text FROM pg_stat_replication WHERE state = 'streaming'", "1")
	c.Configure(t, map[string]string{"synchronous_standby_names": "*"})
	c.Reload(t)
	c.WaitFor(t, "SHOW synchronous_standby_names", "*")
	c.Exec(t, "SET synchronous_commit = local; CREATE TABLE t AS SELECT 1 AS i")
	s.await(pg.FirstTimeline(), begin, flushed(t, c))
	// PostgreSQL calls a walsender without a flush position asynchronous
	// (pg_stat_get_wal_senders, walsender.c).
	if got := c.Value(t, "SELECT string_agg(sync_state || ' ' || coalesce(flush_lsn::text, 'none'), ',') FROM pg_stat_replication"); got != "async none" {
		t.Errorf("the receiver is %q", got)
	}
	conn := c.Connect(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := conn.Exec(ctx, "CREATE TABLE public.u AS SELECT 1 AS i"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a commit did not wait for a standby: %v", err)
	}
}

// TestWhatIsSaidToBeStoredIs: a store that fails, loses answers and stands
// still. At each moment the repository holds what the receiver said.
func TestWhatIsSaidToBeStoredIs(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{WALSegSize: 1, Config: map[string]string{"wal_keep_size": "1GB"}})
	sys, err := pg.ParseSystemID(c.Value(t, systemID))
	if err != nil {
		t.Fatal(err)
	}
	id := repo.ClusterID{Scope: "demo", SystemID: sys}
	inner := storagetest.Enforce(t, mem.New(), nil)
	var mu sync.Mutex
	calls, stuck := 0, make(chan struct{})
	store := storagetest.Faulty(inner, func(call storagetest.Call) (bool, error) {
		mu.Lock()
		calls++
		n := calls
		mu.Unlock()
		switch {
		case n == 40: // stands still until the test lets it go
			<-stuck
		case call.Verb == storagetest.Put && n%7 == 3:
			return true, errors.New("the answer was lost")
		case n%11 == 5:
			return false, errors.New("the store is down")
		}
		return true, nil
	})
	direct := repo.Open(inner, id, repo.Options{})
	first, begin := pg.FirstTimeline(), segSize.Start(segSize.SegmentOf(flushed(t, c)))
	leader := filepath.Join(t.TempDir(), "leader")
	if err := os.WriteFile(leader, fmt.Appendf(nil, "%s %d", c.Host, c.Port), 0o644); err != nil {
		t.Fatal(err)
	}
	opts := options(repo.Open(store, id, repo.Options{}), leader, t.TempDir(), nil)
	opts.Every = 20 * time.Millisecond
	opts.Backoff = 10 * time.Millisecond
	said := pg.LSN(0)
	holds := func() pg.LSN {
		cover, err := archive.RestoreCoverage(context.WithoutCancel(t.Context()), direct, first, segSize, begin)
		if err != nil {
			t.Error(err)
		}
		return cover.End()
	}
	opts.Stored = func(at pg.Pos) {
		if end := holds(); end < at.LSN {
			t.Errorf("said to be stored up to %s, the repository leads to %s", at.LSN, end)
		}
		mu.Lock()
		defer mu.Unlock()
		said = max(said, at.LSN)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- receive.Run(ctx, opts) }()
	c.Workload(1).Run(t, 8)
	close(stuck)
	c.Workload(2).Run(t, 2)
	want := flushed(t, c)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		mu.Lock()
		at, n := said, calls
		mu.Unlock()
		if at >= want {
			t.Logf("%d calls of the store", n)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("stored up to %s, not to %s", at, want)
		}
	}
	if held := lsn(t, c, "SELECT restart_lsn FROM pg_replication_slots"); held > holds() {
		t.Errorf("the slot is at %s, the repository leads to %s", held, holds())
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	repotest.Check(t, inner)
}
