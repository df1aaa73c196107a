package catchup

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// directFlag opens a file past the page cache: a restore writes each byte once
// and reads none back, and the cache would cost a copy and push out what
// others use.
const directFlag = unix.O_DIRECT

// startWriteBack has the kernel begin to write out a file, so that the sync that
// comes later finds most of it done. It says nothing of how that goes: the sync
// does.
func startWriteBack(f *os.File) {
	c, err := f.SyscallConn()
	if err != nil {
		return
	}
	c.Control(func(fd uintptr) { unix.SyncFileRange(int(fd), 0, 0, unix.SYNC_FILE_RANGE_WRITE) })
}

// reserve asks for the file's blocks at once, which keeps it in one piece and
// finds a full disk early. It leaves a file of that size. A file system that
// cannot reserve is asked for nothing more than the size.
func reserve(f *os.File, size int64) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = c.Control(func(fd uintptr) {
		for result = unix.EINTR; errors.Is(result, unix.EINTR); {
			result = unix.Fallocate(int(fd), 0, 0, size)
		}
	})
	switch {
	case err != nil:
		return err
	case errors.Is(result, syscall.EOPNOTSUPP) || errors.Is(result, syscall.ENOSYS):
		return f.Truncate(size)
	case result != nil:
		return fmt.Errorf("reserve %d bytes: %w", size, result)
	}
	return nil
}
