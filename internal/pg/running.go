package pg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Running reports whether a server, or what is left of one, works in the data
// directory, and gives its process id or that of one of its children. It is for refusing to
// touch the directory, so where it cannot tell it says yes, or gives an error.
//
// It does not trust postmaster.pid alone: the file outlives a crash, and its
// process id may be anybody's by then. A server's processes are known by their
// working directory, which is the data directory; so backends that outlived
// their postmaster are seen, and a server whose file was removed. Not seen are
// processes of another machine or another process namespace that share the
// directory.
func Running(dataDir string) (bool, int, error) {
	dir, err := os.Stat(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, 0, nil
	}
	if err != nil {
		return false, 0, fmt.Errorf("look for a server: %w", err)
	}
	pid, err := pidFileOwner(dataDir, dir)
	if err == nil && pid != 0 {
		return true, pid, nil
	}
	left, scanErr := serverIn(dir)
	if left != 0 {
		return true, left, nil
	}
	return false, 0, errors.Join(err, scanErr)
}

// pidFileOwner gives the process that wrote postmaster.pid if it still runs.
func pidFileOwner(dataDir string, dir fs.FileInfo) (int, error) {
	name := filepath.Join(dataDir, "postmaster.pid")
	info, err := os.Stat(name)
	var content []byte
	if err == nil {
		content, err = os.ReadFile(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for a server: %w", err)
	}
	p, err := ParsePostmaster(content)
	if err != nil {
		return 0, fmt.Errorf("%s: %w (hint: remove the file if no server runs in the directory)", name, err)
	}
	if !observe(p.PID, dir).owns(info.ModTime(), bootTime()) {
		return 0, nil
	}
	return p.PID, nil
}

// process is what can be seen of a process from outside.
type process struct {
	alive    bool
	cwd      sameness      // is its working directory the data directory?
	server   sameness      // is it a PostgreSQL program?
	sinceUp  time.Duration // its start, counted from the machine's
	startSet bool
}

type sameness uint8

const (
	unknown sameness = iota
	yes
	no
)

// owns decides whether the process is the one that wrote a pid file which was
// last changed at written, on a machine that was started at boot.
func (p process) owns(written, boot time.Time) bool {
	switch {
	case !p.alive:
		return false
	case p.cwd == yes:
		return true
	case p.cwd == no || p.server == no:
		return false
	case boot.IsZero() || !p.startSet:
		return true
	}
	// The working directory of another user's process cannot be read. A process
	// that began after the file was written did not write it. The kernel's clock
	// of starts drifts from the wall clock, hence the margin.
	const margin = time.Minute
	return boot.Add(p.sinceUp).Before(written.Add(margin))
}

func observe(pid int, dir fs.FileInfo) process {
	err := syscall.Kill(pid, 0)
	p := process{alive: (err == nil || errors.Is(err, syscall.EPERM)) && pid != os.Getpid()}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return p
	}
	name, state, ticks := parseProcStat(string(stat))
	if state == "Z" || state == "X" { // dead, not yet waited for
		p.alive = false
	}
	p.sinceUp, p.startSet = time.Duration(ticks)*(time.Second/100), state != "" // USER_HZ is 100 everywhere
	p.server = no
	if isServerName(name) {
		p.server = yes
	}
	if cwd, err := os.Stat(filepath.Join(proc, "cwd")); err == nil {
		p.cwd = no
		if os.SameFile(cwd, dir) {
			p.cwd = yes
		}
	}
	return p
}

// serverIn looks through all processes for a live server's in dir; 0 if none.
func serverIn(dir fs.FileInfo) (int, error) {
	names, err := os.ReadDir("/proc")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // no Linux: the pid file must do
	}
	if err != nil {
		return 0, fmt.Errorf("look for a server: %w", err)
	}
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil {
			continue
		}
		if p := observe(pid, dir); p.alive && p.server == yes && p.cwd == yes {
			return pid, nil
		}
	}
	return 0, nil
}

// isServerName recognises the program: postgres, postmaster, edb-postgres.
func isServerName(name string) bool {
	return strings.Contains(name, "postgres") || strings.Contains(name, "postmaster")
}

// parseProcStat takes the program's name (cut to 15 bytes by the kernel), the
// state and the start in ticks since boot from /proc/PID/stat (proc(5)). The
// name stands in parentheses and may hold any byte.
func parseProcStat(stat string) (name, state string, ticks int64) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return "", "", 0
	}
	name = stat[open+1 : end]
	fields := strings.Fields(stat[end+1:]) // from the third on
	if len(fields) < 20 {
		return name, "", 0
	}
	ticks, _ = strconv.ParseInt(fields[19], 10, 64)
	return name, fields[0], ticks
}

func bootTime() time.Time {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}
	}
	for line := range strings.Lines(string(stat)) {
		if after, found := strings.CutPrefix(line, "btime "); found {
			seconds, err := strconv.ParseInt(strings.TrimSpace(after), 10, 64)
			if err == nil {
				return time.Unix(seconds, 0)
			}
		}
	}
	return time.Time{}
}
