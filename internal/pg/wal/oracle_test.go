package wal_test

import (
	"bufio"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
	"github.com/pgtender/pgtender/internal/soak"
)

var (
	dumpRecord = regexp.MustCompile(`^rmgr: \S+ +len \(rec/tot\): +\d+/ *(\d+), tx: +(\d+), lsn: ([0-9A-F/]+), prev ([0-9A-F/]+), desc:`)
	dumpBlock  = regexp.MustCompile(`^\s*blkref #(\d+): rel (\d+)/(\d+)/(\d+)(?: fork (\w+))? blk (\d+)( \(FPW)?`)
)

// equalsWaldump compares every record, and every block reference of it.
func (l *live) equalsWaldump(t *testing.T) {
	out := l.Waldump(t, "--bkp-details", "-t", "1", "-s", l.start.String(), "-e", l.end.String())
	var got, want []string
	for _, r := range l.records {
		got = append(got, fmt.Sprintf("%s prev %s xid %d length %d", r.Start, r.Prev, r.XID, r.Length))
		for _, b := range r.Blocks {
			got = append(got, fmt.Sprintf("%s #%d %s %s %d %v", r.Start, b.ID, b.Relation, b.Fork, b.Block, b.Image))
		}
	}
	start := ""
	sc := bufio.NewScanner(strings.NewReader(out))
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		if m := dumpRecord.FindStringSubmatch(sc.Text()); m != nil {
			start = position(t, m[3]).String()
			want = append(want, fmt.Sprintf("%s prev %s xid %s length %s", start, position(t, m[4]), m[2], m[1]))
		} else if m := dumpBlock.FindStringSubmatch(sc.Text()); m != nil {
			if m[5] == "" {
				m[5] = "main"
			}
			want = append(want, fmt.Sprintf("%s #%s %s/%s/%s %s %s %v", start, m[1], m[2], m[3], m[4], m[5], m[6], m[7] != ""))
		}
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	same(t, want, got)
	l.compared.Add(soak.Tally{"records": len(l.records), "references": len(got) - len(l.records)})
}

func position(t *testing.T, s string) pg.LSN {
	t.Helper()
	p, err := pg.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// same compares two lists that are meant to be long and equal.
func same(t *testing.T, want, got []string) {
	t.Helper()
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			t.Fatalf("line %d differs: %s", i, cmp.Diff(want[i:min(i+4, len(want))], got[i:min(i+4, len(got))]))
		}
	}
	if len(want) != len(got) || len(want) < 100 {
		t.Fatalf("%d lines, want %d and at least 100", len(got), len(want))
	}
}

// managers are the resource managers by number (access/rmgrlist.h).
var managers = []string{
	"XLOG", "Transaction", "Storage", "CLOG", "Database", "Tablespace", "MultiXact", "RelMap", "Standby", "Heap2", "Heap",
	"Btree", "Hash", "Gin", "Gist", "Sequence", "SPGist", "BRIN", "CommitTs", "ReplicationOrigin", "Generic", "LogicalMessage",
}

// equalsWalinspect compares every record, and every block reference of it.
func (l *live) equalsWalinspect(t *testing.T) {
	l.Exec(t, "CREATE EXTENSION IF NOT EXISTS pg_walinspect")
	var got, want []string
	for _, row := range l.Query(t, fmt.Sprintf(`SELECT start_lsn, prev_lsn, xid, record_length, resource_manager
		FROM pg_get_wal_records_info('%s', '%s') ORDER BY start_lsn`, l.start, l.end)) {
		want = append(want, fmt.Sprintf("%s %s %s", position(t, row[0]), position(t, row[1]), strings.Join(row[2:], " ")))
	}
	for _, r := range l.records {
		got = append(got, fmt.Sprintf("%s %s %d %d %s", r.Start, r.Prev, r.XID, r.Length, managers[r.Rmgr]))
	}
	same(t, want, got)
	l.compared.Add(soak.Tally{"records": len(got)})

	got, want = nil, nil
	for _, row := range l.Query(t, fmt.Sprintf(`SELECT start_lsn, prev_lsn, block_id, reltablespace, reldatabase, relfilenode, relforknumber, relblocknumber,
		block_fpi_length > 0 FROM pg_get_wal_block_info('%s', '%s', false) ORDER BY start_lsn, block_id`, l.start, l.end)) {
		want = append(want, fmt.Sprintf("%s %s %s", position(t, row[0]), position(t, row[1]), strings.Join(row[2:], " ")))
	}
	for _, r := range l.records {
		for _, b := range r.Blocks {
			got = append(got, fmt.Sprintf("%s %s %d %d %d %d %d %d %.1s", r.Start, r.Prev, b.ID,
				b.Relation.Tablespace, b.Relation.Database, b.Relation.Number, b.Fork, b.Block, strconv.FormatBool(b.Image)))
		}
	}
	same(t, want, got)
	l.compared.Add(soak.Tally{"references": len(got)})
}

// equalsSummaries compares a map with each summary file of the server, limits
// included.
func (l *live) equalsSummaries(t *testing.T) {
	l.Exec(t, "CHECKPOINT")
	l.WaitFor(t, fmt.Sprintf("SELECT summarized_lsn >= '%s' FROM pg_get_wal_summarizer_state()", l.end), "t")
	files := l.Query(t, fmt.Sprintf("SELECT start_lsn, end_lsn FROM pg_available_wal_summaries() WHERE end_lsn > '%s' ORDER BY 1", l.start))
	total := 0
	for _, f := range files {
		rows := l.Query(t, fmt.Sprintf(`SELECT reltablespace, reldatabase, relfilenode, relforknumber, is_limit_block, relblocknumber
			FROM pg_wal_summary_contents(1, '%s', '%s')`, f[0], f[1]))
		want := normal(t, rows)
		m := new(wal.BlockMap)
		r := wal.NewReader(l.dir(), position(t, f[0]), wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: l.size})
		records := readMapped(t, r, position(t, f[1]), m)
		got := contents(m)
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("summary from %s to %s: %s", f[0], f[1], diff[:min(len(diff), 2000)])
		}
		total += len(want)
		l.compared.Add(soak.Tally{"summaries": 1, "summarized": len(records)})
	}
	if len(files) < 2 || total < 1000 {
		t.Errorf("%d summaries with %d rows: the work is too small", len(files), total)
	}
}

// normal leaves out the blocks that a limit covers. The server keeps those
// referenced after it, and those before it where an earlier limit was as low.
func normal(t *testing.T, rows [][]string) []string {
	t.Helper()
	limits := map[string]int{}
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, row := range rows {
		if row[4] == "t" {
			limits[strings.Join(row[:4], " ")] = number(row[5])
		}
	}
	var out []string
	for _, row := range rows {
		limit, ok := limits[strings.Join(row[:4], " ")]
		if row[4] == "t" || !ok || number(row[5]) < limit {
			out = append(out, strings.Join(row, " "))
		}
	}
	return out
}

// contents writes a map as pg_wal_summary_contents does.
func contents(m *wal.BlockMap) []string {
	var out []string
	for _, db := range m.Databases() {
		out = append(out, fmt.Sprintf("%d %d 0 0 t 0", db.Tablespace, db.Database))
	}
	for k, c := range m.Forks() {
		prefix := fmt.Sprintf("%d %d %d %d", k.Relation.Tablespace, k.Relation.Database, k.Relation.Number, k.Fork)
		if limit, ok := c.Limit(); ok {
			out = append(out, fmt.Sprintf("%s t %d", prefix, limit))
		}
		for b := range c.Blocks(0, 1<<32-1) {
			out = append(out, fmt.Sprintf("%s f %d", prefix, b))
		}
	}
	return out
}
