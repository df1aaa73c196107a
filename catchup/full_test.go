package catchup_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/servertest"
)

func TestAFullDiskKeepsWhatWasFetched(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	l.primary.Exec(t, "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 60000) AS i")
	l.backup(t, l.primary)
	l.archived(t)
	base := pgtest.Dir(t)
	disk := servertest.MountDisk(t, base, 40)
	dir := filepath.Join(base, "data")
	o := catchup.GatherOptions{Purpose: catchup.Restore, Dir: dir}
	f := l.gather(t, o)
	if _, err := catchup.Decide(f); err == nil {
		t.Error("the plan does not see that there is no room")
	}
	f.Dir.Free = 1 << 40 // it was there when the plan was made
	p, err := catchup.Decide(f)
	if err != nil {
		t.Fatal(err)
	}
	_, err = catchup.Run(t.Context(), p, catchup.RunOptions{Repo: l.repo, RestoreCommand: l.restoreCommand(1), Log: testLog(t)})
	if !errors.Is(err, syscall.ENOSPC) || finding.Hint(err) == "" {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, pg.ControlPath)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pg_control is there: %v", err)
	}
	disk.Resize(t, 400)
	p = l.plan(t, o)
	if !p.Resume {
		t.Errorf("the plan does not go on: %+v", p.Rungs)
	}
	l.run(t, p)
	c := l.start(t, dir)
	if got := c.Value(t, "SELECT count(*) FROM t"); got != "60000" {
		t.Errorf("%s rows", got)
	}
	c.Stop(t, pgtest.Fast)
}
