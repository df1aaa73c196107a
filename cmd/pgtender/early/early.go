// Package early has an archive-push or archive-get that the agent answers end before
// Go is there. See backup/archive/agent/early for what is asked, and for why an answer
// may be believed.
//
// Most of what such a command costs is the start of its own process: the tables of a
// large program, Go's runtime, the initialisation of all that other commands need. That
// is three quarters of its processor time even where a package's init asks, as early as
// Go allows. So this is a constructor in C, which the system's loader calls before Go's
// runtime begins. The price is code in C that speaks to a socket and may end the process.
// It does so for nothing but the command line of an archive-push, or of a recovering
// server's archive-get, beside whose segment an agent, or what fetches ahead, left its
// hint, and only with success: when the agent says that the segment is archived, or has
// handed over a verified one that now lies where it was to be put. In all other cases
// main runs, asks or works as it always does, and alone decides on the exit status. That
// matters most for archive-get: by it recovery tells an archive that ends from one that
// does not answer.
//
// A signal that comes meanwhile ends the process as it ends any other, but for SIGQUIT,
// which would leave a core: the exit status is main's. See internal/quit for why it is
// not left to Go.
//
// Without cgo, and elsewhere than on Linux with glibc, nobody is asked early.
package early
