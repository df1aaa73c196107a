package servertest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// SharedMemory is the System V segment of a PostgreSQL server. A killed server
// leaves it behind until the next start in its data directory, and the kernel
// has a few thousand for the whole machine (kernel.shmmni).
type SharedMemory struct{ key, id int }

// SharedMemoryOf reads which one a server has from the seventh line of
// postmaster.pid (pidfile.h). The zero value stands for none.
func SharedMemoryOf(dataDir string) SharedMemory {
	var m SharedMemory
	content, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return m
	}
	if lines := strings.Split(string(content), "\n"); len(lines) > 6 {
		if n, _ := fmt.Sscan(lines[6], &m.key, &m.id); n < 2 {
			return SharedMemory{}
		}
	}
	return m
}
