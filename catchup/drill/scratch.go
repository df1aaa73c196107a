package drill

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pgtender/pgtender/internal/filelock"
)

// scratchPattern is that of the directories in which backups are tried.
const scratchPattern = "pgtender-drill-*"

// lockName is the file in one of them whose lock says that it is in use. The
// server has the lock too: it ends with the last process that does.
const lockName = "lock"

// makeScratch makes a directory for a drill, with its lock.
func makeScratch(parent string) (dir string, lock *os.File, err error) {
	for {
		if dir, err = os.MkdirTemp(parent, scratchPattern); err != nil {
			return "", nil, fmt.Errorf("make a scratch directory: %w", err)
		}
		lock, err = filelock.Open(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
		switch {
		case errors.Is(err, filelock.ErrHeld):
			// Another drill was faster and takes it for one that was left behind.
		case err != nil:
			return "", nil, errors.Join(fmt.Errorf("lock the scratch directory: %w", err), os.RemoveAll(dir))
		default:
			return dir, lock, nil
		}
	}
}

// removeDead removes what drills have left behind that were killed: each is a
// copy of a whole cluster. What belongs to others, or is in use, stays. That
// something cannot be removed keeps nobody from a drill.
func removeDead(parent string, owner *owner, log *slog.Logger) {
	found, err := filepath.Glob(filepath.Join(parent, scratchPattern))
	if err != nil {
		return // the pattern is sound
	}
	for _, dir := range found {
		if !ours(dir, owner) {
			continue
		}
		lock, err := filelock.Open(filepath.Join(dir, lockName), os.O_RDWR|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue // in use, or just being made or removed
		}
		log.Info("removing what a drill has left behind that was killed", "directory", dir)
		if err := errors.Join(os.RemoveAll(dir), lock.Close()); err != nil {
			log.Warn("what a drill has left behind cannot be removed", "directory", dir, "error", err)
		}
	}
}

// ours reports whether a path is a directory of this process's user, or of the
// one who runs the server.
func ours(path string, owner *owner) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && (int(s.Uid) == os.Geteuid() || owner != nil && int(s.Uid) == owner.uid)
}
