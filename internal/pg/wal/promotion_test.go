package wal_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestAPromotedServersWAL promotes a standby while the old primary writes on,
// and reads both servers' WAL.
func TestAPromotedServersWAL(t *testing.T) {
	const size pg.SegmentSize = 1 << 20
	config := map[string]string{"wal_keep_size": "1GB", "max_wal_size": "2GB"}
	old := pgtest.New(t, pgtest.Options{WALSegSize: 1, Config: config})
	config["archive_mode"], config["archive_command"] = "on", "/bin/true"
	promoted := pgtest.StandbyOf(t, old, pgtest.Options{Config: config})
	start, err := pg.ParseLSN(promoted.Value(t, "SELECT redo_lsn FROM pg_control_checkpoint()"))
	if err != nil {
		t.Fatal(err)
	}
	w := old.Workload(1)
	w.Run(t, 15)
	promoted.CatchUp(t, old)
	promoted.Promote(t)
	old.Exec(t, "CREATE TABLE on_the_old_timeline AS SELECT i FROM generate_series(1, 50000) i")
	promoted.Exec(t, "CREATE TABLE on_the_new_timeline AS SELECT i FROM generate_series(1, 50000) i")
	text, err := os.ReadFile(filepath.Join(promoted.DataDir, "pg_wal", pg.HistoryName(2)))
	if err != nil {
		t.Fatal(err)
	}
	history, err := pg.ParseHistory(2, text)
	if err != nil {
		t.Fatal(err)
	}
	left, _ := history.End(1)
	read := func(t *testing.T, c *pgtest.Cluster, h pg.History) {
		end := written(t, c)
		dir := wal.Dir{Path: filepath.Join(c.DataDir, "pg_wal"), History: h, SegmentSize: size}
		r := wal.NewReader(dir, start, wal.ReaderOptions{History: h, SegmentSize: size})
		if records := readMapped(t, r, pg.MaxLSN, new(wal.BlockMap)); len(records) == 0 || r.End() < end {
			t.Errorf("%d records to %s, the server is at %s", len(records), r.End(), end)
		}
	}
	segment := func(c *pgtest.Cluster, tl pg.Timeline, n pg.SegmentNumber, suffix string) []byte {
		b, err := os.ReadFile(filepath.Join(c.DataDir, "pg_wal", pg.Segment{Timeline: tl, Number: n}.Name(size)+suffix))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	t.Run("is read along its history", func(t *testing.T) { read(t, promoted, history) })
	t.Run("is read along the old timeline on the old primary", func(t *testing.T) { read(t, old, pg.FirstTimeline()) })
	t.Run("is one chain of segments", func(t *testing.T) {
		var c wal.Chain
		for n := size.SegmentOf(start); n < size.SegmentBefore(written(t, promoted)); n++ {
			tl := history.TimelineAt(size.Start(n+1) - 1)
			in := inspect(t, segment(promoted, tl, n, ""), wal.Expect{SegmentSize: size, Segment: pg.Segment{Timeline: tl, Number: n}})
			if _, err := c.Add(in.Info, in.Carry); err != nil {
				t.Fatal(err)
			}
		}
	})
	switched := size.SegmentBefore(left)
	t.Run("has a partial segment that ends at the switch point", func(t *testing.T) {
		in := inspect(t, segment(promoted, 1, switched, ".partial"), wal.Expect{Unfinished: true})
		if in.Info.End != left || in.Info.Complete() {
			t.Errorf("the segment ends %s at %s, the timeline at %s", in.Info.Tail, in.Info.End, left)
		}
	})
	t.Run("shares the old primary's up to the switch point", func(t *testing.T) {
		in := inspect(t, segment(old, 1, switched, ""), wal.Expect{Until: left})
		if in.Info.Tail != wal.TailUntil || in.Info.End != left {
			t.Errorf("the segment ends %s at %s, the timeline at %s", in.Info.Tail, in.Info.End, left)
		}
	})
}
