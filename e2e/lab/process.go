package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// process is a server below its keeper.
type process struct {
	name   string
	keeper *exec.Cmd
	pid    int           // of the server itself
	ended  chan struct{} // closed when the server itself has ended
	gone   chan struct{} // closed when all its descendants have, too

	mu     sync.Mutex
	input  io.WriteCloser // to the keeper; under mu
	status string         // how the server ended; set before ended is closed
}

// start runs a server below a keeper of its own, with its output added to log.
func start(name string, spec keeperSpec, log string) (*process, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	output, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	p := &process{name: name, ended: make(chan struct{}), gone: make(chan struct{})}
	p.keeper = exec.Command("/proc/self/exe")
	// Built with the race detector it would pause for a second before it exits.
	p.keeper.Env = []string{keeperVariable + "=" + string(text), "GORACE=atexit_sleep_ms=0"}
	p.keeper.Stderr = output
	// Out of the terminal's foreground group: an interrupt is for us alone.
	p.keeper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.input, err = p.keeper.StdinPipe(); err != nil {
		return nil, err
	}
	events, err := p.keeper.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.keeper.Start(); err != nil {
		return nil, fmt.Errorf("start the keeper of %s: %w", name, err)
	}
	lines := bufio.NewScanner(events)
	if !lines.Scan() {
		p.keeper.Wait()
		return nil, fmt.Errorf("start %s: its keeper ended at once, see %s", name, log)
	}
	event, detail, _ := strings.Cut(lines.Text(), " ")
	p.pid, err = strconv.Atoi(detail)
	if event != eventBegun || err != nil {
		p.keeper.Wait()
		return nil, fmt.Errorf("start %s: %s", name, detail)
	}
	go p.follow(lines)
	return p, nil
}

// follow reads the keeper's events until it is gone.
func (p *process) follow(lines *bufio.Scanner) {
	for lines.Scan() {
		if event, detail, _ := strings.Cut(lines.Text(), " "); event == eventEnded {
			p.status = detail
			close(p.ended)
		}
	}
	p.keeper.Wait()
	if p.running() { // the keeper itself was killed
		p.status = "with its keeper"
		close(p.ended)
	}
	close(p.gone)
}

// running tells whether the server itself is alive.
func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// kill ends the server and all its descendants with SIGKILL, and returns when
// they are gone.
func (p *process) kill() {
	p.command(commandKill)
	<-p.gone
}

// stop ends the server with SIGTERM and waits for it, and for nothing else: a
// paused Patroni leaves PostgreSQL running.
func (p *process) stop(ctx context.Context) error {
	p.command(commandTerm)
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop %s: it goes on running: %w", p.name, context.Cause(ctx))
	}
}

// command tells the keeper; one that is gone has nothing left to do.
func (p *process) command(word string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	io.WriteString(p.input, word+"\n")
}

// signal goes to every process of the tree.
func (p *process) signal(sig syscall.Signal) {
	for _, pid := range p.tree() {
		syscall.Kill(pid, sig)
	}
}

// tree lists the server and its descendants.
func (p *process) tree() []int {
	select {
	case <-p.gone:
		return nil
	default:
		return descendants(p.keeper.Process.Pid)
	}
}

func (p *process) has(pid int) bool { return slices.Contains(p.tree(), pid) }
