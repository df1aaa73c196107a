package catchup_test

import (
	"context"
	"encoding/json"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/pgtender/pgtender/backup/archive/archivetest"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/catchup"
)

// TestMain makes this program an archive_command, a restore_command and a
// restore that can be killed: push %p, get %f %p TIMELINE, restore OPTIONS.
func TestMain(m *testing.M) {
	os.Exit(archivetest.Main(m, archivetest.Options{
		More: map[string]func(context.Context, *repo.Repo, []string) error{"restore": childRestore},
	}))
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

func childRestore(ctx context.Context, r *repo.Repo, args []string) error {
	var c child
	if err := json.Unmarshal([]byte(args[0]), &c); err != nil {
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
