package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/agent/early"
)

// LeaveHint tells those who ask early where the agent is, by a file in dir. One that
// was there before is replaced. It is not synced: after a crash an agent leaves a new
// one. withdraw removes it if it is still this one.
func LeaveHint(dir string, h early.Hint) (withdraw func() error, err error) {
	content, ok := h.Encode()
	if !ok {
		return nil, errors.New("a path with a line break is none that can be left as a hint")
	}
	path := filepath.Join(dir, early.HintFile)
	withdraw = func() error {
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, content) {
			return nil // there is none, or it is another agent's
		}
		return os.Remove(path)
	}
	return withdraw, archive.ReplaceHint(path, content)
}
