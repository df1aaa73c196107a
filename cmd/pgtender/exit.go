package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The exit codes, the same for every command but archive-get (see its help):
// PostgreSQL and Patroni act on them.
const (
	exitOK     = 0 // done, or nothing to do
	exitFailed = 1 // failed, refused, or a check found something that would fail
	exitUsage  = 2 // wrong usage or configuration; nothing was tried

	// exitSignal, plus the signal's number, is that of a command which a signal
	// ended, as shells count it. PostgreSQL tells by it a command that was
	// stopped along with the server from one that failed (shell_archive_file in
	// shell_archive.c, RestoreArchivedFile in xlogarchive.c, which also takes any
	// status up to 125 for "not there").
	exitSignal = 128

	// exitStop is archive-get's alone, for all that is neither success nor
	// proved absence: recovery stops at it. 126 and 127 would do, but PostgreSQL
	// explains them as a shell's.
	exitStop = 255
)

const exitHelp = `Exit status:
  0  done, or nothing to do
  1  failed or refused; the message says what happened and what to do now
  2  wrong usage or configuration; nothing was tried
Ended by a signal: 128 and its number`

// usageError marks an error as the caller's: flags, arguments, configuration.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitError is returned by a command that chose its exit code itself.
type exitError struct {
	err  error // nil: nothing more to print
	code int
}

func (e exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}
func (e exitError) Unwrap() error { return e.err }

// exitCode is the one place that maps the error of a command, which ran under
// ctx, to an exit status.
func exitCode(ctx context.Context, err error) int {
	var signal signalled
	var chosen exitError
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(context.Cause(ctx), &signal):
		return exitSignal + int(signal.sig)
	case errors.As(err, &chosen):
		return chosen.code
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailed
}

// message renders an error for a person: each joined error on a line of its
// own, and every hint found in the chain below, once.
func message(err error) string {
	var chosen exitError
	if errors.As(err, &chosen) && chosen.err == nil {
		return ""
	}
	lines := []string{"error: " + strings.ReplaceAll(err.Error(), "\n", "\n       ")}
	for _, h := range hints(err) {
		if line := "hint: " + h; !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// hints collects the advice of every error in the tree that has some; any
// package's error may implement Hint.
func hints(err error) []string {
	if err == nil {
		return nil
	}
	var out []string
	if h, ok := err.(interface{ Hint() string }); ok && h.Hint() != "" {
		out = append(out, h.Hint())
	}
	switch u := err.(type) {
	case interface{ Unwrap() error }:
		out = append(out, hints(u.Unwrap())...)
	case interface{ Unwrap() []error }:
		for _, e := range u.Unwrap() {
			out = append(out, hints(e)...)
		}
	}
	return out
}
