// Command pgtender backs up, bootstraps and catches up PostgreSQL clusters
// that are run by Patroni.
//
// This package is the composition root: one small file per command with its
// flags, wiring and output, the one table of exit codes, and nothing that a
// library could own.
package main

import (
	"context"
	"os"
	"runtime/debug"
	"syscall"

	_ "github.com/pgtender/pgtender/cmd/pgtender/early" // asks the agent before Go begins
	"github.com/pgtender/pgtender/internal/quit"
)

func main() { os.Exit(process(run)) }

// program is what a process runs: it returns the exit status.
type program func(ctx context.Context, args, environ []string, s streams) int

// process runs p as this process: with the process's arguments and streams,
// until it ends or a signal asks it to.
func process(p program) int {
	// A panic exits with 2 by default, which PostgreSQL would read from a
	// restore_command as "not in the archive" and end recovery early. As a
	// signal it stops recovery instead.
	debug.SetTraceback("crash")
	ctx, stop := notify(context.Background())
	defer stop()
	return p(ctx, os.Args[1:], os.Environ(), streams{in: os.Stdin, out: os.Stdout, err: os.Stderr})
}

// signalled is the cause of a context that a signal ended.
type signalled struct{ sig syscall.Signal }

func (s signalled) Error() string { return "received signal " + s.sig.String() }

// notify returns a context that ends with the first signal asking us to stop,
// whose cause names it. A second signal finds the default action restored and
// ends the process at once.
func notify(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := quit.Notify(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	end := func(s os.Signal) {
		quit.Stop()
		cancel(signalled{s.(syscall.Signal)})
	}
	select {
	case s := <-signals: // it came before us
		end(s)
	default:
		go func() {
			select {
			case s := <-signals:
				end(s)
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() { quit.Stop(); cancel(nil) }
}
