package archive

import (
	"os"

	"golang.org/x/sys/unix"
)

// lock takes the spool for one Prefetch, or reports that another has it. It ends
// with the process.
func (s Spool) lock() (release func(), ok bool) {
	f, err := os.OpenFile(s.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, false
	}
	return func() { f.Close() }, true
}
