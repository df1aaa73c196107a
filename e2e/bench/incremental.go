package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// incremental measures an incremental backup of random pages on a full one. All
// of it happens in one tool's turn: its archive must not lack WAL of another's.
func (c *comparison) incremental(ctx context.Context, round int, t tool) error {
	inc, ok := t.(incrementer)
	if !ok {
		return nil
	}
	archive, err := t.prepare(ctx)
	if err == nil {
		err = c.server.archiveWith(ctx, archive)
	}
	if err != nil {
		return fmt.Errorf("prepare %s: %w", t.name(), err)
	}
	c.say("round %d: full backup by %s, to build on", round+1, t.name())
	if _, err := c.measure(ctx, inc.backup()); err != nil {
		return err
	}
	pages, err := c.server.touch(ctx, c.opts.pages)
	if err == nil {
		err = c.server.archiveWith(ctx, archive)
	}
	if err != nil {
		return err
	}
	f, err := c.measureBackup(ctx, inc, inc.incremental(), fmt.Sprintf("round %d: incremental backup of %d changed pages by %s", round+1, pages, t.name()))
	if err != nil {
		return err
	}
	c.report.keep(round, t.name(), "incremental", f)
	if round > 0 {
		return nil
	}
	dir := c.path("restored")
	defer os.RemoveAll(dir)
	if err := c.mkdir(dir, 0o700); err != nil {
		return err
	}
	if _, err := c.measure(ctx, inc.restore(dir)); err != nil {
		return err
	}
	if err := c.verify(ctx, dir); err != nil {
		return fmt.Errorf("what %s restored of an incremental backup: %w", t.name(), err)
	}
	return nil
}

// touch changes about n random pages of the two large tables, a few bytes in
// each and nothing else: locking a row is written into its page and to WAL.
func (p *postgres) touch(ctx context.Context, n int) (pages int, err error) {
	for _, table := range touchedTables {
		blocks, err := p.touchTable(ctx, table, n/len(touchedTables))
		if err != nil {
			return 0, err
		}
		pages += len(blocks)
	}
	return pages, nil
}

var touchedTables = []string{"wide", "pgbench_accounts"}

// touchTable changes about n random pages of one table, and gives which.
func (p *postgres) touchTable(ctx context.Context, table string, n int) ([]int64, error) {
	locked, err := p.sql(ctx, fmt.Sprintf(`
SELECT string_agg(block::text, ',') FROM (SELECT (ctid::text::point)[0]::bigint AS block FROM %[1]s WHERE ctid = ANY (ARRAY(
  SELECT DISTINCT format('(%%s,1)', floor(random() * (pg_relation_size('%[1]s') / 8192))::bigint)::tid FROM generate_series(1, %[2]d))) FOR UPDATE) s`, table, n))
	if err != nil {
		return nil, err
	}
	var blocks []int64
	for text := range strings.SplitSeq(locked, ",") {
		b, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("touch pages of %s: %q", table, text)
		}
		blocks = append(blocks, b)
	}
	return blocks, nil
}
