package catchup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/pgtender/pgtender/internal/durable"
	"github.com/pgtender/pgtender/internal/filelock"
	"github.com/pgtender/pgtender/internal/finding"
)

// ErrLocked means that another run works on the directory.
var ErrLocked = errors.New("another restore works on the directory")

// lock keeps other runs out of a directory.
type lock struct {
	dir  string
	file *os.File
}

// acquire takes the lock of dir, which it makes if it is missing.
func acquire(dir string) (*lock, error) {
	files := durable.FS{}
	if err := files.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if err := files.MkdirAll(workPath(dir), 0o700); err != nil {
		return nil, fmt.Errorf("make work directory: %w", err)
	}
	name := workPath(dir, lockName)
	for {
		f, err := filelock.Open(name, os.O_RDWR|os.O_CREATE, 0o600)
		switch {
		case errors.Is(err, filelock.ErrHeld):
			return nil, finding.WithHint(fmt.Errorf("%s: %w", dir, ErrLocked), "wait until it ends, or stop it; fuser %s shows the process", name)
		case err != nil:
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		l := &lock{dir: dir, file: f}
		if l.held() == nil {
			return l, nil
		}
		f.Close()
		// The file was removed between open and lock, by a run that has ended:
		// what is locked is nobody's lock any more.
	}
}

// errTaken means that the directory was removed under the run. Patroni does so
// before it starts another run, when it did not see this one.
var errTaken = errors.New("the directory was removed or replaced while it was being restored")

// held reports an error unless the lock's file is still the one in the
// directory.
func (l *lock) held() error {
	mine, err := l.file.Stat()
	if err != nil {
		return fmt.Errorf("look at lock: %w", err)
	}
	now, err := os.Stat(workPath(l.dir, lockName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, now) {
		return fmt.Errorf("%s: %w", l.dir, errTaken)
	}
	if err != nil {
		return fmt.Errorf("look at lock: %w", err)
	}
	return nil
}

// release gives the lock up. The file goes first: who opened it before gets a
// lock that acquire finds to be nobody's.
func (l *lock) release() error {
	var err error
	if l.held() == nil {
		err = os.Remove(workPath(l.dir, lockName))
	}
	return errors.Join(err, l.file.Close())
}
