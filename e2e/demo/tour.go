package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"time"

	"github.com/pgtender/pgtender/e2e/lab"
)

// options are what the caller chose.
type options struct {
	tool string // the built pgtender
	keep bool
}

// tour is one run of the demo. One goroutine.
type tour struct {
	narrator
	options
	dir      string
	tool     string // the copy of the program that everything runs
	finished bool

	cluster *lab.Cluster
	leader  *lab.Node // as of the last step
	standby *lab.Node // the synchronous one at the time of the backup
	lost    *lab.Node // the leader that was killed
	marker  string    // what was written last before it was killed

	// For the summary.
	backupTook, failoverTook, rebuildTook time.Duration
}

// newTour makes the folder. It lies in /var/tmp, not in /tmp, which may be
// memory.
func newTour(o options, out io.Writer) (*tour, error) {
	dir, err := os.MkdirTemp("/var/tmp", "pgtender-demo-")
	t := &tour{narrator: narrator{out: out, began: time.Now()}, options: o, dir: dir}
	t.tool = filepath.Join(dir, "sbin", "pgtender")
	return t, err
}

// run plays all steps.
func (t *tour) run(ctx context.Context) error {
	for _, step := range []struct {
		title string
		play  func(context.Context) error
	}{
		{"A cluster", t.startCluster},
		{"Some data", t.writeData},
		{"Who would be backed up?", t.showTopology},
		{"A backup that leaves the primary alone", t.backUp},
		{"The leader dies", t.killLeader},
		{"The lost member comes back from the repository", t.rebuild},
		{"Is it the same data?", t.compare},
		{"What the repository holds now", t.showRepository},
	} {
		t.heading(step.title)
		if err := step.play(ctx); err != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
				err = fmt.Errorf("%w (%w)", err, cause)
			}
			return fmt.Errorf("step %d, %q: %w", t.step, step.title, err)
		}
	}
	t.summary()
	t.finished = true
	return nil
}

func (t *tour) summary() {
	t.say(`
=== Done in %s

The backup took %s and came from the synchronous standby; the primary's tables were not read.
The leader was killed, and %s later the cluster took writes again. The lost member was rebuilt
from the repository in %s, again without reading the primary's tables. No row is missing.

To go on:
  make demo KEEP=1      the same, but the cluster keeps running for you to try commands on
  README.md             "Setting it up": two lines of configuration, and what to put into patroni.yml
  docs/operations.md    what to type when a failover just happened`,
		seconds(time.Since(t.began)), seconds(t.backupTook), seconds(t.failoverTook), seconds(t.rebuildTook))
}

// visit leaves the cluster running for a while.
func (t *tour) visit(ctx context.Context) {
	become := ""
	if os.Getuid() == 0 {
		become = "su postgres -s /bin/sh\n  "
	}
	t.say(`
The cluster keeps running, for you to look around in another terminal:

  %scd %s
  . ./env.sh
  patronictl -c pg1/patroni.yml list
  pgtender -c pg1/pgtender.yml info

Press Ctrl-C here to stop it and remove that folder.`, become, t.dir)
	<-ctx.Done()
}

// close stops everything.
func (t *tour) close() error {
	if t.cluster == nil {
		return nil
	}
	return t.cluster.Close()
}

// removeFolder removes what a run leaves.
func (t *tour) removeFolder(errOut io.Writer) {
	if t.dir == "" {
		return
	}
	if err := os.RemoveAll(t.dir); err != nil {
		fmt.Fprintf(errOut, "error: remove %s: %v\n", t.dir, err)
	}
}

// serversUser is the account the servers and all commands run as.
func serversUser() string {
	if os.Getuid() == 0 {
		return "postgres"
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "you"
}
