package catchup_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestADirectoryThatIsNotOursStaysAsItIs tries every kind of directory that a
// restore must not touch.
func TestADirectoryThatIsNotOursStaysAsItIs(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	l.backup(t, l.primary)
	l.archived(t)
	other := pgtest.New(t, pgtest.Options{})
	other.Stop(t, pgtest.Fast)
	stopped := pgtest.StandbyOf(t, l.primary, pgtest.Options{Config: map[string]string{"archive_mode": "off"}})
	stopped.Stop(t, pgtest.Fast)
	foreign := pgtest.Dir(t)
	if err := os.WriteFile(filepath.Join(foreign, "letter"), []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := pgtest.Dir(t)
	if err := os.WriteFile(filepath.Join(damaged, "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		dir     string
		purpose catchup.Purpose
		want    string
	}{
		"of a running server":                                   {l.primary.DataDir, catchup.Replica, "a PostgreSQL server runs there"},
		"of another cluster":                                    {other.DataDir, catchup.Replica, "data directory of another cluster"},
		"of the same cluster, for a restore":                    {stopped.DataDir, catchup.Restore, "holds a PostgreSQL data directory"},
		"of the same cluster, for a bootstrap":                  {stopped.DataDir, catchup.Bootstrap, "holds a PostgreSQL data directory"},
		"with something else in it":                             {foreign, catchup.Restore, "it holds letter"},
		"whose pg_control is gone, so that it may be anybody's": {damaged, catchup.Replica, "another cluster: system identifier 0"},
	} {
		t.Run(name, func(t *testing.T) {
			var before map[string]string
			if test.dir != l.primary.DataDir {
				before = tree(t, child{Dir: filepath.Join(test.dir, "x")})
			}
			f := l.gather(t, catchup.GatherOptions{Purpose: test.purpose, Dir: test.dir, Leader: l.asLeader(t)})
			_, err := catchup.Decide(f)
			var refusal *catchup.RefusalError
			// Backends may outlive the stop that Patroni called for.
			permanent := test.dir != l.primary.DataDir
			if !errors.As(err, &refusal) || refusal.Permanent != permanent || refusal.Advice == "" || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v", err)
			}
			if before != nil {
				if diff := cmp.Diff(before, tree(t, child{Dir: filepath.Join(test.dir, "x")})); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestAFileIsNoDirectory(t *testing.T) {
	r, _ := repotest.New(t)
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := catchup.Gather(t.Context(), catchup.GatherOptions{Repo: r, Purpose: catchup.Restore, Dir: name})
	var refusal *catchup.RefusalError
	if !errors.As(err, &refusal) || !refusal.Permanent {
		t.Errorf("got %v", err)
	}
}

func TestARunRefusesADirectoryThatHasChangedSinceThePlan(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	l.backup(t, l.primary)
	l.archived(t)
	dir := pgtest.Dir(t)
	p := l.plan(t, catchup.GatherOptions{Purpose: catchup.Restore, Dir: dir})
	if err := os.WriteFile(filepath.Join(dir, "letter"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := catchup.Run(t.Context(), p, catchup.RunOptions{Repo: l.repo, RestoreCommand: "x", Log: testLog(t)})
	if err == nil || !strings.Contains(err.Error(), "has changed since the plan was made: it was empty, now it is foreign and holds letter") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "letter")); err != nil {
		t.Error(err)
	}
}

func TestTwoRunsDoNotWorkOnOneDirectory(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	l.backup(t, l.primary)
	l.archived(t)
	p := l.plan(t, catchup.GatherOptions{Purpose: catchup.Restore, Dir: filepath.Join(pgtest.Dir(t), "data")})
	tried := false
	_, err := catchup.Run(t.Context(), p, catchup.RunOptions{Repo: l.repo, RestoreCommand: "x", Progress: func(catchup.Progress) {
		if tried {
			return
		}
		tried = true
		if _, err := catchup.Run(t.Context(), p, catchup.RunOptions{Repo: l.repo, RestoreCommand: "x"}); !errors.Is(err, catchup.ErrLocked) {
			t.Errorf("the second run gives %v", err)
		}
	}})
	if err != nil || !tried {
		t.Errorf("tried %t, %v", tried, err)
	}
}

// TestARunEndsWithItsContext: Patroni gives a command ten seconds.
func TestARunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	l.backup(t, l.primary)
	l.archived(t)
	dir := filepath.Join(pgtest.Dir(t), "data")
	p := l.plan(t, catchup.GatherOptions{Purpose: catchup.Restore, Dir: dir})
	ctx, cancel := context.WithCancelCause(t.Context())
	lost := errors.New("the lease was lost")
	var ended time.Time
	_, err := catchup.Run(ctx, p, catchup.RunOptions{Repo: l.repo, RestoreCommand: "x", Progress: func(p catchup.Progress) {
		if p.Phase == catchup.PhaseFiles && ended.IsZero() {
			ended = time.Now()
			cancel(lost)
		}
	}})
	if !errors.Is(err, lost) && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(ended); took > 10*time.Second {
		t.Errorf("it went on for %s", took)
	}
	if _, err := os.Stat(filepath.Join(dir, pg.ControlPath)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pg_control is there: %v", err)
	}
	got := l.gather(t, catchup.GatherOptions{Purpose: catchup.Restore, Dir: dir})
	if got.Dir.State != catchup.DirUnfinished || got.Dir.Backup != p.Backup.ID {
		t.Errorf("it left %+v", got.Dir)
	}
	if r := l.run(t, l.plan(t, catchup.GatherOptions{Purpose: catchup.Restore, Dir: dir})); r.Rung != catchup.FullRestore {
		t.Errorf("then %+v", r)
	}
}

// TestAFlippedBitNeverReachesTheDirectory damages the packs one bit at a time.
func TestAFlippedBitNeverReachesTheDirectory(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	b := l.backup(t, l.primary)
	l.archived(t)
	packs, err := filepath.Glob(filepath.Join(l.store, "*", "*", "*", b.ID.String(), "*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("no packs: %v", err)
	}
	good, _ := l.restore(t, catchup.GatherOptions{})
	want := tree(t, child{Dir: good})
	random := rand.New(rand.NewPCG(1, 2))
	noticed := 0
	const flips = 12
	for range flips {
		name := packs[random.IntN(len(packs))]
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := random.IntN(len(content))
		flip := func() {
			content[at] ^= 1 << (at % 8)
			if err := os.WriteFile(name, content, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		flip()
		dir := filepath.Join(pgtest.Dir(t), "data")
		p := l.plan(t, catchup.GatherOptions{Purpose: catchup.Restore, Dir: dir})
		_, err = catchup.Run(t.Context(), p, catchup.RunOptions{Repo: l.repo, RestoreCommand: l.restoreCommand(1)})
		flip() // back
		switch {
		case err == nil:
			// The bit is of a part that a restore does not read, such as an index.
			if diff := cmp.Diff(want, tree(t, child{Dir: dir})); diff != "" {
				t.Fatalf("byte %d of %s: %s", at, name, diff)
			}
			continue
		case !errors.Is(err, repo.ErrCorrupt):
			t.Errorf("byte %d of %s: %v", at, name, err)
		}
		noticed++
		if _, err := os.Stat(filepath.Join(dir, pg.ControlPath)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("pg_control is there: %v", err)
		}
	}
	if noticed < flips/2 {
		t.Errorf("%d of %d flips were noticed", noticed, flips)
	}
}

// TestAnotherBackupServesWhereTheNewestIsDamaged: create-replica does not give
// up for one lost object.
func TestAnotherBackupServesWhereTheNewestIsDamaged(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	l.primary.Exec(t, "CREATE TABLE t AS SELECT 1 AS i")
	l.backup(t, l.primary)
	newest := l.backup(t, l.primary)
	l.archived(t)
	packs, err := filepath.Glob(filepath.Join(l.store, "*", "*", "*", newest.ID.String(), "*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("no packs: %v", err)
	}
	for _, p := range packs {
		if strings.Contains(p, fmt.Sprintf("%cpack%c", filepath.Separator, filepath.Separator)) {
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := pgtest.Dir(t)
	if err := l.createReplica(t, dir, "replica could not be made, trying again"); err != nil {
		t.Fatal(err)
	}
	c := l.follow(t, dir, nil)
	if got := c.Value(t, "SELECT i FROM t"); got != "1" {
		t.Errorf("holds %s", got)
	}
}
