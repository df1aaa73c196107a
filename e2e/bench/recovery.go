package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// recovery measures how long a server takes to replay WAL that it fetches segment
// by segment, from the start of the server to the end of recovery.
func (c *comparison) recovery(ctx context.Context, tools []tool, n int) error {
	if err := c.server.archiveWith(ctx, "/bin/true"); err != nil {
		return err
	}
	base := c.path("recovery-base")
	defer os.RemoveAll(base)
	if err := os.RemoveAll(base); err != nil {
		return err
	}
	if _, err := c.output(ctx, c.program("pg_basebackup"), "-D", base, "-h", c.dir, "-p", fmt.Sprint(sourcePort), "-U", "postgres", "-c", "fast", "-X", "none"); err != nil {
		return err
	}
	if err := c.segments(ctx, n, func([]string) error { return nil }); err != nil {
		return err
	}
	if _, err := c.server.sql(ctx, "SELECT pg_switch_wal()"); err != nil {
		return err
	}
	// From the backup's own WAL on.
	list, err := c.server.sql(ctx, fmt.Sprintf("SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND pg_walfile_name('%s') <= name AND name < pg_walfile_name(pg_current_wal_insert_lsn()) ORDER BY name", startOf(base)))
	if err != nil {
		return err
	}
	segments := strings.Fields(list)
	x, err := c.newMember("recovery-wal")
	if err != nil {
		return err
	}
	defer os.RemoveAll(x.dir)
	if err := x.add(segments); err != nil {
		return err
	}
	c.say("recovery through %d segments", len(segments))
	for round := range c.opts.runs {
		for i := range 3 {
			if err := c.recover(ctx, round, (i+round)%3, tools, base, x); err != nil {
				return err
			}
		}
	}
	return nil
}

// startOf reads from backup_label where a backup's WAL begins.
func startOf(base string) string {
	content, _ := os.ReadFile(filepath.Join(base, "backup_label")) // without it the query fails
	_, rest, _ := strings.Cut(string(content), "START WAL LOCATION: ")
	lsn, _, _ := strings.Cut(rest, " ")
	return lsn
}

// recover measures one way: cp, pgtender alone, or with its agent.
func (c *comparison) recover(ctx context.Context, round, kind int, tools []tool, base string, x *member) error {
	dir := c.path("recovered")
	defer os.RemoveAll(dir)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if _, err := c.output(ctx, "/bin/cp", "-a", base, dir); err != nil {
		return err
	}
	w := way{name: "cp", command: "cp " + filepath.Join(x.dir, "pg_wal") + "/%f %p"}
	if kind > 0 {
		var err error
		if w, err = c.fetching(ctx, kind == 2, tools, dir, x); err != nil || w.name == "" {
			return err
		}
	}
	if err := c.writeFile(filepath.Join(dir, "recovery.signal"), "", 0o600); err != nil {
		return err
	}
	if err := settleDisk(false); err != nil {
		return err
	}
	end, err := c.agent(ctx, w.config)
	if err != nil {
		return err
	}
	c.say("round %d: recovery by %s", round+1, w.name)
	begin := time.Now()
	p, err := c.startPostgres(ctx, dir, restoredPort, "archive_mode=off", "fsync=off", "hot_standby=off", "restore_command="+w.command)
	u := usage{wall: time.Since(begin)}
	u.cpu = end()
	if err != nil {
		return fmt.Errorf("recovery by %s: %w", w.name, err)
	}
	defer p.stop()
	c.report.add(round, w.name, "recovery", u)
	return nil
}

// fetching gives pgtender's way, with all segments in its repository.
func (c *comparison) fetching(ctx context.Context, agent bool, tools []tool, dir string, x *member) (way, error) {
	for _, t := range tools {
		t, ok := t.(*pgtender)
		if !ok {
			continue
		}
		const repository = "pgtender-recovery"
		config, err := t.memberConfig(repository, x.dir, nil)
		if err != nil {
			return way{}, err
		}
		if err := x.wait(); err != nil {
			return way{}, err
		}
		push, err := x.archiver(fmt.Sprintf("%s --config %s --log-level warn archive-push", t.program, config))
		if err == nil {
			_, err = c.output(ctx, push.argv...)
		}
		if err != nil {
			return way{}, err
		}
		if config, err = t.memberConfig(repository, dir, nil); err != nil {
			return way{}, err
		}
		w := way{name: ours, command: fmt.Sprintf("%s --config %s --log-level warn archive-get %%f %%p", t.program, config)}
		if agent {
			w.name, w.config = withAgent, config
		}
		return w, nil
	}
	return way{}, nil
}
