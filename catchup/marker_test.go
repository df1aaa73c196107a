package catchup_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pgtest"
)

func TestARepositoryThatIsFullCanBeRestoredFrom(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	l.backup(t, l.primary)
	l.archived(t)
	inner, err := file.Open(t.Context(), file.Options{Dir: l.store})
	if err != nil {
		t.Fatal(err)
	}
	full := storagetest.Faulty(inner, func(c storagetest.Call) (bool, error) {
		if c.Verb == storagetest.Put {
			return false, syscall.ENOSPC
		}
		return true, nil
	})
	dir := filepath.Join(pgtest.Dir(t), "data")
	p := l.plan(t, catchup.GatherOptions{Purpose: catchup.Restore, Dir: dir})
	_, err = catchup.Run(t.Context(), p, catchup.RunOptions{
		Repo: repo.Open(full, l.repo.Cluster(), repo.Options{}), RestoreCommand: l.restoreCommand(1),
		Log: testLog(t, "repository cannot be written to"),
	})
	if err != nil {
		t.Fatal(err)
	}
	l.start(t, dir).Stop(t, pgtest.Fast)
}

// Between its plan and its marker nothing keeps an expiry from what a restore
// counts on.
func TestWALThatExpiresBeforeTheMarkerIsMissedBeforeAnythingIsTouched(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	first := l.backup(t, l.primary)
	for range 3 { // segments that no backup needs
		l.archived(t)
	}
	l.backup(t, l.primary)
	l.archived(t)
	o := catchup.GatherOptions{Purpose: catchup.Restore, Dir: filepath.Join(pgtest.Dir(t), "data"), Backup: first.ID}
	p := l.plan(t, o)
	l.expire(t)
	run := func(p catchup.Plan) error {
		_, err := catchup.Run(t.Context(), p, catchup.RunOptions{Repo: l.repo, RestoreCommand: l.restoreCommand(1), Log: testLog(t)})
		return err
	}
	var refusal *catchup.RefusalError
	if err := run(p); !errors.As(err, &refusal) || refusal.Permanent {
		t.Fatalf("error %v, want a refusal that a retry mends", err)
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "PG_VERSION")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was restored: %v", err)
	}
	// The backup itself is whole, and so is the plan for the WAL that is left.
	o.Target = catchup.Target{Kind: catchup.Immediate}
	if err := run(l.plan(t, o)); err != nil {
		t.Fatal(err)
	}
}

// expire removes what is not needed for any of the backups or to go on from the
// newest one.
func (l *lab) expire(t testing.TB) {
	t.Helper()
	removed := 0
	for range 3 { // condemn, remove
		x, err := backup.Expire(t.Context(), backup.ExpireOptions{Repo: l.repo, Policy: backup.Policy{KeepBackups: 9, RecoveryWindow: 1, Grace: -1}})
		if err != nil {
			t.Fatal(err)
		}
		removed += x.Removed
	}
	if removed == 0 {
		t.Fatal("nothing expired")
	}
}
