package archive_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestChangesEqualTheServersOwn: what an archive knows of a server's work, pushed
// from its pg_wal in any order, is what the server's WAL summaries say, or what
// pg_waldump finds.
func TestChangesEqualTheServersOwn(t *testing.T) {
	pgtest.EachMajor(t, func(t *testing.T, major int) {
		config := map[string]string{
			"wal_keep_size": "4GB", "max_wal_size": "4GB", "autovacuum": "off", "wal_compression": "on", "max_prepared_transactions": "5",
		}
		if major >= 17 {
			config["summarize_wal"] = "on"
		} else if major != 15 {
			t.Skip("this version offers nothing to compare with but what the reader's own tests use")
		}
		seed := uint64(major) * 31
		c := pgtest.New(t, pgtest.Options{Major: major, WALSegSize: 1, Checksums: true, Config: config})
		w := c.Workload(seed)
		w.Run(t, 5)
		begin := checkpointInNewSegment(t, c)
		w.Run(t, 25)
		c.Exec(t, "SELECT pg_logical_emit_message(true, 'test', repeat('m', 3000000))",
			"CREATE TABLE gone AS SELECT i FROM generate_series(1, 3000) i", "BEGIN", "DROP TABLE gone", "PREPARE TRANSACTION 'one'", "COMMIT PREPARED 'one'",
			"CREATE TABLE shrink AS SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i", "DELETE FROM shrink WHERE i > 100", "VACUUM shrink")
		if major == 17 { // through a whole group, so that there is an index
			c.Exec(t, "DO $$ BEGIN WHILE pg_current_wal_insert_lsn() < '0/20500000' LOOP PERFORM pg_logical_emit_message(false, 'test', ''); PERFORM pg_switch_wal(); END LOOP; END $$")
		}
		w.Run(t, 10)
		end := checkpointInNewSegment(t, c)

		id, err := pg.ParseSystemID(c.Value(t, systemID))
		if err != nil {
			t.Fatal(err)
		}
		store := mem.New()
		r := repo.Open(store, repo.ClusterID{Scope: "demo", SystemID: id}, repo.Options{})
		dir := filepath.Join(c.DataDir, "pg_wal")
		first, last := segSize.SegmentOf(begin)-1, segSize.SegmentOf(end)-1
		for _, n := range rand.New(rand.NewPCG(seed, 2)).Perm(int(last - first + 1)) {
			push(t, r, filepath.Join(dir, seg(1, first+pg.SegmentNumber(n)).Name(segSize)))
		}
		from, to := segSize.Start(segSize.SegmentOf(begin)), segSize.Start(segSize.SegmentOf(end))
		m, done, err := archive.Changes(t.Context(), r, pg.FirstTimeline(), segSize, from, to)
		if err != nil || !done.Complete() {
			t.Fatalf("seed %d: %+v, %v", seed, done, err)
		}
		all, done, err := archive.Changes(t.Context(), r, pg.FirstTimeline(), segSize, segSize.Start(first), to)
		if err != nil || !done.Complete() || done.Indexes < int(last/512) || done.Segments != int(last-first+1) {
			t.Fatalf("seed %d: all: %+v, %v", seed, done, err)
		}
		want := wal.BlockMap{}
		want.Merge(all)
		if want.Merge(m); !want.Equal(all) {
			t.Errorf("seed %d: the changes of a part are not among those of the whole", seed)
		}
		idle(t, dir, from, begin)
		idle(t, dir, to, end)
		if major >= 17 {
			sameAs(t, seed, m, summarized(t, c, begin, end))
		} else {
			sameAs(t, seed, withoutLimits(m), dumped(t, c, m, from, to))
		}
		repotest.Check(t, store)
	})
}

// checkpointInNewSegment gives the redo position of a checkpoint at the beginning
// of a segment.
func checkpointInNewSegment(t *testing.T, c *pgtest.Cluster) pg.LSN {
	t.Helper()
	c.Exec(t, "SELECT pg_switch_wal()", "CHECKPOINT")
	redo, err := pg.ParseLSN(c.Value(t, "SELECT redo_lsn FROM pg_control_checkpoint()"))
	if err != nil {
		t.Fatal(err)
	}
	return redo
}

// idle fails if a record between two positions changes a block.
func idle(t *testing.T, dir string, from, to pg.LSN) {
	t.Helper()
	r := wal.NewReader(wal.Dir{Path: dir, History: pg.FirstTimeline(), SegmentSize: segSize}, from, wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: segSize})
	defer r.Close()
	for {
		rec, err := r.Next(t.Context())
		if err == io.EOF || err == nil && rec.Start >= to {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(rec.Blocks) > 0 {
			t.Fatalf("the server was not idle: the record at %s changes blocks", rec.Start)
		}
	}
}

// summarized unites the server's summaries between two checkpoints.
func summarized(t *testing.T, c *pgtest.Cluster, begin, end pg.LSN) *wal.BlockMap {
	t.Helper()
	c.WaitFor(t, fmt.Sprintf("SELECT max(end_lsn) >= '%s' FROM pg_available_wal_summaries()", end), "t")
	m := new(wal.BlockMap)
	at := begin
	for _, f := range c.Query(t, fmt.Sprintf("SELECT start_lsn, end_lsn FROM pg_available_wal_summaries() WHERE start_lsn >= '%s' AND end_lsn <= '%s' ORDER BY 1", begin, end)) {
		if first, err := pg.ParseLSN(f[0]); err != nil || first != at {
			t.Fatalf("a summary begins at %s, not at %s: %v", f[0], at, err)
		}
		at, _ = pg.ParseLSN(f[1])
		for _, row := range c.Query(t, fmt.Sprintf(`SELECT reltablespace, reldatabase, relfilenode, relforknumber, relblocknumber, is_limit_block
			FROM pg_wal_summary_contents(1, '%s', '%s')`, f[0], f[1])) {
			v := numbers(t, row[:5])
			switch {
			case v[2] == 0:
				m.MarkWhole(wal.Database{Tablespace: v[0], Database: v[1]})
			case row[5] == "t":
				m.Truncate(wal.Relation{Tablespace: v[0], Database: v[1], Number: v[2]}, wal.Fork(v[3]), v[4])
			default:
				m.Mark(wal.Relation{Tablespace: v[0], Database: v[1], Number: v[2]}, wal.Fork(v[3]), v[4])
			}
		}
	}
	if at != end {
		t.Fatalf("the summaries end at %s, not at %s", at, end)
	}
	return m
}

func numbers(t *testing.T, words []string) []uint32 {
	t.Helper()
	out := make([]uint32, len(words))
	for i, s := range words {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		out[i] = uint32(n)
	}
	return out
}

var blockRef = regexp.MustCompile(`blkref #\d+: rel (\d+)/(\d+)/(\d+)(?: fork (\w+))? blk (\d+)`)

// dumped is what pg_waldump says of blocks, less what m has a limit for.
func dumped(t *testing.T, c *pgtest.Cluster, m *wal.BlockMap, from, to pg.LSN) *wal.BlockMap {
	t.Helper()
	forks := map[string]string{"": "0", "vm": "2", "init": "3", "main": "0"}
	out := new(wal.BlockMap)
	lines := bufio.NewScanner(strings.NewReader(c.Waldump(t, "-t", "1", "-s", from.String(), "-e", to.String())))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		for _, match := range blockRef.FindAllStringSubmatch(lines.Text(), -1) {
			if match[4] == "fsm" {
				continue // changes without a reference as well, and so is in no map
			}
			v := numbers(t, []string{match[1], match[2], match[3], forks[match[4]], match[5]})
			rel, fork := wal.Relation{Tablespace: v[0], Database: v[1], Number: v[2]}, wal.Fork(v[3])
			if !m.Changed(rel, fork, v[4]) {
				t.Fatalf("block %d of %s is not in the map", v[4], rel)
			}
			if limit, ok := m.Recorded(rel, fork).Limit(); !ok || v[4] < limit {
				out.Mark(rel, fork, v[4])
			}
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// withoutLimits gives the blocks of a map alone.
func withoutLimits(m *wal.BlockMap) *wal.BlockMap {
	out := new(wal.BlockMap)
	for k, changes := range m.Forks() {
		for b := range changes.Blocks(0, 1<<32-1) {
			out.Mark(k.Relation, k.Fork, b)
		}
	}
	return out
}

func sameAs(t *testing.T, seed uint64, got, want *wal.BlockMap) {
	t.Helper()
	list := func(m *wal.BlockMap) (out []string) {
		for _, db := range m.Databases() {
			out = append(out, fmt.Sprintf("%d/%d whole", db.Tablespace, db.Database))
		}
		for k, changes := range m.Forks() {
			limit, _ := changes.Limit()
			for b := range changes.Blocks(0, 1<<32-1) {
				out = append(out, fmt.Sprintf("%s %s %d", k.Relation, k.Fork, b))
			}
			out = append(out, fmt.Sprintf("%s %s limit %d", k.Relation, k.Fork, limit))
		}
		return out
	}
	a, b := list(got), list(want)
	if len(b) < 300 {
		t.Errorf("seed %d: %d changes are too few to say anything", seed, len(b))
	}
	if got.Equal(want) {
		return
	}
	only := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
	}
	extra, missing := only(a, b), only(b, a)
	t.Errorf("seed %d: %d changes, want %d; too many: %q; missing: %q", seed, len(a), len(b), extra[:min(9, len(extra))], missing[:min(9, len(missing))])
}
