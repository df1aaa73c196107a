// Package early has an archive-push that the agent answers end before the rest of
// the program is initialised, which takes ten times as long as the answer. See
// backup/archive/agent/early for what is asked, and for why an answer may be
// believed.
//
// Go initialises packages whose imports are ready in the order of their paths. This
// one imports next to nothing, so that it comes in the first millisecond: a package
// of main's own could not, as main is initialised last. The price is an init that
// speaks to a socket and may end the process. It does so for nothing but the command
// line of an archive-push beside whose segment an agent left its hint, and only when
// the agent says that the segment is archived; in all other cases main runs, and
// asks or works as it always does.
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
