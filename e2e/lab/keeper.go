package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pgtender/pgtender/internal/servertest"
)

// A keeper stands between us and a server. PostgreSQL's postmaster leaves
// Patroni's session and process group and is handed to init, so neither a
// process group nor a parent-death signal reaches it. The keeper is a child
// subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): orphans below it become its own
// children, so every descendant can be found and killed. It reads commands from
// a pipe, and the pipe's end, which comes however our process ends, kills all.
//
// The keeper is this same program, started anew with keeperVariable set: a
// program of its own would have to be built and found first.
const keeperVariable = "PGTENDER_LAB_KEEPER"

// What is said over the keeper's standard input and output, one word a line.
const (
	commandKill = "kill"   // SIGKILL all descendants
	commandTerm = "term"   // SIGTERM the server itself
	eventBegun  = "begun"  // with the server's process id
	eventEnded  = "ended"  // with how the server itself ended; descendants may live on
	eventFailed = "failed" // with the reason why the server was not started
)

// keeperSpec is what to run.
type keeperSpec struct {
	Path       string
	Args       []string // without the program's name
	Env        []string
	Dir        string
	Credential *syscall.Credential
}

// This is an init function because the caller's main must not run in a keeper,
// and a test binary's main is not ours to change.
func init() {
	text := os.Getenv(keeperVariable)
	if text == "" {
		return
	}
	var spec keeperSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		fmt.Println(eventFailed, err)
		os.Exit(1)
	}
	os.Exit(keep(spec, os.Stdin, os.Stdout))
}

// keep runs one server until it and all its descendants are gone. It runs on
// the main thread (as init functions do), which lives as long as the process,
// so that the server's parent-death signal means the keeper's death.
func keep(spec keeperSpec, commands io.Reader, events io.Writer) int {
	// Who killed the server may be gone, and with it who reads of the server's
	// end: a write then must not end the keeper before the last descendant. It is
	// not ignored, for the server would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	if err := adoptOrphans(); err != nil {
		fmt.Fprintln(events, eventFailed, err)
		return 1
	}
	attr := &syscall.SysProcAttr{Setsid: true, Credential: spec.Credential}
	servertest.EndWithParent(attr, syscall.SIGKILL)
	server, err := syscall.ForkExec(spec.Path, append([]string{spec.Path}, spec.Args...), &syscall.ProcAttr{
		Dir: spec.Dir,
		Env: spec.Env,
		// Output goes where our own standard error goes: the log.
		Files: []uintptr{uintptr(devNull()), 2, 2},
		Sys:   attr,
	})
	if err != nil {
		fmt.Fprintln(events, eventFailed, err)
		return 1
	}
	fmt.Fprintln(events, eventBegun, server)
	k := &keeper{server: server}
	go k.obey(commands)
	k.reap(events)
	return 0
}

func devNull() int {
	fd, err := syscall.Open(os.DevNull, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	return fd
}

type keeper struct {
	mu     sync.Mutex
	server int // the server's process id, 0 once it has been waited for; under mu
}

func (k *keeper) obey(commands io.Reader) {
	for lines := bufio.NewScanner(commands); lines.Scan(); {
		switch strings.TrimSpace(lines.Text()) {
		case commandTerm:
			k.mu.Lock()
			if k.server != 0 {
				syscall.Kill(k.server, syscall.SIGTERM)
			}
			k.mu.Unlock()
		case commandKill:
			killBelow(os.Getpid())
		}
	}
	killBelow(os.Getpid())
}

// reap waits for every child, adopted ones included, until there is none.
func (k *keeper) reap(events io.Writer) {
	for {
		// The zombie's process id stays taken until server is cleared under the lock.
		err := awaitEnd()
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil { // ECHILD: nobody is left
			return
		}
		k.mu.Lock()
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == nil && pid == k.server && pid != 0 {
			k.server = 0
			fmt.Fprintln(events, eventEnded, describe(status))
		}
		k.mu.Unlock()
	}
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "by signal " + status.Signal().String()
	}
	return fmt.Sprintf("with status %d", status.ExitStatus())
}

// killBelow ends all descendants of pid as a power cut would: all are stopped
// first, so that none acts on the death of another, then killed. It returns
// when none is left, and needs somebody to wait for them.
func killBelow(pid int) {
	for {
		stopped := map[int]bool{}
		for more := true; more; {
			more = false
			for _, p := range descendants(pid) {
				if !stopped[p] {
					stopped[p], more = true, true
					syscall.Kill(p, syscall.SIGSTOP)
				}
			}
		}
		if len(stopped) == 0 {
			return
		}
		for p := range stopped {
			syscall.Kill(p, syscall.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond) // for the dead to be waited for
	}
}
