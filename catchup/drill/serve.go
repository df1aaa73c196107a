package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

// conf is all of the server's configuration but for what the restore wrote. The
// backup's own may name certificates, libraries and sizes that this machine does
// not have. hot_standby is off: with it recovery insists on the primary's limits
// (CheckRequiredParameterValues, xlogrecovery.c). Prepared transactions of the
// backup must find room. A crash of the scratch directory costs nothing.
const conf = `unix_socket_permissions = 0700
hba_file = '%s'
ident_file = '%s'
max_connections = 20
max_worker_processes = 8
shared_buffers = 64MB
fsync = off
autovacuum = off
`

// override is said on the command line, where it wins over every file. Nothing
// is loaded, called or connected to: libraries that are not installed here would
// keep the server from starting, others would begin to work as on the source,
// and so would subscriptions.
var override = []string{
	"listen_addresses=", "ssl=off", "bonjour=off", "external_pid_file=",
	"shared_preload_libraries=", "session_preload_libraries=", "local_preload_libraries=", "jit=off",
	"archive_mode=off", "archive_command=", "archive_cleanup_command=", "recovery_end_command=",
	"primary_conninfo=", "primary_slot_name=", "hot_standby=off", "synchronous_standby_names=",
	"max_logical_replication_workers=0", "max_prepared_transactions=1000",
	"logging_collector=off", "log_destination=stderr", "huge_pages=off",
	"ignore_checksum_failure=off", "zero_damaged_pages=off",
}

// since are overrides that older servers do not know.
var since = map[int][]string{
	15: {"archive_library="},
	17: {"event_triggers=off", "sync_replication_slots=off", "summarize_wal=off"},
}

// clientOptions are for sessions, where they win over what ALTER DATABASE and
// ALTER ROLE have set (GucSource, utils/guc.h).
const clientOptions = "-c session_preload_libraries= -c local_preload_libraries= -c ignore_checksum_failure=off -c zero_damaged_pages=off"

// port is but a part of the socket's name.
const port = 5432

// running is the private server.
type running struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// serve starts the server, asks it everything, and ends it.
func (d *drill) serve(ctx context.Context) error {
	s, err := d.start()
	if err != nil {
		return err
	}
	defer s.stop()
	begin := time.Now()
	ok, err := d.awaitConsistency(ctx, s)
	d.Recovery = time.Since(begin)
	if err != nil || !ok {
		return err
	}
	for _, look := range []func(context.Context) error{d.amcheck, d.dump, d.checks} {
		if err := look(ctx); err != nil {
			return err
		}
		select {
		case <-s.done:
			d.fault("the server ended: %s", s.tail())
			return nil
		default:
		}
	}
	return nil
}

// overrides are those that the server knows.
func (d *drill) overrides() []string {
	out := slices.Clone(override)
	for major, more := range since {
		if d.backup.Major() >= major {
			out = append(out, more...)
		}
	}
	return out
}

func (d *drill) start() (*running, error) {
	if err := d.isolate(); err != nil {
		return nil, err
	}
	path := func(name string) string { return filepath.Join(d.dir, name) }
	for name, content := range map[string]string{
		"hba.conf": "local all all trust\n", "ident.conf": "",
		"postgresql.conf": fmt.Sprintf(conf, quote(path("hba.conf")), quote(path("ident.conf"))),
	} {
		if err := os.WriteFile(path(name), []byte(content), 0o600); err != nil {
			return nil, err
		}
		if err := d.owner.own(path(name)); err != nil {
			return nil, err
		}
	}
	log, err := os.OpenFile(path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := []string{"-D", path("data"), "-c", "config_file=" + path("postgresql.conf"), "-c", "unix_socket_directories=" + d.dir, "-p", fmt.Sprint(port)}
	for _, o := range d.overrides() {
		args = append(args, "-c", o)
	}
	cmd := exec.Command(filepath.Join(d.bin, "postgres"), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = d.dir, log, log
	cmd.ExtraFiles = []*os.File{d.lock}
	cmd.Env = append(os.Environ(), "LC_MESSAGES=C")
	d.owner.become(cmd, syscall.SIGQUIT)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	s := &running{cmd: cmd, log: path("log"), done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(s.done)
	}()
	return s, nil
}

func quote(s string) string { return strings.ReplaceAll(s, "'", "''") }

// stopPatience is how long a server may take to end before it is killed.
const stopPatience = 30 * time.Second

func (s *running) stop() {
	for _, sig := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGKILL} {
		_ = s.cmd.Process.Signal(sig) // it may have ended
		select {
		case <-s.done:
			return
		case <-time.After(stopPatience):
		}
	}
}

// tail gives the end of the server's log.
func (s *running) tail() string {
	f, err := os.Open(s.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const most = 2000
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-most), io.SeekStart) // else all of it
	}
	content, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return err.Error()
	}
	return "the end of its log: " + strings.TrimSpace(string(content))
}

func (d *drill) connect(ctx context.Context, database string) (*server.Conn, error) {
	return server.Connect(ctx, server.Options{Host: d.dir, Port: port, User: d.o.Role, Database: database, SSLMode: "disable", SessionOptions: clientOptions, Log: d.o.Log})
}

// awaitConsistency waits until the server has replayed to the backup's stop and
// left recovery. It looks at no clock: a server that replays much takes long.
func (d *drill) awaitConsistency(ctx context.Context, s *running) (bool, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := d.connect(ctx, "")
		if err == nil {
			defer conn.Close()
			return true, d.position(ctx, conn)
		}
		if server.IsDenied(err) {
			d.fault("nobody can log in as %s: %v", d.o.Role, err)
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-s.done:
			tail := s.tail()
			if strings.Contains(tail, unknownManager) {
				return false, finding.WithHint(fmt.Errorf("the WAL has records of an extension, which is not loaded here (%s); %s", strings.Join(d.libraries, ", "), tail),
					"try the restore where the extension is installed, with: pgtender restore")
			}
			if strings.Contains(tail, "No space left on device") {
				return false, finding.WithHint(fmt.Errorf("the restored server ran out of room; %s", tail), "make room in verify.scratch_dir")
			}
			d.fault("the restored server does not come up; %s", tail)
			return false, nil
		case <-tick.C:
		}
	}
}

// unknownManager is in what a server says that is to replay a record of a custom
// resource manager, which only an extension has (RmgrNotFound, rmgr.c).
const unknownManager = "resource manager with ID"

// position notes where recovery ended. It must not be before the backup's stop.
func (d *drill) position(ctx context.Context, conn *server.Conn) error {
	pos, err := conn.Positions(ctx)
	switch {
	case err != nil:
		return err
	case pos.InRecovery:
		return errors.New("the restored server accepts connections in recovery, though it must not")
	}
	d.Consistent = pos.Insert
	if d.Consistent < d.backup.Stop.LSN {
		d.fault("the restored server came up at %s, before the backup's stop at %s", d.Consistent, d.backup.Stop.LSN)
	}
	return nil
}

// amcheck looks at the structure of all tables and B-tree indexes.
func (d *drill) amcheck(ctx context.Context) error {
	if d.backup.Major() < 14 {
		d.Skipped = append(d.Skipped, "pg_amcheck: it needs version 14")
		return nil
	}
	return d.program(ctx, "pg_amcheck", "--all", "--heapallindexed", "--install-missing", "--no-dependent-toast")
}

// dump reads every row of every table.
func (d *drill) dump(ctx context.Context) error {
	return d.program(ctx, "pg_dumpall", "--no-sync")
}

// program runs a client program on the server. What it prints is counted, not
// kept; what it complains about is a fault.
func (d *drill) program(ctx context.Context, name string, args ...string) error {
	path := filepath.Join(d.bin, name)
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath(name); err != nil {
			d.Skipped = append(d.Skipped, name+": it is not installed")
			return nil
		}
	}
	if name == "pg_dumpall" {
		major, err := pg.ProgramMajor(ctx, path)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			d.Skipped = append(d.Skipped, fmt.Sprintf("%s: %v", name, err))
			return nil
		case major < d.backup.Major():
			d.Skipped = append(d.Skipped, name+": "+path+" is older than the server")
			return nil
		}
	}
	cmd := exec.CommandContext(ctx, path, append(args, "--host="+d.dir, fmt.Sprintf("--port=%d", port), "--username="+d.o.Role, "--no-password")...)
	var printed counter
	var complaint bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = d.dir, &printed, &limited{to: &complaint}
	cmd.Env = append(os.Environ(), "PGOPTIONS="+clientOptions)
	d.owner.become(cmd, syscall.SIGKILL)
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		text := strings.TrimSpace(complaint.String() + string(printed.head))
		d.fault("%s: %v: %s", name, err, text)
		d.Checks = append(d.Checks, CheckResult{name, false, text})
	default:
		d.Checks = append(d.Checks, CheckResult{name, true, fmt.Sprintf("%d bytes", printed.n)})
	}
	return nil
}

// answerKept is how much of an answer or a complaint is kept.
const answerKept = 1000

// counter counts what is written to it and keeps its beginning.
type counter struct {
	n    int64
	head []byte
}

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	c.head = append(c.head, b[:min(len(b), answerKept-len(c.head))]...)
	return len(b), nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ to *bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	l.to.Write(b[:min(len(b), max(0, answerKept-l.to.Len()))])
	return len(b), nil
}

// checks asks the user's questions.
func (d *drill) checks(ctx context.Context) error {
	for _, c := range d.o.Checks {
		got, err := d.ask(ctx, c)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r := CheckResult{SQL: c.SQL, OK: err == nil && (c.Expect == nil || got == strings.TrimSuffix(*c.Expect, "\n")), Got: got[:min(len(got), answerKept)]}
		switch {
		case err != nil:
			r.Got = err.Error()
			d.fault("%s: %v", c.SQL, err)
		case !r.OK:
			d.fault("%s: the answer is %q, not %q", c.SQL, r.Got, *c.Expect)
		}
		d.Checks = append(d.Checks, r)
	}
	return nil
}

func (d *drill) ask(ctx context.Context, c Check) (string, error) {
	conn, err := d.connect(ctx, c.Database)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	// Sessions of ours see the system catalogs alone.
	if err := conn.Exec(ctx, `SET search_path = "$user", public`); err != nil {
		return "", err
	}
	rows, err := conn.Query(ctx, c.SQL)
	if err != nil {
		return "", err
	}
	lines := make([]string, len(rows))
	for i, row := range rows {
		lines[i] = strings.Join(row, "|")
	}
	return strings.Join(lines, "\n"), nil
}
