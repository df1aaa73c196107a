package archive

import (
	"os"
	"syscall"
	"time"
)

// inode gives device and inode of a file, and when its inode last changed: at
// a rename, which is how PostgreSQL recycles a segment, if not before.
func inode(info os.FileInfo) (sys any, changed time.Time) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, time.Time{}
	}
	return [2]uint64{uint64(s.Dev), s.Ino}, time.Unix(s.Ctim.Unix())
}
