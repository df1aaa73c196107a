// Package quit catches SIGQUIT from the first moment of a process on.
//
// An immediate shutdown of PostgreSQL sends SIGQUIT to the archive_command or
// restore_command that runs (postmaster.c, signal_child), while the server
// process that waits for it ignores the signal (system(3) does so) and judges
// by the command's end alone. By default a Go program prints its stacks and
// exits with 2, which from a restore_command means "not in the archive":
// recovery would end there, and the server promote. Catching the signal in main
// is too late, for initialising what a program imports takes most of its
// start, a tenth of a second on a busy machine.
//
// So this package catches it when it is itself initialised. It imports next to
// nothing, which is why that comes early, in the first milliseconds: Go
// initialises packages whose imports are ready in the order of their paths.
package quit

import (
	"os"
	"os/signal"
	"syscall"
)

var signals = make(chan os.Signal, 1)

func init() { signal.Notify(signals, syscall.SIGQUIT) }

// Notify gives the channel that a SIGQUIT since the start of the process is
// waiting in, and has the given signals sent to it too. It holds one: the first
// to come.
func Notify(also ...os.Signal) <-chan os.Signal {
	signal.Notify(signals, also...)
	return signals
}

// Stop restores the default action of all signals that [Notify] was given, and
// of SIGQUIT.
func Stop() { signal.Stop(signals) }
