package catchup_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
)

// TestMain makes this program an archive_command, a restore_command and a
// restore that can be killed:
//
//	env CATCHUP_TEST_STORE=DIR CATCHUP_TEST_SYSTEM=ID PROGRAM push %p
//	env CATCHUP_TEST_STORE=DIR CATCHUP_TEST_SYSTEM=ID PROGRAM get %f %p TIMELINE
//	env CATCHUP_TEST_STORE=DIR CATCHUP_TEST_SYSTEM=ID PROGRAM restore OPTIONS
func TestMain(m *testing.M) {
	if dir := os.Getenv("CATCHUP_TEST_STORE"); dir != "" {
		os.Exit(command(context.Background(), dir, os.Args[1:]))
	}
	os.Exit(m.Run())
}

func command(ctx context.Context, dir string, args []string) int {
	r, err := openRepo(ctx, dir, os.Getenv("CATCHUP_TEST_SYSTEM"))
	if err == nil {
		switch args[0] {
		case "push":
			_, err = archive.Push(ctx, r, archive.PushOptions{Path: args[1]})
		case "get":
			err = get(ctx, r, args[1], args[2], args[3])
		case "restore":
			err = childRestore(ctx, r, args[1])
		}
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, archive.ErrAbsent):
		return 1
	}
	fmt.Fprintln(os.Stderr, err)
	if args[0] == "get" {
		return 126
	}
	return 1
}

func get(ctx context.Context, r *repo.Repo, name, dest, timeline string) error {
	var t pg.Timeline
	if _, err := fmt.Sscan(timeline, &t); err != nil {
		return err
	}
	return archive.Get(ctx, r, archive.GetOptions{Name: name, Dest: dest, Lineage: func(ctx context.Context) (archive.Lineage, error) {
		return archive.ResolveLineage(ctx, r, archive.LineageOptions{Timeline: t})
	}})
}

// child is what a restoring child process is told.
type child struct {
	Dir         string
	Purpose     catchup.Purpose
	Target      catchup.Target
	Tablespaces map[string]string
	WALDir      string
	Command     string
	Rung        catchup.RungName
	Leader      *catchup.LeaderFacts
	KillAt      string // the step at which the process kills itself
	KillCount   int    // how often it comes before
}

// killAt ends the process as nothing can catch, after a step.
func killAt(step string, count int) func(string) {
	var mu sync.Mutex
	return func(name string) {
		mu.Lock()
		defer mu.Unlock()
		if name != step {
			return
		}
		if count--; count < 0 {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

func childRestore(ctx context.Context, r *repo.Repo, options string) error {
	var c child
	if err := json.Unmarshal([]byte(options), &c); err != nil {
		return err
	}
	f, err := catchup.Gather(ctx, catchup.GatherOptions{
		Repo: r, Purpose: c.Purpose, Target: c.Target, Dir: c.Dir, Tablespaces: c.Tablespaces, WALDir: c.WALDir, Rung: c.Rung,
		Leader: func(context.Context) (*catchup.LeaderFacts, error) { return c.Leader, nil },
	})
	if err != nil {
		return err
	}
	p, err := catchup.Decide(f)
	if err != nil {
		return err
	}
	o := catchup.RunOptions{Repo: r, RestoreCommand: c.Command, Audit: true}
	o.SetStep(killAt(c.KillAt, c.KillCount))
	_, err = catchup.Run(ctx, p, o)
	return err
}

// openRepo opens a repository that root and the servers' user share.
func openRepo(ctx context.Context, dir, system string) (*repo.Repo, error) {
	id, err := pg.ParseSystemID(system)
	if err != nil {
		return nil, err
	}
	store, err := file.Open(ctx, file.Options{Dir: dir, Create: true, DirMode: 0o777, FileMode: 0o666})
	if err != nil {
		return nil, err
	}
	return repo.Open(store, repo.ClusterID{Scope: "demo", SystemID: id}, repo.Options{}), nil
}
