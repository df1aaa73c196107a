// Command demo shows pgtender at its main job on a real cluster: three
// PostgreSQL servers run by Patroni, with etcd, on loopback ports and in a
// folder of their own. It backs the cluster up from the synchronous standby,
// kills the leader, rebuilds the lost member from the repository, compares the
// data, and says in plain words what happened, with every command it ran and
// what that printed.
//
//	make demo            asks before it installs anything
//	make demo YES=1      does not ask
//	make demo KEEP=1     leaves the cluster running at the end, until Ctrl-C
//
// It ends all that it started, on Ctrl-C and on failure too; a failed run
// leaves its folder, for the logs. No system service is touched.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// Exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2   // also: the user did not agree to the installation
	exitInterrupted = 130 // 128 + SIGINT, as a shell counts it
)

// timeLimit ends a demo that hangs; it takes about a minute and a half.
const timeLimit = 10 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	if len(args) > 0 {
		fmt.Fprintln(errOut, "usage: make demo [YES=1] [KEEP=1]")
		return exitUsage
	}
	if err := setup(ctx, os.Getenv("YES") != "", out, errOut); err != nil {
		if ctx.Err() != nil {
			return exitInterrupted
		}
		fmt.Fprintf(errOut, "\nThe demo needs what is listed above: %v\n", err)
		return exitUsage
	}
	tool, err := filepath.Abs(filepath.Join("bin", "pgtender"))
	if err == nil {
		_, err = os.Stat(tool)
	}
	if err != nil {
		fmt.Fprintf(errOut, "error: find the program to show: %v\nhint: run make demo in the project's folder, which builds it\n", err)
		return exitUsage
	}
	return play(ctx, options{tool: tool, keep: os.Getenv("KEEP") != ""}, out, errOut)
}

// setup lists what is missing on the machine, asks, and installs it.
func setup(ctx context.Context, yes bool, out, errOut io.Writer) error {
	args := []string{"run", "./e2e/setup"}
	if yes {
		args = append(args, "--yes")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "demo")...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, out, errOut
	// A Ctrl-C reaches setup by the terminal: give it time to clean up.
	cmd.Cancel = func() error { return nil }
	cmd.WaitDelay = 15 * time.Second
	return cmd.Run()
}

// play runs the tour and cleans up after it.
func play(ctx context.Context, o options, out, errOut io.Writer) int {
	limited, cancel := context.WithTimeoutCause(ctx, timeLimit, fmt.Errorf("the demo took more than %s", timeLimit))
	defer cancel()
	t, err := newTour(o, out)
	if err == nil {
		err = t.run(limited)
	}
	if err == nil && o.keep {
		t.visit(ctx)
	}
	err = errors.Join(err, t.close())
	switch {
	case ctx.Err() != nil && (err != nil || !t.finished):
		fmt.Fprintf(errOut, "\ninterrupted; everything the demo started has been stopped\n")
		t.removeFolder(errOut)
		return exitInterrupted
	case err != nil:
		fmt.Fprintf(errOut, "\nerror: %v\n\nThe demo failed; everything it started has been stopped.\nlogs: %s\n", err, filepath.Join(t.dir, "*.log"))
		return exitFailed
	}
	t.removeFolder(errOut)
	t.say("\nEverything the demo started has been stopped, and %s is removed.", t.dir)
	return exitDone
}
