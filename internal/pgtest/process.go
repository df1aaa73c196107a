package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/servertest"
)

// patience is how long a server may take for anything.
const patience = 2 * time.Minute

// Mode is how a server is shut down.
type Mode syscall.Signal

// The modes of pg_ctl stop.
const (
	Smart     = Mode(syscall.SIGTERM) // wait for sessions to end
	Fast      = Mode(syscall.SIGINT)  // end sessions, checkpoint
	Immediate = Mode(syscall.SIGQUIT) // no checkpoint: the next start recovers
)

// process is a running postmaster.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the postmaster has been waited for
}

// Start starts the server and waits until it accepts connections.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	if err := c.TryStart(t); err != nil {
		t.Fatalf("%v\n%s", err, tail(c.Log(), 30))
	}
}

// TryStart is Start for a server that may refuse to: it gives the reason.
func (c *Cluster) TryStart(t testing.TB) error {
	t.Helper()
	c.Launch(t)
	return c.ready()
}

// Launch starts the server and does not wait for anything: a server in
// recovery may take connections late or, having shut down at its recovery
// target, never. See WaitExit.
func (c *Cluster) Launch(t testing.TB) {
	t.Helper()
	if c.Running() {
		t.Fatalf("the server in %s runs already", c.DataDir)
	}
	args := []string{"-D", c.DataDir}
	for k, v := range c.config {
		args = append(args, "-c", k+"="+v)
	}
	log, err := os.OpenFile(c.logPath(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &process{cmd: exec.Command(filepath.Join(c.BinDir, "postgres"), args...), done: make(chan struct{})}
	p.cmd.Dir = "/"
	p.cmd.Env = append(environ(), "LC_ALL=C")
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: credential(t),
		Setpgid:    true, // a terminal's ^C is for the test, not for the server
	}
	servertest.EndWithParent(p.cmd.SysProcAttr, syscall.SIGQUIT) // immediate shutdown, so that shared memory goes too
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for EndWithParent
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start PostgreSQL %d: %v", c.Major, err)
	}
	c.proc = p
}

// ready waits until the server accepts connections.
func (c *Cluster) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		conn, err := server.Connect(ctx, c.Options())
		if err == nil {
			conn.Close()
			return nil
		}
		select {
		case <-c.proc.done:
			return fmt.Errorf("PostgreSQL %d in %s ended: %s", c.Major, c.DataDir, c.proc.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL %d in %s does not accept connections: %w", c.Major, c.DataDir, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Running reports whether the server's process lives.
func (c *Cluster) Running() bool {
	if c.proc == nil {
		return false
	}
	select {
	case <-c.proc.done:
		return false
	default:
		return true
	}
}

// PID gives the postmaster's process id.
func (c *Cluster) PID() int { return c.proc.cmd.Process.Pid }

// Stop shuts the server down and waits until it has ended.
func (c *Cluster) Stop(t testing.TB, m Mode) {
	t.Helper()
	c.signal(t, syscall.Signal(m))
	c.WaitExit(t)
}

// Restart is Stop(Fast) and Start.
func (c *Cluster) Restart(t testing.TB) {
	t.Helper()
	c.Stop(t, Fast)
	c.Start(t)
}

// Reload makes the server read its configuration files again. It takes effect
// a little later.
func (c *Cluster) Reload(t testing.TB) {
	t.Helper()
	c.signal(t, syscall.SIGHUP)
}

func (c *Cluster) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if !c.Running() {
		t.Fatalf("the server in %s does not run", c.DataDir)
	}
	if err := c.proc.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// WaitExit waits until the server has ended by itself.
func (c *Cluster) WaitExit(t testing.TB) {
	t.Helper()
	select {
	case <-c.proc.done:
		c.proc = nil
	case <-time.After(patience):
		t.Fatalf("PostgreSQL %d in %s does not end", c.Major, c.DataDir)
	}
}

// Crash kills the server and all its processes with SIGKILL and waits until
// they are gone.
func (c *Cluster) Crash(t testing.TB) {
	t.Helper()
	if !c.Running() {
		t.Fatalf("the server in %s does not run", c.DataDir)
	}
	c.kill()
}

// discard ends the server for good. It gets an immediate shutdown first, which
// releases its shared memory; what a killed server left is removed.
func (c *Cluster) discard() {
	memory := servertest.SharedMemoryOf(c.DataDir)
	if c.Running() {
		c.proc.cmd.Process.Signal(syscall.SIGQUIT)
		c.proc.cmd.Process.Signal(syscall.SIGCONT)
		select {
		case <-c.proc.done:
		case <-time.After(10 * time.Second): // it is killed next
		}
	}
	c.kill()
	memory.Remove()
}

func (c *Cluster) kill() {
	if c.proc == nil {
		return
	}
	postmaster := c.proc.cmd.Process
	var family []int
	if c.Running() {
		postmaster.Signal(syscall.SIGSTOP) // so that it makes no more children
		family = children(postmaster.Pid)
		postmaster.Kill()
	}
	<-c.proc.done
	c.proc = nil
	for _, pid := range family {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	// They are nobody's children now. One that still lived would keep the next
	// start from the shared memory.
	for _, pid := range family {
		for end := time.Now().Add(patience); alive(pid) && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
}

// alive reports whether a process still runs: a zombie holds nothing.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH)
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may hold blanks
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func children(pid int) []int {
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var pids []int
	for _, word := range strings.Fields(string(list)) {
		if child, err := strconv.Atoi(word); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}
