package early

import (
	"errors"
	"os"
)

// Hint is what the agent leaves in its pg_wal for those who ask early. It is a hint:
// who is at the other end of the socket is looked at, and the agent judges the
// question.
type Hint struct {
	Socket string // absolute
	Config string // the configuration file that the agent was started with, absolute
}

const (
	hintFile  = ".pgtender-agent"
	hintMagic = "pgtender-agent 1"
	maxHint   = 16 << 10
)

// Leave writes the hint into walDir. One that was there before is replaced. It is
// not synced: after a crash an agent leaves a new one.
func (h Hint) Leave(walDir string) error {
	if contains(h.Socket+h.Config, '\n') {
		return errors.New("a path with a line break is none that can be left as a hint")
	}
	path := walDir + "/" + hintFile
	f, err := os.CreateTemp(walDir, hintFile+".*.pgtender-tmp") // which is swept
	if err != nil {
		return err
	}
	_, err = f.WriteString(h.text())
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Withdraw removes the hint if it is still this one.
func (h Hint) Withdraw(walDir string) error {
	path := walDir + "/" + hintFile
	if b, err := os.ReadFile(path); err != nil || string(b) != h.text() {
		return nil // there is none, or it is another agent's
	}
	return os.Remove(path)
}

func (h Hint) text() string { return hintMagic + "\n" + h.Socket + "\n" + h.Config + "\n" }

// parseHint is the inverse of text.
func parseHint(b []byte) (Hint, bool) {
	lines := split(string(b), '\n')
	if len(lines) != 4 || lines[0] != hintMagic || lines[3] != "" || lines[1] == "" || lines[2] == "" {
		return Hint{}, false
	}
	return Hint{lines[1], lines[2]}, true
}
