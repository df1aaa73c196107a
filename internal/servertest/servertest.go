// Package servertest starts third-party servers (etcd, Consul, an S3 server)
// for tests, and mounts small disks. The programs come from the project's cache
// folder, which `make servers` fills; a missing one skips the test under -short
// (make unit) and fails it otherwise (make test).
package servertest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// CacheDir is the folder for downloads and built servers: PGTENDER_CACHE, or
// .cache at the project's root. Where root has the project in a folder that is
// closed to others, such as its home, it is SharedCache, for the servers run as
// another user.
func CacheDir() string {
	if dir := os.Getenv("PGTENDER_CACHE"); dir != "" {
		return dir
	}
	_, file, _, _ := runtime.Caller(0)
	project := filepath.Join(filepath.Dir(file), "..", "..")
	if os.Getuid() == 0 && closed(project) {
		return SharedCache
	}
	return filepath.Join(project, ".cache")
}

// SharedCache is the cache folder of a project that only root can enter.
const SharedCache = "/var/cache/pgtender"

// closed reports whether others may not enter dir, or one that it lies in.
func closed(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode()&0o001 == 0 {
			return true
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
}

// Binary gives the path of a program built into the cache's bin folder.
func Binary(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(CacheDir(), "bin", name)
	if _, err := os.Stat(path); err != nil {
		Missing(t, "%s is not in the cache: %v", name, err)
	}
	return path
}

// Missing skips a test under -short and fails it otherwise.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if testing.Short() {
		t.Skipf(format, args...)
	}
	t.Fatalf(format+"; run 'make servers' first", args...)
}

// Process is a server under test.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the process has been waited for
	out  output
}

// Start runs cmd in a process group of its own, waits until ready returns nil,
// and kills the group when the test ends. The server dies with the test
// process even if that is killed. Output is shown if the test fails.
func Start(t testing.TB, cmd *exec.Cmd, ready func(context.Context) error) *Process {
	t.Helper()
	p := &Process{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	cmd.WaitDelay = 5 * time.Second
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for EndWithParent, until the child is gone
		EndWithParent(cmd.SysProcAttr, syscall.SIGKILL)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("output of %s:\n%s", filepath.Base(cmd.Path), p.out.String())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return p
		}
		select {
		case <-p.done:
			t.Fatalf("%s ended before it was ready:\n%s", cmd.Path, p.out.String())
		case <-ctx.Done():
			t.Fatalf("%s was not ready in time: %v\n%s", cmd.Path, err, p.out.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Kill ends the server's process group with SIGKILL and waits for it.
func (p *Process) Kill() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// Signal sends sig to the server's process group (SIGSTOP makes it hang).
func (p *Process) Signal(sig syscall.Signal) error { return syscall.Kill(-p.cmd.Process.Pid, sig) }

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Pause stops the process in its tracks, until a SIGCONT. It waits until each of
// its threads has stopped: kill(2) returns before, and one that runs just then may
// still answer a request.
func (p *Process) Pause(t testing.TB) {
	t.Helper()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); !p.paused(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s has not stopped", p.cmd.Path)
		}
	}
}

// paused reports whether all threads are in the state that proc(5) calls T.
func (p *Process) paused() bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
	return err == nil && len(stats) > 0 && !slices.ContainsFunc(stats, func(path string) bool {
		b, err := os.ReadFile(path)
		state := bytes.LastIndexByte(b, ')') + 2 // behind the name, which may have any character
		return err == nil && (len(b) <= state || b[state] != 'T')
	})
}
