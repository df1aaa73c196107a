package catchup_test

import (
	"path/filepath"
	"syscall"
	"testing"

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
