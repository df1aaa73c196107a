package archive

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/pgtender/pgtender/internal/filelock"
)

// lock takes the spool for one Prefetch, or reports that another has it.
func (s Spool) lock() (release func(), ok bool) {
	f, err := filelock.Open(s.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false
	}
	return func() { f.Close() }, true
}

// roomy reports whether the file system has twice as much room as may be
// fetched ahead: the server must not run out of it for our sake.
func (s Spool) roomy(bytes int64) bool {
	var fs unix.Statfs_t
	return unix.Statfs(s.dir, &fs) == nil && int64(fs.Bavail)*int64(fs.Bsize) > 2*bytes
}
