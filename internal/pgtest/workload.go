package pgtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pgtender/pgtender/internal/pg/server"
)

// Workload is a seeded sequence of changes to a cluster: rows with and without
// TOAST, all index types, table rewrites, truncation, vacuum, unlogged and
// temporary tables, row locks, rollbacks, whole databases. The same seed gives
// the same statements. It is not safe for concurrent use; several with
// different seeds may work on one cluster.
type Workload struct {
	// Tablespaces are names of tablespaces to move tables into; none by default.
	Tablespaces []string

	c         *Cluster
	seed      uint64
	rng       *rand.Rand
	made      int // tables and databases so far, for names
	tables    []string
	databases []string
}

// Workload prepares a workload with the given seed.
func (c *Cluster) Workload(seed uint64) *Workload {
	return &Workload{c: c, seed: seed, rng: rand.New(rand.NewPCG(seed, 0))}
}

// MoveTo makes the workload go on in another server, which holds what the
// workload has made.
func (w *Workload) MoveTo(c *Cluster) { w.c = c }

// Run takes so many steps.
func (w *Workload) Run(t testing.TB, steps int) {
	t.Helper()
	for i := range steps {
		if err := w.Step(t.Context()); err != nil {
			t.Fatalf("workload with seed %d, step %d: %v", w.seed, i, err)
		}
	}
}

// Step takes one step: some statements in one session.
func (w *Workload) Step(ctx context.Context) error {
	statements := w.next()
	return w.c.in(ctx, "postgres", func(conn *server.Conn) error {
		for _, s := range statements {
			if err := conn.Exec(ctx, s); err != nil {
				return fmt.Errorf("%w\nin: %s", err, s)
			}
		}
		return nil
	})
}

// step is one kind of change; weight is how often it comes.
type step struct {
	weight int
	make   func(w *Workload, table string) []string
}

var steps = []step{
	{6, (*Workload).insert},
	{6, (*Workload).update},
	{4, (*Workload).remove},
	{2, (*Workload).create},
	{2, (*Workload).vacuum},
	{2, (*Workload).rewrite},
	{2, (*Workload).reindex},
	{2, (*Workload).rollBack},
	{1, (*Workload).truncate},
	{1, (*Workload).drop},
	{1, (*Workload).persistence},
	{1, (*Workload).temporary},
	{1, (*Workload).matview},
	{1, (*Workload).database},
	{1, (*Workload).move},
	{1, (*Workload).checkpoint},
}

func (w *Workload) next() []string {
	if len(w.tables) < 2 {
		return w.create("")
	}
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	n := w.rng.IntN(total)
	for _, s := range steps {
		if n -= s.weight; n < 0 {
			return s.make(w, w.tables[w.rng.IntN(len(w.tables))])
		}
	}
	panic("unreachable: the weights add up")
}

func (w *Workload) name(kind string) string {
	w.made++
	return fmt.Sprintf("%s_%d_%d", kind, w.seed, w.made)
}

func (w *Workload) create(string) []string {
	name := w.name("t")
	w.tables = append(w.tables, name)
	unlogged := ""
	if w.rng.IntN(8) == 0 {
		unlogged = "UNLOGGED"
	}
	out := []string{fmt.Sprintf(`CREATE %s TABLE %s (id bigserial PRIMARY KEY, k int, v text, a int[], p point, r int4range, j jsonb, ts timestamptz) WITH (fillfactor = %d)`,
		unlogged, name, 50+w.rng.IntN(51))}
	for _, index := range []string{"btree (k)", "btree (left(v, 40)) WHERE k > 0", "hash (k)", "gin (a)", "gin (j)", "gist (p)", "gist (r)", "spgist (p)", "brin (ts)"} {
		if w.rng.IntN(2) == 0 {
			out = append(out, fmt.Sprintf("CREATE INDEX ON %s USING %s", name, index))
		}
	}
	return append(out, w.insert(name)...)
}

// insert adds rows whose content depends on the statement alone. One in forty
// is too large for its page and does not compress.
func (w *Workload) insert(table string) []string {
	return []string{fmt.Sprintf(`
INSERT INTO %s (k, v, a, p, r, j, ts)
SELECT h %% 1000,
       CASE WHEN i %% 40 = 0 THEN (SELECT string_agg(md5((h + n)::text), '') FROM generate_series(1, 300) n) ELSE md5(h::text) END,
       ARRAY[h %% 7, h %% 11, h %% 13], point(h %% 997, h %% 991), int4range(h %% 500, h %% 500 + 10),
       jsonb_build_object('k', h %% 17, 'v', md5(h::text)), timestamptz '2020-01-01 UTC' + i * interval '1 minute'
  FROM (SELECT i, abs(hashint4(i + %d)) / 2 AS h FROM generate_series(1, %d) i) s`,
		table, w.rng.IntN(1<<30), 1+w.rng.IntN(2000))}
}

func (w *Workload) update(table string) []string {
	return []string{fmt.Sprintf(`UPDATE %s SET k = k + 1, v = md5(v) WHERE id %% %d = %d`, table, 2+w.rng.IntN(20), w.rng.IntN(2))}
}

func (w *Workload) remove(table string) []string {
	return []string{fmt.Sprintf(`DELETE FROM %s WHERE id %% %d = 0`, table, 2+w.rng.IntN(10))}
}

func (w *Workload) vacuum(table string) []string {
	how := []string{"", "(FREEZE)", "(FULL)", "(ANALYZE)", "(INDEX_CLEANUP ON, TRUNCATE ON)"}
	return []string{fmt.Sprintf("VACUUM %s %s", how[w.rng.IntN(len(how))], table)}
}

func (w *Workload) rewrite(table string) []string {
	how := [][]string{
		{"DROP MATERIALIZED VIEW IF EXISTS mv_%[1]s", "ALTER TABLE %[1]s ALTER k TYPE bigint", "ALTER TABLE %[1]s ALTER k TYPE int"},
		{"ALTER TABLE %[1]s SET (fillfactor = 80)"},
		{"CLUSTER %[1]s USING %[1]s_pkey"},
		{"ALTER TABLE %[1]s ADD COLUMN IF NOT EXISTS extra text DEFAULT clock_timestamp()::text"},
		{"ALTER TABLE %[1]s DROP COLUMN IF EXISTS extra"},
	}
	var out []string
	for _, s := range how[w.rng.IntN(len(how))] {
		out = append(out, fmt.Sprintf(s, table))
	}
	return out
}

func (w *Workload) reindex(table string) []string {
	if w.rng.IntN(2) == 0 {
		return []string{"REINDEX TABLE CONCURRENTLY " + table}
	}
	return []string{"REINDEX TABLE " + table}
}

func (w *Workload) rollBack(table string) []string {
	out := []string{"BEGIN", "SAVEPOINT s"}
	out = append(out, w.insert(table)...)
	out = append(out, "ROLLBACK TO s", fmt.Sprintf("SELECT count(*) FROM (SELECT 1 FROM %s WHERE id %% 50 = 0 FOR SHARE) x", table))
	out = append(out, w.update(table)...)
	return append(out, []string{"COMMIT", "ROLLBACK"}[w.rng.IntN(2)])
}

func (w *Workload) truncate(table string) []string {
	return append([]string{"TRUNCATE " + table}, w.insert(table)...)
}

func (w *Workload) drop(table string) []string {
	if len(w.tables) < 4 {
		return w.create("")
	}
	w.tables = slices.DeleteFunc(w.tables, func(s string) bool { return s == table })
	return []string{"DROP TABLE " + table + " CASCADE"}
}

func (w *Workload) persistence(table string) []string {
	return []string{fmt.Sprintf("ALTER TABLE %s SET %s", table, []string{"LOGGED", "UNLOGGED"}[w.rng.IntN(2)])}
}

func (w *Workload) temporary(table string) []string {
	return []string{
		"CREATE TEMP TABLE scratch AS SELECT * FROM " + table,
		"CREATE INDEX ON scratch (k)",
		fmt.Sprintf("INSERT INTO %s (k, v) SELECT k, v FROM scratch LIMIT 100", table),
	}
}

func (w *Workload) matview(table string) []string {
	return []string{
		fmt.Sprintf("CREATE MATERIALIZED VIEW IF NOT EXISTS mv_%s AS SELECT k, count(*) AS n FROM %[1]s GROUP BY k", table),
		"REFRESH MATERIALIZED VIEW mv_" + table,
	}
}

func (w *Workload) database(string) []string {
	if n := len(w.databases); n > 1 {
		name := w.databases[0]
		w.databases = w.databases[1:]
		return []string{"DROP DATABASE " + name}
	}
	name := w.name("db")
	w.databases = append(w.databases, name)
	strategy := ""
	if w.c.Major >= 15 {
		strategy = " STRATEGY " + []string{"wal_log", "file_copy"}[w.rng.IntN(2)]
	}
	return []string{"CREATE DATABASE " + name + strategy}
}

func (w *Workload) move(table string) []string {
	spaces := append([]string{"pg_default"}, w.Tablespaces...)
	return []string{fmt.Sprintf("ALTER TABLE %s SET TABLESPACE %s", table, spaces[w.rng.IntN(len(spaces))])}
}

func (w *Workload) checkpoint(string) []string {
	return []string{"CHECKPOINT", "SELECT pg_switch_wal()"}
}
