package early

import "strings"

// Hint is what the agent leaves in its pg_wal for those who ask early. It is a hint:
// who is at the other end of the socket is looked at, and the agent judges the
// question.
type Hint struct {
	Socket string // absolute, or one without a file: "@" and a name
	Config string // the configuration file that the agent was started with, absolute
}

// HintFile is its name. Where there is no agent, what fetches ahead of a recovering
// server answers for it, and leaves its hint in the spool.
const (
	HintFile  = ".pgtender-agent"
	SpoolHint = ".pgtender-spool/" + HintFile
)

// Encode gives the file's content; false: a path with a line break is none that can
// be told. A command reads at most 16 KiB.
func (h Hint) Encode() ([]byte, bool) {
	return []byte("pgtender-agent 1\n" + h.Socket + "\n" + h.Config + "\n"), !strings.Contains(h.Socket+h.Config, "\n")
}
