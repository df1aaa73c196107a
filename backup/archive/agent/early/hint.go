package early

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

const (
	hintMagic = "pgtender-agent 1"
	maxHint   = 16 << 10
)

// Encode gives the file's content; false: a path with a line break is none that can
// be told.
func (h Hint) Encode() ([]byte, bool) {
	return []byte(hintMagic + "\n" + h.Socket + "\n" + h.Config + "\n"), !contains(h.Socket+h.Config, '\n')
}

// parseHint is the inverse of Encode.
func parseHint(b []byte) (Hint, bool) {
	lines := split(string(b), '\n')
	if len(lines) != 4 || lines[0] != hintMagic || lines[3] != "" || lines[1] == "" || lines[2] == "" {
		return Hint{}, false
	}
	return Hint{lines[1], lines[2]}, true
}
