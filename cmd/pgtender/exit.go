package main

import (
	"errors"
	"fmt"
	"strings"
)

// The exit codes, the same for every command but archive-get (see its help):
// PostgreSQL and Patroni act on them.
const (
	exitOK     = 0 // done, or nothing to do
	exitFailed = 1 // failed, refused, or a check found something that would fail
	exitUsage  = 2 // wrong usage or configuration; nothing was tried

	// archive-get only. Recovery stops at a status above 125 (RestoreArchivedFile
	// in PostgreSQL's xlogarchive.c), and takes any other for "not there". 126
	// and 127 would do, but PostgreSQL explains them as a shell's.
	exitStop   = 255
	exitSignal = 128 // plus the signal's number
)

const exitHelp = `Exit status:
  0  done, or nothing to do
  1  failed or refused; the message says what happened and what to do now
  2  wrong usage or configuration; nothing was tried`

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

// exitCode is the one place that maps an error to an exit status.
func exitCode(err error) int {
	var chosen exitError
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &chosen):
		return chosen.code
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailed
}

// message renders an error for a person: each joined error on a line of its
// own, and every hint found in the chain below.
func message(err error) string {
	var chosen exitError
	if errors.As(err, &chosen) && chosen.err == nil {
		return ""
	}
	lines := []string{"error: " + strings.ReplaceAll(err.Error(), "\n", "\n       ")}
	for _, h := range hints(err) {
		lines = append(lines, "hint: "+h)
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
