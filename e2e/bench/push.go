package main

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// push measures single WAL segments, pushed one after the other by each tool
// into a repository of its own, beside cp; pushed twice, the second one finds
// its segment there.
func (c *comparison) push(ctx context.Context, tools []tool, n int) error {
	if err := c.server.archiveWith(ctx, "/bin/true"); err != nil {
		return err
	}
	var segments []string
	collect := func(names []string) error { segments = append(segments, names...); return nil }
	if err := c.segments(ctx, n, collect); err != nil {
		return err
	}
	names, jobs, err := c.pushers(ctx, tools)
	if err != nil {
		return err
	}
	x, err := c.newMember("push-wal")
	if err != nil {
		return err
	}
	defer os.RemoveAll(x.dir)
	if err := x.add(segments); err != nil {
		return err
	}
	agent, end, err := c.agentPusher(ctx, tools, x)
	if err != nil {
		return err
	}
	defer end()
	if agent.argv != nil {
		names, jobs = append(names, withAgent), append(jobs, agent)
	}
	c.say("pushing %d WAL segments", len(segments))
	for i, segment := range segments {
		for k := range jobs {
			at := (k + i) % len(jobs)
			j := jobs[at]
			dir := c.server.dataDir
			if names[at] == withAgent {
				dir = x.dir
			}
			j.argv = append(j.argv[:len(j.argv):len(j.argv)], dir+"/pg_wal/"+segment)
			for _, again := range []string{"push", "push again"} {
				if again == "push again" && strings.HasPrefix(names[at], "cp") {
					continue
				}
				if err := settleDisk(false); err != nil {
					return err
				}
				u, err := c.measure(ctx, j)
				if err != nil {
					return err
				}
				c.report.add(i, names[at], again, u)
			}
		}
	}
	return nil
}

// agentPusher gives the program that hands a segment of x to an agent, which runs
// until end; none where pgtender is not measured. The agent's processor time is
// not counted with the command's.
func (c *comparison) agentPusher(ctx context.Context, tools []tool, x *member) (j job, end func(), err error) {
	for _, t := range tools {
		t, ok := t.(*pgtender)
		if !ok {
			continue
		}
		const repository = "pgtender-push-agent"
		if err := os.RemoveAll(c.path(repository)); err != nil {
			return job{}, nil, err
		}
		config, err := t.memberConfig(repository, x.dir, nil)
		if err != nil {
			return job{}, nil, err
		}
		stop, err := c.agent(ctx, config)
		if err != nil {
			return job{}, nil, err
		}
		return job{argv: []string{t.program, "--config", config, "--log-level", "warn", "archive-push"}}, func() { stop() }, nil
	}
	return job{}, func() {}, nil
}

// pushers gives the programs that take a segment's path as last argument.
func (c *comparison) pushers(ctx context.Context, tools []tool) (names []string, jobs []job, err error) {
	random, err := os.MkdirTemp(c.dir, "push-") // new ones, also in a folder that is kept
	if err != nil {
		return nil, nil, err
	}
	if err := c.mkdir(random, 0o755); err != nil {
		return nil, nil, err
	}
	suffix := strings.TrimPrefix(random, c.dir+"/")
	for _, t := range tools {
		p, ok := t.(pusher)
		if !ok || t.name() == "pgbackrest-zst3" {
			continue
		}
		j, err := p.pushTo(ctx, suffix)
		if err != nil {
			return nil, nil, fmt.Errorf("prepare %s: %w", t.name(), err)
		}
		names, jobs = append(names, t.name()), append(jobs, j)
	}
	names = append(names, "cp", "cp, synced")
	jobs = append(jobs,
		job{argv: []string{"/bin/sh", "-c", `exec cp "$1" "$0/"`, random}},
		job{argv: []string{"/bin/sh", "-c", `f=$0/${1##*/}-synced; cp "$1" "$f.tmp" && sync "$f.tmp" && mv "$f.tmp" "$f" && sync "$0"`, random}},
	)
	return names, jobs, nil
}

// segments makes WAL of inserts into a table with two indexes, and gives the names
// of n whole segments of it, some at a time: the server soon recycles those that
// were given before.
func (c *comparison) segments(ctx context.Context, n int, made func(names []string) error) error {
	const current = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"
	last, err := c.server.sql(ctx, "DROP TABLE IF EXISTS scratch; CREATE TABLE scratch (LIKE wide INCLUDING ALL); "+current)
	if err != nil {
		return err
	}
	for batch := 0; n > 0; batch++ {
		out, err := c.server.sql(ctx, fmt.Sprintf(`INSERT INTO scratch SELECT id + %d, key, at, amount, note, attributes FROM wide LIMIT 20000;
			SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND name > '%s' AND name < (%s) ORDER BY name LIMIT %d`, int64(batch)*1e9, last, current, n))
		if err != nil {
			return err
		}
		names := strings.Fields(out)
		if len(names) == 0 {
			continue
		}
		if err := made(names); err != nil {
			return err
		}
		n, last = n-len(names), names[len(names)-1]
	}
	_, err = c.server.sql(ctx, "DROP TABLE scratch")
	return err
}
