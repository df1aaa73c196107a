package servertest

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	inMemory = "/dev/shm"
	// scratchRoom is more than all tests have in their folders at once; a cluster of
	// three takes some 700 MB.
	scratchRoom = 6 << 30
)

// Scratch is the folder in which tests make those of their servers: in memory, if
// there is room to spare. Tests make and remove data directories of a thousand
// files all the time, and ext4 looks at every file that was removed of late
// before it makes a new one (recently_deleted, fs/ext4/ialloc.c). TMPDIR, if it is
// set, has the last word, and a soak runs on disk: it needs more room, and tries
// the file system, too.
func Scratch() string {
	if os.Getenv("TMPDIR") != "" || os.Getenv("PGTENDER_SOAK") != "" || !roomInMemory() {
		return os.TempDir()
	}
	return inMemory
}

// roomInMemory reports whether programs may run from /dev/shm, which many
// containers forbid, and whether it and the machine have the room.
func roomInMemory() bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(inMemory, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || fs.Flags&unix.ST_NOEXEC != 0 {
		return false
	}
	return int64(fs.Bavail)*fs.Bsize >= scratchRoom && memoryAvailable() >= scratchRoom
}

// memoryAvailable gives bytes, 0 if they are not known.
func memoryAvailable() int64 {
	content, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}
