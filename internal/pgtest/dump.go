package pgtest

import (
	"fmt"
	"strings"
	"testing"
)

// Dump gives the cluster's logical content as text to compare: the definitions,
// then a line for each permanent table and materialized view with its number
// of rows and a digest of them that does not depend on their order. Two servers
// of one major version with equal content give equal text. Left out are
// unlogged and temporary tables, which no backup holds, and the state of
// sequences, which WAL logs ahead.
func (c *Cluster) Dump(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(c.schema(t))
	for _, db := range c.databases(t) {
		for _, rel := range c.QueryIn(t, db, `
SELECT c.oid::regclass, quote_literal(n.nspname || '.' || c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated
   AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast'
 ORDER BY 2`) {
			sum := c.QueryIn(t, db, fmt.Sprintf(
				`SELECT count(*), coalesce(sum(hashtextextended(x::text, 0)::numeric), 0) FROM ONLY %s x`, rel[0]))[0]
			fmt.Fprintf(&b, "%s %s: %s rows, digest %s\n", db, rel[1], sum[0], sum[1])
		}
	}
	return b.String()
}

// schema gives all definitions: pg_dumpall's, which reads servers up to its own
// version, and otherwise a list of what the catalogs hold.
func (c *Cluster) schema(t testing.TB) string {
	t.Helper()
	if _, own := ownTool(c.Major, "pg_dumpall"); own || c.Major <= DefaultMajor {
		var b strings.Builder
		for line := range strings.Lines(c.tool(t, "pg_dumpall", "--schema-only")) {
			// A random word since 15.14, against psql being led astray.
			if !strings.HasPrefix(line, `\restrict `) && !strings.HasPrefix(line, `\unrestrict `) {
				line, _, _ = strings.Cut(line, " LOCATION '/") // of a tablespace: differs between copies
				b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
			}
		}
		return b.String()
	}
	var b strings.Builder
	list := func(db, sql string) {
		for _, row := range c.QueryIn(t, db, sql) {
			fmt.Fprintf(&b, "%s %s\n", db, strings.Join(row, " "))
		}
	}
	list("postgres", `SELECT 'database', oid, datname FROM pg_database ORDER BY 2`)
	list("postgres", `SELECT 'role', oid, rolname FROM pg_roles ORDER BY 2`)
	list("postgres", `SELECT 'tablespace', oid, spcname FROM pg_tablespace ORDER BY 2`)
	for _, db := range c.databases(t) {
		list(db, `SELECT 'relation', c.oid, relnamespace::regnamespace, relname, relkind, relpersistence, reltablespace, reloptions
			FROM pg_class c WHERE c.oid >= 16384 AND relnamespace::regnamespace::text !~ '^pg_temp' ORDER BY 2`)
		list(db, `SELECT 'column', attrelid, attnum, attname, atttypid, attnotnull, attisdropped
			FROM pg_attribute WHERE attrelid >= 16384 AND attnum > 0 ORDER BY 2, 3`)
		list(db, `SELECT 'constraint', oid, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE oid >= 16384 ORDER BY 2`)
		list(db, `SELECT 'index', indexrelid, pg_get_indexdef(indexrelid), indisvalid FROM pg_index WHERE indexrelid >= 16384 ORDER BY 2`)
		list(db, `SELECT 'function', oid, proname, md5(prosrc) FROM pg_proc WHERE oid >= 16384 ORDER BY 2`)
	}
	return b.String()
}
