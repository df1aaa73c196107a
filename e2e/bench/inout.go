package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// inOut is what a process and all of its children that have ended have read and
// written, by system calls, whether or not a disk had to move (proc(5), /proc/PID/io;
// the kernel adds an ended child's to its parent's).
type inOut struct{ read, wrote int64 }

func inOutOf(pid string) (inOut, error) {
	text, err := os.ReadFile("/proc/" + pid + "/io")
	if err != nil {
		return inOut{}, fmt.Errorf("read what a process has read: %w", err)
	}
	return parseInOut(string(text))
}

func parseInOut(text string) (io inOut, err error) {
	found := 0
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		to := map[string]*int64{"rchar": &io.read, "wchar": &io.wrote}[name]
		if to == nil {
			continue
		}
		found++
		if *to, err = strconv.ParseInt(value, 10, 64); err != nil {
			return inOut{}, fmt.Errorf("parse /proc/PID/io: %w", err)
		}
	}
	if found != 2 {
		return inOut{}, fmt.Errorf("parse /proc/PID/io %q: rchar or wchar is missing", text)
	}
	return io, nil
}

// sessions gives the processes of the source's server, the postmaster left out.
func (m *machine) sessions() (map[string]bool, error) {
	out := map[string]bool{}
	if m.server == nil {
		return out, nil
	}
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, path := range all {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(stat), ") ") // the name may hold blanks
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(m.server.pid()) {
			out[path] = true
		}
	}
	return out, nil
}

// settleSessions waits until sessions that began since have ended, which is a
// moment after their client: what they took counts with the postmaster then.
func (m *machine) settleSessions(ctx context.Context, before map[string]bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		now, err := m.sessions()
		if err != nil {
			return err
		}
		maps.DeleteFunc(now, func(path string, _ bool) bool { return before[path] })
		if len(now) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of %d sessions: %w", len(now), context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// serverInOut is that of the source's server.
func (m *machine) serverInOut() (inOut, error) {
	if m.server == nil {
		return inOut{}, nil
	}
	return inOutOf(strconv.Itoa(m.server.pid()))
}
