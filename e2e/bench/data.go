package main

import (
	"context"
	"fmt"
	"strconv"
)

// wideTable is what pgbench's tables are not: rows of various widths, text that
// compresses as text does, and an index in random order. Nothing in it depends
// on a clock or a random seed.
const wideTable = `
CREATE TABLE wide (id bigint PRIMARY KEY, key text NOT NULL, at timestamptz NOT NULL, amount numeric NOT NULL, note text NOT NULL, attributes jsonb NOT NULL)`

// wideRows adds the rows from one number up to another.
const wideRows = `
INSERT INTO wide SELECT i, md5(i::text), timestamptz '2024-01-01 00:00Z' + i * interval '37 seconds', (i * 7919 %% 1000003) / 100.0,
  repeat(substr('the quick brown fox jumps over the lazy dog, and what it saw there was number ', 1, (20 + i * 31 %% 58)::int), (1 + i * 13 %% 4)::int) || md5((i * 3)::text),
  jsonb_build_object('customer', i * 104729 %% 50000, 'state', (ARRAY['new','paid','packed','sent','returned'])[1 + i %% 5], 'tags', jsonb_build_array(md5((i %% 1000)::text), i %% 17), 'token', md5((i * 5)::text))
FROM generate_series(%d::bigint, %d::bigint) i`

const (
	pgbenchScaleMB = 15    // of one unit of pgbench's scale
	wideBatch      = 50000 // rows
)

// fill makes about so many megabytes of data, as many percent of them wide
// rows and the rest pgbench's.
func (p *postgres) fill(ctx context.Context, megabytes, wide int) error {
	scale := strconv.Itoa(max(1, megabytes*(100-wide)/100/pgbenchScaleMB))
	_, err := p.m.output(ctx, p.m.program("pgbench"), "-i", "-q", "-s", scale, "-h", p.m.dir, "-p", strconv.Itoa(p.port), "-U", "postgres", "postgres")
	if err != nil {
		return err
	}
	// pgbench's tables hold little but their filler. Some use makes dead rows
	// and balances that differ, as on a real server.
	if _, err := p.sql(ctx, "UPDATE pgbench_accounts SET abalance = aid::bigint * 7919 % 100003 WHERE aid % 5 = 0"); err != nil {
		return err
	}
	if _, err := p.sql(ctx, wideTable+"; CREATE INDEX ON wide (key)"); err != nil {
		return err
	}
	for first := 1; ; first += wideBatch {
		if _, err := p.sql(ctx, fmt.Sprintf(wideRows, first, first+wideBatch-1)); err != nil {
			return err
		}
		have, err := p.sql(ctx, "SELECT pg_database_size('postgres') / 1000000")
		if err != nil {
			return err
		}
		if n, err := strconv.Atoi(have); err != nil || n >= megabytes {
			break
		}
	}
	_, err = p.sql(ctx, "VACUUM (FREEZE, ANALYZE)")
	return err
}

// content sums up every table, so that a restored copy can be compared with
// its source.
func (p *postgres) content(ctx context.Context) (string, error) {
	return p.sql(ctx, `SELECT (SELECT format('%s/%s', count(*), sum(hashtext(w::text)::bigint)) FROM wide w) || ' ' ||
		(SELECT format('%s/%s', count(*), sum(hashtext(a::text)::bigint)) FROM pgbench_accounts a)`)
}
