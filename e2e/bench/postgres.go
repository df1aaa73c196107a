package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience is how long a server may take for anything but recovery.
const patience = 2 * time.Minute

// postgres is a running server that is reached through a socket in the bench's
// folder.
type postgres struct {
	m       *machine
	dataDir string
	port    int // in the socket's name; nothing listens on it
	cmd     *exec.Cmd
	done    chan struct{} // closed when the postmaster has ended
	log     string
}

// Two servers never run at the same time on one port.
const (
	sourcePort   = 6543
	restoredPort = 6544
)

// startPostgres starts a server on dataDir with settings on top of its own,
// and waits until it answers.
func (m *machine) startPostgres(ctx context.Context, dataDir string, port int, settings ...string) (*postgres, error) {
	p := &postgres{m: m, dataDir: dataDir, port: port, done: make(chan struct{}), log: m.path(fmt.Sprintf("postgres-%d.log", port))}
	args := []string{"-D", dataDir, "-c", "listen_addresses=", "-c", "unix_socket_directories=" + m.dir, "-c", "port=" + strconv.Itoa(port)}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// Not ended by ctx: stop does that.
	p.cmd = m.command(context.WithoutCancel(ctx), job{argv: append([]string{m.program("postgres")}, args...)})
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT // with us, whatever happens
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start PostgreSQL in %s: %w", dataDir, err)
	}
	err = p.until(ctx, "SELECT NOT pg_is_in_recovery()")
	if err == nil {
		err = p.answered()
	}
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// answered makes sure that it was this server that answered, and not one that
// another run left behind in the same folder.
func (p *postgres) answered() error {
	b, err := os.ReadFile(filepath.Join(p.dataDir, "postmaster.pid"))
	if err != nil {
		return err
	}
	if pid, _, _ := strings.Cut(string(b), "\n"); pid != strconv.Itoa(p.pid()) {
		return fmt.Errorf("a server with process id %s runs in %s already", pid, p.dataDir)
	}
	return nil
}

func (p *postgres) pid() int { return p.cmd.Process.Pid }

// stop shuts the server down and waits for it.
func (p *postgres) stop() {
	p.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-p.done:
	case <-time.After(patience):
		p.cmd.Process.Signal(syscall.SIGQUIT)
		<-p.done
	}
}

// sql runs statements and gives the last one's result.
func (p *postgres) sql(ctx context.Context, statements string) (string, error) {
	return p.m.output(ctx, p.m.program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1",
		"-h", p.m.dir, "-p", strconv.Itoa(p.port), "-U", "postgres", "-d", "postgres", "-c", statements)
}

// wait waits until a query gives true, for as long as patience lasts.
func (p *postgres) wait(ctx context.Context, query string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return p.until(ctx, query)
}

// until waits until a query gives true, or the server ends.
func (p *postgres) until(ctx context.Context, query string) error {
	for {
		answer, err := p.sql(ctx, query)
		if err == nil && answer == "t" {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("PostgreSQL in %s ended: %s\n%s", p.dataDir, p.cmd.ProcessState, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("wait for %q in %s: %q, %w\n%s", query, p.dataDir, answer, errors.Join(context.Cause(ctx), err), p.tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tail gives the end of the server's log.
func (p *postgres) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-outputEnd):], "\n")
}

// archiveWith makes the server archive by a command, and returns when it has
// done so once: the tool's archive then goes up to a checkpoint that a backup
// started now has to wait for no more.
func (p *postgres) archiveWith(ctx context.Context, command string) error {
	quoted := strings.ReplaceAll(command, "'", "''")
	for _, s := range []string{"ALTER SYSTEM SET archive_command = '" + quoted + "'", "SELECT pg_reload_conf()"} {
		if _, err := p.sql(ctx, s); err != nil {
			return err
		}
	}
	if err := p.wait(ctx, "SELECT current_setting('archive_command') = '"+quoted+"'"); err != nil {
		return err
	}
	segment, err := p.sql(ctx, "CHECKPOINT; SELECT pg_walfile_name(pg_switch_wal())")
	if err != nil {
		return err
	}
	if err := p.wait(ctx, "SELECT last_archived_wal >= '"+segment+"' FROM pg_stat_archiver"); err != nil {
		return fmt.Errorf("archive %s by %q: %w", segment, command, err)
	}
	_, err = p.sql(ctx, "CHECKPOINT") // nothing is dirty any more
	return err
}

// settings of the source. It need not survive a power cut, but its backups and
// WAL must look like those of a server in use.
const settings = `
shared_buffers = 128MB
max_wal_size = 2GB
wal_keep_size = 4GB
wal_level = replica
archive_mode = on
archive_command = '/bin/true'
max_wal_senders = 4
fsync = off
autovacuum = off
log_timezone = UTC
timezone = UTC
log_line_prefix = '%m [%p] %b '
`

// startSource starts the server to be backed up, and makes it and its data
// first unless an earlier run did.
func (m *machine) startSource(ctx context.Context, megabytes, wide int) error {
	dataDir, made := m.path("data"), m.path("data-made")
	want := fmt.Sprintf("%d MB, %d %% of it wide rows", megabytes, wide)
	switch have, err := os.ReadFile(made); {
	case err == nil && string(have) != want:
		return fmt.Errorf("%s has %s, not %s\nhint: name another --dir", m.dir, have, want)
	case err == nil:
		m.server, err = m.startPostgres(ctx, dataDir, sourcePort)
		return err
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	m.say("making data: %s", want)
	if err := os.RemoveAll(dataDir); err != nil {
		return err
	}
	if _, err := m.output(ctx, m.program("initdb"), "-k", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D", dataDir); err != nil {
		return err
	}
	conf, err := os.OpenFile(dataDir+"/postgresql.conf", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString(settings)
	if err = errors.Join(err, conf.Close()); err != nil {
		return err
	}
	if m.server, err = m.startPostgres(ctx, dataDir, sourcePort); err != nil {
		return err
	}
	if err := m.server.fill(ctx, megabytes, wide); err != nil {
		return err
	}
	return m.writeFile(made, want, 0o644)
}
