package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// job is a program to be run and measured.
type job struct {
	argv []string
	env  []string // added to our own
}

func (j job) String() string { return strings.Join(j.argv, " ") }

// line is a line of a program's output and when it came, counted from the
// program's start.
type line struct {
	at   time.Duration
	text string
}

// usage is what one run of a job took.
type usage struct {
	wall   time.Duration
	cpu    time.Duration // user and system, of the process and its children
	server time.Duration // the same of the server's sessions meanwhile
	rss    int64         // bytes, the peak of the largest process
	io     inOut         // of the process and its children
	served inOut         // of the server's sessions meanwhile
	asked  float64       // requests to a remote server, of a segment
	out    []byte        // standard output
	lines  []line        // of standard output and standard error
}

// outputEnd is how much of a failed program's output is shown.
const outputEnd = 30

// measure runs a job as the servers' user.
func (m *machine) measure(ctx context.Context, j job) (usage, error) {
	cmd := m.command(ctx, j)
	var u usage
	var mu sync.Mutex
	var readers sync.WaitGroup
	begin := time.Now()
	follow := func(r io.Reader, keep *[]byte) {
		defer readers.Done()
		lines := bufio.NewReader(r)
		for {
			text, err := lines.ReadString('\n')
			mu.Lock()
			if text != "" {
				u.lines = append(u.lines, line{time.Since(begin), strings.TrimRight(text, "\n")})
			}
			if keep != nil {
				*keep = append(*keep, text...)
			}
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return u, err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return u, err
	}
	sessions, err := m.sessions()
	if err != nil {
		return u, err
	}
	before, err := m.serverCPU()
	if err != nil {
		return u, err
	}
	own, err := inOutOf("self")
	if err != nil {
		return u, err
	}
	served, err := m.serverInOut()
	if err != nil {
		return u, err
	}
	begin = time.Now()
	if err := cmd.Start(); err != nil {
		return u, fmt.Errorf("start %s: %w", j, err)
	}
	readers.Add(2)
	go follow(stdout, &u.out)
	go follow(stderr, nil)
	readers.Wait()
	err = cmd.Wait()
	u.wall = time.Since(begin)
	if err != nil {
		return u, fmt.Errorf("%s: %w\n%s", j, err, u.end())
	}
	if err := m.settleSessions(ctx, sessions); err != nil {
		return u, err
	}
	after, err := m.serverCPU()
	if err != nil {
		return u, err
	}
	u.server = after - before
	now, err := inOutOf("self")
	if err != nil {
		return u, err
	}
	then, err := m.serverInOut()
	if err != nil {
		return u, err
	}
	u.io = inOut{now.read - own.read, now.wrote - own.wrote}
	u.served = inOut{then.read - served.read, then.wrote - served.wrote}
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	// In KiB (getrusage(2)). A child begins with the memory of its parent, so
	// that nothing below this program's own few MB can be seen.
	u.rss = cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	return u, nil
}

// end gives the last lines of the output.
func (u *usage) end() string {
	var b strings.Builder
	for _, l := range u.lines[max(0, len(u.lines)-outputEnd):] {
		fmt.Fprintf(&b, "  %s\n", l.text)
	}
	return b.String()
}

// between sums up the time from each line with the first text to the next one
// with the second.
func (u *usage) between(from, to string) time.Duration {
	sum, start, open := time.Duration(0), time.Duration(0), false
	for _, l := range u.lines {
		switch {
		case !open && strings.Contains(l.text, from):
			start, open = l.at, true
		case open && strings.Contains(l.text, to):
			sum, open = sum+l.at-start, false
		}
	}
	return sum
}

// command prepares a program that runs as the servers' user, in English and
// UTC, in a process group of its own: an interrupt from the terminal is ours
// to handle. It is killed when ctx ends.
func (m *machine) command(ctx context.Context, j job) *exec.Cmd {
	cmd := exec.CommandContext(ctx, j.argv[0], j.argv[1:]...)
	cmd.Dir = m.dir
	cmd.Env = append(append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC", "HOME="+m.dir), j.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: m.account, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// output runs a program that is not measured and gives its standard output.
func (m *machine) output(ctx context.Context, argv ...string) (string, error) {
	out, err := m.command(ctx, job{argv: argv}).Output()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			return "", fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, exit.Stderr)
		}
		return "", fmt.Errorf("run %s: %w", argv[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}

// ticksPerSecond is USER_HZ, which Linux shows to programs on every platform
// that Go runs on.
const ticksPerSecond = 100

// serverCPU gives the processor time of the postmaster and of all of its
// children that have ended, which a session that served a job has.
func (m *machine) serverCPU() (time.Duration, error) {
	if m.server == nil {
		return 0, nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.server.pid()))
	if err != nil {
		return 0, fmt.Errorf("read the server's processor time: %w", err)
	}
	return parseCPU(string(stat))
}

// parseCPU sums up utime, stime, cutime and cstime of /proc/PID/stat (proc(5)).
func parseCPU(stat string) (time.Duration, error) {
	_, rest, found := strings.Cut(stat, ") ") // the name may hold blanks
	fields := strings.Fields(rest)
	if !found || len(fields) < 15 {
		return 0, fmt.Errorf("parse /proc/PID/stat %q: too short", stat)
	}
	sum := time.Duration(0)
	for _, f := range fields[11:15] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("parse /proc/PID/stat: %w", err)
		}
		sum += time.Duration(ticks) * time.Second / ticksPerSecond
	}
	return sum, nil
}
