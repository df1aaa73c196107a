package file

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setDirect turns O_DIRECT of an open file on or off. A file system without it
// refuses (fcntl(2), F_SETFL).
func setDirect(f *os.File, on bool) error {
	return control(f, func(fd uintptr) error {
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err != nil {
			return err
		}
		flags &^= unix.O_DIRECT
		if on {
			flags |= unix.O_DIRECT
		}
		_, err = unix.FcntlInt(fd, unix.F_SETFL, flags)
		return err
	})
}

// adviseSequential asks for more read-ahead. Advice may be ignored, and so is
// its failure.
func adviseSequential(f *os.File, off, n int64) {
	control(f, func(fd uintptr) error { return unix.Fadvise(int(fd), off, n, unix.FADV_SEQUENTIAL) })
}

// adviseDone lets the page cache forget what has been read.
func adviseDone(f *os.File, off, n int64) {
	control(f, func(fd uintptr) error { return unix.Fadvise(int(fd), off, n, unix.FADV_DONTNEED) })
}

func control(f *os.File, do func(fd uintptr) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := c.Control(func(fd uintptr) { result = do(fd) }); err != nil {
		return err
	}
	return result
}

func changeTime(st *syscall.Stat_t) time.Time { return time.Unix(st.Ctim.Unix()) }
