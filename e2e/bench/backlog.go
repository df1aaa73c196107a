package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// How pgtender's agent and pgBackRest's asynchronous mode are called in reports.
const (
	withAgent = "pgtender, agent"
	asyncMode = "pgbackrest, async"
)

// member is a data directory as far as archiving needs one: it holds copies of
// segments, which the server that wrote them cannot recycle.
type member struct {
	m        *machine
	dir      string
	segments []string
}

// newMember makes one with segments that wait for the archiver.
func (m *machine) newMember(name string, segments []string) (*member, error) {
	x := &member{m: m, dir: m.path(name), segments: segments}
	for _, dir := range []string{"", "global", "pg_wal", "pg_wal/archive_status"} {
		if err := m.mkdir(filepath.Join(x.dir, dir), 0o700); err != nil {
			return nil, err
		}
	}
	files := []string{"PG_VERSION", "global/pg_control"}
	for _, s := range segments {
		files = append(files, "pg_wal/"+s)
	}
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(m.server.dataDir, f))
		if err == nil {
			err = m.writeFile(filepath.Join(x.dir, f), string(content), 0o600)
		}
		if err != nil {
			return nil, err
		}
	}
	return x, nil
}

// wait marks all segments as waiting, and none as done.
func (x *member) wait() error {
	status := filepath.Join(x.dir, "pg_wal", "archive_status")
	for _, s := range x.segments {
		if err := os.Remove(filepath.Join(status, s+".done")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := x.m.writeFile(filepath.Join(status, s+".ready"), "", 0o600); err != nil {
			return err
		}
	}
	return nil
}

// archiver is a job that does what PostgreSQL's archiver does: one command after
// the other, each through a shell, and then the file's mark.
func (x *member) archiver(command string) job {
	const loop = `cd "$0" && for f in $2; do /bin/sh -c "$1 pg_wal/$f" >/dev/null || exit 1; mv pg_wal/archive_status/$f.ready pg_wal/archive_status/$f.done; done`
	return job{argv: []string{"/bin/sh", "-c", loop, x.dir, command, strings.Join(x.segments, " ")}}
}

// way is one way to archive or to fetch.
type way struct {
	name    string
	command string // archive_command, without the path
	config  string // of an agent that runs meanwhile, "" if none does
}

// farBacklog is the job of a backlog that goes to a remote server.
const farBacklog = "backlog on S3"

// backlog measures how long an archiver takes for a backlog, per segment, into
// repositories here or on a remote server.
func (c *comparison) backlog(ctx context.Context, tools []tool, n int, far *remote) error {
	if err := c.server.archiveWith(ctx, "/bin/true"); err != nil {
		return err
	}
	segments, err := c.segments(ctx, n)
	if err != nil {
		return err
	}
	x, err := c.newMember("backlog", segments)
	if err != nil {
		return err
	}
	defer os.RemoveAll(x.dir)
	for round := range c.opts.runs {
		ways, done, err := c.ways(ctx, tools, x, far)
		if err != nil {
			return err
		}
		for i := range ways {
			w := ways[(i+round)%len(ways)]
			c.say("round %d: a backlog of %d segments by %s", round+1, n, w.name)
			if err := c.drain(ctx, round, x, w, far); err != nil {
				return fmt.Errorf("a backlog by %s: %w", w.name, err)
			}
		}
		done()
	}
	return nil
}

// ways gives every way to archive, each into a repository of its own, which done
// removes.
func (c *comparison) ways(ctx context.Context, tools []tool, x *member, far *remote) (ways []way, done func(), err error) {
	dir, err := os.MkdirTemp(c.dir, "backlog-")
	if err != nil {
		return nil, nil, err
	}
	name := filepath.Base(dir)
	done = func() {
		for _, made := range []string{dir, c.path("pgtender-" + name), c.path("pgbackrest-" + name)} {
			os.RemoveAll(made)
		}
	}
	if err := c.mkdir(dir, 0o755); err != nil {
		return nil, nil, err
	}
	for _, t := range tools {
		switch t := t.(type) {
		case *pgtender:
			for _, label := range []string{ours, withAgent} {
				repository := fmt.Sprintf("pgtender-%s/%d", name, len(ways))
				if err := c.mkdir(filepath.Dir(c.path(repository)), 0o755); err != nil {
					return nil, nil, err
				}
				config, err := t.memberConfig(repository, x.dir, far)
				if err != nil {
					return nil, nil, err
				}
				w := way{name: label, command: fmt.Sprintf("%s --config %s --log-level warn archive-push", t.program, config)}
				if label == withAgent {
					w.config = config
				}
				ways = append(ways, w)
			}
		case *pgbackrest:
			if t.level != 1 {
				continue
			}
			for _, label := range []string{t.name(), asyncMode} {
				repository := fmt.Sprintf("pgbackrest-%s/%d", name, len(ways))
				if err := c.mkdir(filepath.Dir(c.path(repository)), 0o755); err != nil {
					return nil, nil, err
				}
				if err := t.make(ctx, repository, far); err != nil {
					return nil, nil, err
				}
				args := []string{"--pg1-path=" + x.dir, "--log-level-console=warn"}
				if label == asyncMode {
					args = append(args, "--archive-async")
				}
				ways = append(ways, way{name: label, command: t.run(repository, append(args, "archive-push")...).String()})
			}
		}
	}
	if far != nil {
		return ways, done, nil
	}
	copies := way{name: "cp", command: "/bin/cp -t " + dir}
	return append(ways, copies), done, nil
}

// drain measures one way.
func (c *comparison) drain(ctx context.Context, round int, x *member, w way, far *remote) error {
	if err := x.wait(); err != nil {
		return err
	}
	if err := settleDisk(false); err != nil {
		return err
	}
	end, err := c.agent(ctx, w.config)
	if err != nil {
		return err
	}
	kind, before := "backlog", int64(0)
	if far != nil {
		kind, before = farBacklog, far.requests.Load()
	}
	u, err := c.measure(ctx, x.archiver(w.command))
	u.cpu += end()
	if err != nil {
		return err
	}
	n := time.Duration(len(x.segments))
	u.wall, u.cpu = u.wall/n, u.cpu/n
	if far != nil {
		u.asked = float64(far.requests.Load()-before) / float64(n)
	}
	c.report.add(round, w.name, kind, u)
	return nil
}

// agent runs pgtender's agent until end, which gives the processor time that it
// took. Without a configuration nothing runs.
func (m *machine) agent(ctx context.Context, config string) (end func() time.Duration, err error) {
	if config == "" {
		return func() time.Duration { return 0 }, nil
	}
	program := m.path("pgtender")
	cmd := m.command(ctx, job{argv: []string{program, "--config", config, "--log-level", "error", "agent"}})
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end = func() time.Duration {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait() // what it says in the end does not matter
		return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	for range 200 {
		ask := m.command(ctx, job{argv: []string{program, "--config", config, "agent", "status"}})
		if err = ask.Run(); err == nil {
			return end, nil
		}
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	end()
	return nil, fmt.Errorf("the agent does not answer: %w", err)
}
