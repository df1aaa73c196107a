package pg

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Postmaster is the content of postmaster.pid (miscadmin.h lists its lines).
// A server writes the first lines at once and the rest while it starts, so the
// later fields may be unset.
type Postmaster struct {
	PID        int  // of the server
	Standalone bool // a single-user backend, not a postmaster
	DataDir    string
	Start      time.Time // whole seconds
	Port       int
	SocketDir  string
	Listen     string // the first address it listens on
	Status     string // starting, stopping, ready or standby
}

// ParsePostmaster parses the content of postmaster.pid.
func ParsePostmaster(content []byte) (Postmaster, error) {
	lines := strings.Split(string(content), "\n")
	line := func(n int) string {
		if n < len(lines) {
			return lines[n]
		}
		return ""
	}
	pid, err := strconv.ParseInt(strings.TrimSpace(line(0)), 10, 32)
	if err != nil || pid == 0 || pid < -1<<30 {
		return Postmaster{}, fmt.Errorf("parse postmaster.pid: %.40q is not a process id", line(0))
	}
	p := Postmaster{PID: int(pid), DataDir: line(1), SocketDir: line(4), Listen: line(5), Status: strings.TrimSpace(line(7))}
	if pid < 0 {
		p.PID, p.Standalone = int(-pid), true
	}
	if line(2) != "" {
		seconds, err := strconv.ParseInt(line(2), 10, 64)
		if err != nil {
			return Postmaster{}, fmt.Errorf("parse postmaster.pid: %.40q is not a start time", line(2))
		}
		p.Start = time.Unix(seconds, 0).UTC()
	}
	if line(3) != "" {
		if p.Port, err = strconv.Atoi(line(3)); err != nil || p.Port < 0 || p.Port > 65535 {
			return Postmaster{}, fmt.Errorf("parse postmaster.pid: %.40q is not a port", line(3))
		}
	}
	return p, nil
}
