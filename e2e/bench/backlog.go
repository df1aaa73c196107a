package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// newMember makes one without segments.
func (m *machine) newMember(name string) (*member, error) {
	x := &member{m: m, dir: m.path(name)}
	for _, dir := range []string{"", "global", "pg_wal", "pg_wal/archive_status"} {
		if err := m.mkdir(filepath.Join(x.dir, dir), 0o700); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// add copies segments of the server, which wait for the archiver then.
func (x *member) add(segments []string) error {
	x.segments = append(x.segments, segments...)
	files := []string{"PG_VERSION", "global/pg_control"}
	for _, s := range segments {
		files = append(files, "pg_wal/"+s)
	}
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(x.m.server.dataDir, f))
		if err == nil {
			err = x.m.writeFile(filepath.Join(x.dir, f), string(content), 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
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

// way is one way to archive or to fetch.
type way struct {
	name    string
	command string // archive_command, without the path
	config  string // of an agent that runs meanwhile, "" if none does
}

// farBacklog is the job of a backlog that goes to a remote server.
const farBacklog = "backlog on S3"

// backlogs measures how long an archiver takes for a backlog, per segment, into
// repositories here and on a remote server.
func (c *comparison) backlogs(ctx context.Context, tools []tool) error {
	if err := c.server.archiveWith(ctx, "/bin/true"); err != nil {
		return err
	}
	x, err := c.newMember("backlog")
	if err != nil {
		return err
	}
	defer os.RemoveAll(x.dir)
	c.say("making %d WAL segments", c.opts.backlog)
	if err := c.segments(ctx, c.opts.backlog, x.add); err != nil {
		return err
	}
	if c.opts.does("backlog") {
		if err := c.backlog(ctx, x, append(archivers(tools), copier), nil); err != nil {
			return err
		}
	}
	if !c.opts.does("backlog-s3") {
		return nil
	}
	far, stop, err := c.startRemote(ctx, c.opts.delay)
	if err != nil {
		return err
	}
	defer stop()
	return c.backlog(ctx, x, archivers(tools), far)
}

// newWay prepares one in a folder of the machine's, for a member's segments.
type newWay func(ctx context.Context, folder string, x *member, far *remote) (way, error)

// backlog measures each way into a repository of its own, which is gone before the
// next begins.
func (c *comparison) backlog(ctx context.Context, x *member, ways []newWay, far *remote) error {
	for round := range c.opts.runs {
		for i := range ways {
			if err := c.backlogBy(ctx, round, x, ways[(i+round)%len(ways)], far); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *comparison) backlogBy(ctx context.Context, round int, x *member, prepare newWay, far *remote) error {
	dir, err := os.MkdirTemp(c.dir, "backlog-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := c.mkdir(dir, 0o755); err != nil {
		return err
	}
	folder, stored := filepath.Base(dir), dir
	if far != nil {
		stored = far.stored(folder)
		defer os.RemoveAll(stored)
	}
	w, err := prepare(ctx, folder, x, far)
	if err != nil {
		return err
	}
	c.say("round %d: a backlog of %d segments by %s", round+1, len(x.segments), w.name)
	if err := c.drain(ctx, round, x, w, far, stored); err != nil {
		return fmt.Errorf("a backlog by %s: %w", w.name, err)
	}
	return nil
}

// archivers gives the tools' ways to archive.
func archivers(tools []tool) (ways []newWay) {
	for _, t := range tools {
		switch t := t.(type) {
		case *pgtender:
			for _, name := range []string{ours, withAgent} {
				ways = append(ways, func(_ context.Context, folder string, x *member, far *remote) (way, error) {
					config, err := t.memberConfig(folder+"/pgtender", x.dir, far)
					w := way{name: name, command: fmt.Sprintf("%s --config %s --log-level warn archive-push", t.program, config)}
					if name == withAgent {
						w.config = config
					}
					return w, err
				})
			}
		case *pgbackrest:
			if t.level != 1 {
				continue
			}
			for _, name := range []string{t.name(), asyncMode} {
				ways = append(ways, func(ctx context.Context, folder string, x *member, far *remote) (way, error) {
					args := []string{"--pg1-path=" + x.dir, "--log-level-console=warn"}
					if name == asyncMode {
						args = append(args, "--archive-async")
					}
					repository := folder + "/pgbackrest"
					return way{name: name, command: t.run(repository, append(args, "archive-push")...).String()}, t.make(ctx, repository, far)
				})
			}
		}
	}
	return ways
}

// copier is cp, which makes nothing safe.
func copier(_ context.Context, folder string, x *member, _ *remote) (way, error) {
	return way{name: "cp", command: "/bin/cp -t " + x.m.path(folder)}, nil
}

// drain measures one way, which stores all below a folder.
func (c *comparison) drain(ctx context.Context, round int, x *member, w way, far *remote, folder string) error {
	if err := x.wait(); err != nil {
		return err
	}
	archive, err := x.archiver(w.command)
	if err != nil {
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
	u, err := c.measure(ctx, archive)
	u.cpu += end()
	if err != nil {
		return err
	}
	stored, err := size(folder, nil)
	if err != nil {
		return err
	}
	n := time.Duration(len(x.segments))
	u.wall, u.cpu = u.archivingTook()/n, u.cpu/n
	if far != nil {
		u.asked = float64(far.requests.Load()-before) / float64(n)
	}
	c.report.keep(round, w.name, kind, figures(u, 0, 0, stored/int64(n)))
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
