package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// bench does everything and gives the report, with an error too: of what was
// measured until then.
func bench(ctx context.Context, o options, note io.Writer) (report *Report, err error) {
	m, done, err := newMachine(o, note)
	if err != nil {
		return nil, err
	}
	defer done()
	tools, skipped, err := m.tools(ctx, o)
	if err != nil {
		return nil, err
	}
	if o.sizes != "" {
		report := newReport(tools, skipped, o)
		return report, chains(ctx, m, o, tools, report)
	}
	if err := m.startSource(ctx, o.size, o.wide); err != nil {
		return nil, err
	}
	defer func() { m.server.stop() }() // a catchup starts it anew
	c := &comparison{machine: m, opts: o, report: newReport(tools, skipped, o)}
	if c.report.DataBytes, err = size(m.server.dataDir, func(path string) bool { return strings.Contains(path, "/pg_wal/") }); err != nil {
		return nil, err
	}
	if c.want, err = m.server.content(ctx); err != nil {
		return nil, err
	}
	err = c.jobs(ctx, tools)
	c.report.summarize()
	return c.report, err
}

// jobs runs those that are wanted, one after the other.
func (c *comparison) jobs(ctx context.Context, tools []tool) error {
	o := c.opts
	for round := range o.runs {
		if !o.does("backup") && !o.does("restore") {
			break
		}
		for i := range tools {
			// The first place is everybody's in turn.
			if err := c.round(ctx, round, tools[(i+round)%len(tools)]); err != nil {
				return err
			}
		}
	}
	for round := range o.runs {
		if !o.does("incremental") {
			break
		}
		for i := range tools {
			if err := c.incremental(ctx, round, tools[(i+round)%len(tools)]); err != nil {
				return err
			}
		}
	}
	for round := range o.runs {
		for _, kind := range comebacks {
			if !o.does(kind.job) {
				continue
			}
			for i := range tools {
				if err := c.comeBack(ctx, round, tools[(i+round)%len(tools)], kind); err != nil {
					return err
				}
			}
		}
	}
	if o.does("push") {
		if err := c.push(ctx, tools, o.segments); err != nil {
			return err
		}
	}
	if o.does("backlog") || o.does("backlog-s3") {
		if err := c.backlogs(ctx, tools); err != nil {
			return err
		}
	}
	if o.does("recovery") {
		if err := c.recovery(ctx, tools, o.backlog); err != nil {
			return err
		}
	}
	return nil
}

// tools finds the programs; a peer that is not installed is left out.
func (m *machine) tools(ctx context.Context, o options) (tools []tool, skipped []string, err error) {
	for name := range strings.SplitSeq(o.tools, ",") {
		name = strings.TrimSpace(name)
		t, err := m.newTool(ctx, name, o)
		if errors.Is(err, errNotInstalled) {
			m.say("%s is left out: %v", name, err)
			skipped = append(skipped, name)
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if slices.ContainsFunc(tools, func(other tool) bool { return other.name() == t.name() }) {
			return nil, nil, fmt.Errorf("--tools: %s twice", name)
		}
		tools = append(tools, t)
	}
	if len(tools) == 0 {
		return nil, nil, errors.New("none of the tools is installed")
	}
	return tools, skipped, nil
}

// comparison is a run of the bench.
type comparison struct {
	*machine
	opts   options
	want   string // content of the source
	turn   int    // the last row of the table turn, if it is made
	report *Report
}

// round measures one backup and one restore of a tool.
func (c *comparison) round(ctx context.Context, round int, tool tool) error {
	t, ok := tool.(backer)
	if !ok {
		return nil
	}
	archive, err := t.prepare(ctx)
	if err != nil {
		return fmt.Errorf("prepare %s: %w", t.name(), err)
	}
	// A restore alone must not find WAL of this moment in the archive: what was
	// written while another tool was measured is missing before it.
	if c.opts.does("backup") {
		if err := c.server.archiveWith(ctx, archive); err != nil {
			return fmt.Errorf("prepare %s: %w", t.name(), err)
		}
		if err := c.backup(ctx, round, t); err != nil {
			return err
		}
	}
	if !c.opts.does("restore") {
		return nil
	}
	dir := c.path("restored")
	defer os.RemoveAll(dir)
	if err := c.restore(ctx, round, t, dir); err != nil {
		return err
	}
	if round > 0 {
		return nil
	}
	if err := c.verify(ctx, dir); err != nil {
		return fmt.Errorf("what %s restored: %w", t.name(), err)
	}
	return nil
}

func (c *comparison) backup(ctx context.Context, round int, t backer) error {
	f, err := c.measureBackup(ctx, t, t.backup(), fmt.Sprintf("round %d: backup by %s", round+1, t.name()))
	if err != nil {
		return err
	}
	c.report.keep(round, t.name(), "backup", f)
	return nil
}

// measureBackup measures a backup by t, whatever its kind.
func (c *comparison) measureBackup(ctx context.Context, t backer, j job, announced string) (Figures, error) {
	before, err := t.stored()
	if err != nil {
		return Figures{}, err
	}
	if t.name() == "pg_basebackup" {
		before = 0 // it is written over
	}
	if err := settleDisk(c.opts.cold, c.server.dataDir); err != nil {
		return Figures{}, err
	}
	c.say("%s", announced)
	u, err := c.measure(ctx, j)
	if err != nil {
		return Figures{}, err
	}
	checkpoint, wal, err := t.waits(u)
	if err != nil {
		return Figures{}, err
	}
	after, err := t.stored()
	if err != nil {
		return Figures{}, err
	}
	return figures(u, checkpoint, wal, after-before), nil
}

func (c *comparison) restore(ctx context.Context, round int, t backer, dir string) error {
	f, err := c.measureRestore(ctx, t, dir, fmt.Sprintf("round %d: restore by %s", round+1, t.name()))
	if err != nil {
		return err
	}
	c.report.keep(round, t.name(), "restore", f)
	return nil
}

// measureRestore measures a restore by t into dir, which is made anew.
func (c *comparison) measureRestore(ctx context.Context, t backer, dir, announced string) (Figures, error) {
	if err := os.RemoveAll(dir); err != nil {
		return Figures{}, err
	}
	if err := c.mkdir(dir, 0o700); err != nil {
		return Figures{}, err
	}
	if err := settleDisk(c.opts.cold, c.dir); err != nil {
		return Figures{}, err
	}
	c.say("%s", announced)
	u, err := c.measure(ctx, t.restore(dir))
	return figures(u, 0, 0, 0), err
}

// verify starts a restored copy, which recovers by the tool's own
// restore_command unless settings have another, and compares its tables with the
// source's.
func (c *comparison) verify(ctx context.Context, dir string, settings ...string) error {
	p, err := c.startPostgres(ctx, dir, restoredPort, append([]string{"archive_mode=off", "fsync=off"}, settings...)...)
	if err != nil {
		return err
	}
	defer p.stop()
	have, err := p.content(ctx)
	if err != nil {
		return err
	}
	if have != c.want {
		return fmt.Errorf("its tables hold %s, the source's %s", have, c.want)
	}
	if c.turn == 0 {
		return nil
	}
	last, err := p.sql(ctx, "SELECT max(n) FROM turn")
	if err == nil && last != strconv.Itoa(c.turn) {
		err = fmt.Errorf("it is of turn %s, the source of turn %d", last, c.turn)
	}
	return err
}
