package agent

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

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

// KeepHint leaves a hint in a pg_wal, sees to it every so often that it is there, and
// withdraws it when ctx ends: the member may be made, or made anew, while the agent
// runs. Without a hint commands ask in another way, so that nothing fails.
func KeepHint(ctx context.Context, walDir string, h early.Hint, every time.Duration, log *slog.Logger) {
	withdraw, said := func() error { return nil }, false
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if !isLeft(walDir, h) {
			remove, err := LeaveHint(walDir, h)
			switch {
			case err == nil:
				withdraw, said = remove, false
			case !errors.Is(err, fs.ErrNotExist) && !said:
				said = true
				log.WarnContext(ctx, "commands cannot be told where the agent is, and take longer to ask", "pg_wal", walDir, "error", err)
			}
		}
		select {
		case <-ticker.C:
			continue
		case <-ctx.Done():
		}
		if err := withdraw(); err != nil {
			log.WarnContext(ctx, "the file that tells where the agent is stays behind, which does no harm", "pg_wal", walDir, "error", err)
		}
		return
	}
}

// isLeft reports whether dir has this very hint.
func isLeft(dir string, h early.Hint) bool {
	content, ok := h.Encode()
	there, err := os.ReadFile(filepath.Join(dir, early.HintFile))
	return ok && err == nil && bytes.Equal(there, content)
}
