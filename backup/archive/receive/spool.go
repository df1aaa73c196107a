package receive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgtender/pgtender/internal/filelock"
)

const (
	spoolPrefix = "pgtender-receive-"
	spoolLock   = "lock"
)

// spool makes a directory of its own below dir, and removes what killed
// receivers left there. remove ends it.
func spool(dir string) (path string, remove func(), err error) {
	if dir == "" {
		dir = os.TempDir()
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return "", nil, fmt.Errorf("spool: %w", err)
	}
	for _, e := range left {
		if !strings.HasPrefix(e.Name(), spoolPrefix) {
			continue
		}
		old := filepath.Join(dir, e.Name())
		if lock, err := lockSpool(old, os.O_RDWR); err == nil {
			os.RemoveAll(old) // what cannot be removed is somebody else's
			lock.Close()
		}
	}
	path, err = os.MkdirTemp(dir, spoolPrefix)
	if err != nil {
		return "", nil, fmt.Errorf("spool: %w", err)
	}
	lock, err := lockSpool(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("spool: %w", err), os.RemoveAll(path))
	}
	return path, func() {
		os.RemoveAll(path) // what stays, the next one removes
		lock.Close()
	}, nil
}

// lockSpool takes the lock of a spool.
func lockSpool(path string, flags int) (*os.File, error) {
	return filelock.Open(filepath.Join(path, spoolLock), flags|unix.O_NOFOLLOW, 0o600)
}
