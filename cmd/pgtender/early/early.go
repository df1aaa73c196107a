// Package early has an archive-push or archive-get that the agent answers end before
// the rest of the program is initialised, which takes ten times as long as the answer.
// See backup/archive/agent/early for what is asked, and for why an answer may be
// believed.
//
// Go initialises packages whose imports are ready in the order of their paths. This
// one imports next to nothing, so that it comes in the first millisecond: a package
// of main's own could not, as main is initialised last. The price is an init that
// speaks to a socket and may end the process. It does so for nothing but the command
// line of an archive-push, or of a recovering server's archive-get, beside whose segment
// an agent, or what fetches ahead, left its hint, and only with success: when the agent says that the segment is
// archived, or has handed over a verified one that now lies where it was to be put. In
// all other cases main runs, asks or works as it always does, and alone decides on the
// exit status. That matters most for archive-get: by it recovery tells an archive that
// ends from one that does not answer.
package early

import (
	"os"

	"github.com/pgtender/pgtender/backup/archive/agent/early"
	"github.com/pgtender/pgtender/internal/quit"
)

func init() {
	if log, done := early.Ask(os.Args[1:], os.Environ(), quit.Came); done {
		os.Stderr.WriteString(log) // the agent wrote it as the command would have
		os.Exit(0)
	}
}
