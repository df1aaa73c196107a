package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgtender/pgtender/internal/servertest"
)

// Node is one member of the cluster: a Patroni and its PostgreSQL.
type Node struct {
	Name       string
	Dir        string // holds patroni.yml, the data directory and the Unix socket
	DataDir    string
	ConfigFile string
	LogFile    string // output of Patroni, PostgreSQL and their commands
	Port       int    // PostgreSQL's, on 127.0.0.1
	RESTPort   int    // Patroni's

	cluster *Cluster
	config  *NodeConfig
	process *process // nil before the first Start
}

func (n *Node) path(name string) string { return filepath.Join(n.Dir, name) }

// Start runs Patroni, again after Stop or Kill, and returns at once: wait for
// what you need with the cluster's Wait methods.
func (n *Node) Start(ctx context.Context) error {
	if n.Running() {
		return nil
	}
	if n.process != nil {
		n.process.kill() // what a paused Patroni left behind
	}
	patroni, err := n.cluster.programs.patroni(n.cluster.options.Patroni)
	if err != nil {
		return err
	}
	env := []string{"HOME=" + n.Dir, "LANG=C.UTF-8", "PATH=" + n.cluster.bin + ":/usr/local/bin:/usr/bin:/bin"}
	env = append(append(env, n.cluster.options.Env...), n.config.Env...)
	n.process, err = start(n.Name, keeperSpec{
		Path: patroni, Args: []string{n.ConfigFile}, Env: env, Dir: n.Dir, Credential: n.cluster.account,
	}, n.LogFile)
	return err
}

// Running tells whether the node's Patroni is alive.
func (n *Node) Running() bool { return n.process != nil && n.process.running() }

// Stop ends Patroni with SIGTERM and waits for it. It shuts PostgreSQL down,
// unless the cluster is paused.
func (n *Node) Stop(ctx context.Context) error {
	if n.process == nil {
		return nil
	}
	return n.process.stop(ctx)
}

// Kill ends Patroni, PostgreSQL and all they started with SIGKILL, at the same
// moment as far as a process can: like the node's power cut, except that what
// was written stays written.
func (n *Node) Kill() {
	if n.process != nil {
		n.process.kill()
	}
}

// KillPatroni ends Patroni alone with SIGKILL; PostgreSQL goes on.
func (n *Node) KillPatroni() {
	if n.Running() {
		syscall.Kill(n.process.pid, syscall.SIGKILL)
		<-n.process.ended
	}
}

// Signal sends sig to every process of the node: SIGSTOP makes it hang like a
// stalled machine, SIGCONT lets it go on.
func (n *Node) Signal(sig syscall.Signal) {
	if n.process != nil {
		n.process.signal(sig)
	}
}

// Processes lists the ids of all processes of the node, children of Patroni and
// PostgreSQL included: archive commands, restores.
func (n *Node) Processes() []int {
	if n.process == nil {
		return nil
	}
	return n.process.tree()
}

// Postmaster is the process id of the node's PostgreSQL, 0 if it does not run.
func (n *Node) Postmaster() int {
	content, err := os.ReadFile(filepath.Join(n.DataDir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || n.process == nil || !n.process.has(pid) {
		return 0
	}
	return pid
}

// discard ends the node for good. PostgreSQL gets an immediate shutdown first,
// which releases its shared memory; what a killed server left is removed.
func (n *Node) discard() {
	if n.process == nil {
		return
	}
	n.process.signal(syscall.SIGCONT)
	n.KillPatroni()
	if pid := n.Postmaster(); pid != 0 {
		syscall.Kill(pid, syscall.SIGQUIT)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		// Whether it obeys or not, it is killed next.
		_ = poll(ctx, "PostgreSQL to end", func(context.Context) error {
			if n.process.has(pid) {
				return errors.New("it runs")
			}
			return nil
		})
	}
	memory := servertest.SharedMemoryOf(n.DataDir)
	n.process.kill()
	memory.Remove()
}

// Wipe removes the data directory, but nothing that links in it lead to. The node
// must not be running.
func (n *Node) Wipe() error {
	if n.process != nil && len(n.process.tree()) > 0 {
		return fmt.Errorf("wipe %s: it is running", n.Name)
	}
	return os.RemoveAll(n.DataDir)
}

// ConnString is a libpq connection string for the superuser, password included.
func (n *Node) ConnString() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=postgres", n.Port, superuser, password)
}

// ClientEnv is the environment for client programs that shall talk to this node
// as the superuser.
func (n *Node) ClientEnv() []string {
	return []string{"PGHOST=127.0.0.1", "PGPORT=" + strconv.Itoa(n.Port), "PGUSER=" + superuser, "PGPASSWORD=" + password,
		"PGDATABASE=postgres", "PGCONNECT_TIMEOUT=5", "LC_ALL=C"}
}

// Client runs a client program (psql, pgbench, pg_dump, pg_amcheck ...) of the
// distribution's PostgreSQL against this node as the superuser, and gives its
// standard output.
func (n *Node) Client(ctx context.Context, program string, args ...string) (string, error) {
	path, err := n.cluster.programs.client(program)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), n.ClientEnv()...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s on %s: %w: %s", program, n.Name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// SQL runs statements in the database postgres and gives their rows: one a line,
// columns separated by |, no header, no trailing newline. A failing statement
// ends it with an error.
func (n *Node) SQL(ctx context.Context, statements string) (string, error) {
	out, err := n.Client(ctx, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statements)
	return strings.TrimSuffix(out, "\n"), err
}

// Log gives the last lines of the node's output.
func (n *Node) Log(lines int) string { return tail(n.LogFile, lines) }

func tail(file string, lines int) string {
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "(never started)"
	} else if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
