package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
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

// serverInOut is that of the source's server.
func (m *machine) serverInOut() (inOut, error) {
	if m.server == nil {
		return inOut{}, nil
	}
	return inOutOf(strconv.Itoa(m.server.pid()))
}
