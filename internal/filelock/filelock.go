// Package filelock keeps two processes from doing the same thing at the same
// time: a lock on a file, which the kernel gives up when the process ends,
// however it ends. It is of use on one host only.
package filelock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrHeld means that somebody else has the lock.
var ErrHeld = errors.New("somebody else has the lock")

// Open opens a file with the flags and mode of [os.OpenFile] and takes its lock,
// without waiting. The lock ends when the file is closed. A file that has been
// removed or renamed since it was opened can be locked all the same: who removes
// lock files must compare.
func Open(name string, flags int, mode fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flags, mode)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return f, nil
}

func lock(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := conn.Control(func(fd uintptr) { result = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		return err
	}
	if errors.Is(result, unix.EWOULDBLOCK) {
		return ErrHeld
	}
	return result
}
