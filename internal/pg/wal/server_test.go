package wal_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/soak"
)

// live is WAL that a real server wrote, and how to read it.
type live struct {
	*pgtest.Cluster
	start, end pg.LSN // of the work done
	size       pg.SegmentSize
	records    []wal.Record
	all        *wal.BlockMap
	compared   soak.Tally
}

// TestRealServers lets a server of each major do varied work, and compares what
// this package finds in its WAL with everything that the version offers for it.
func TestRealServers(t *testing.T) {
	pgtest.EachMajor(t, func(t *testing.T, major int) {
		segment := 1 + 15*(major%2) // MiB: both sizes among the versions
		l := work(t, setting{major: major, segment: segment, checksums: major%2 == 0, seed: uint64(major), steps: 18})
		t.Run("every segment by itself, and the chain of all", l.inspectsAlike)
		t.Run("every segment condensed and expanded", l.condenses)
		if l.HasWaldump() {
			t.Run("references equal pg_waldump's", l.equalsWaldump)
		}
		if major >= 16 {
			t.Run("references equal pg_walinspect's", l.equalsWalinspect)
		}
		if major >= 17 {
			t.Run("maps equal the server's own summaries", l.equalsSummaries)
		}
		t.Run("an unfinished record is overwritten", l.overwrites)
		l.Stop(t, pgtest.Fast)
		t.Run("no page is newer than the map says", l.coversPages)
		t.Run("wal_level minimal breaks the chain", l.breaksOnMinimal)
	})
}

// setting is one server and the work it does.
type setting struct {
	major, segment int // segment in MiB
	checksums      bool
	config         map[string]string // over what work sets
	crowd          bool              // other sessions write at the same time
	seed           uint64
	steps          int // of the workload
}

func work(t *testing.T, s setting) *live {
	t.Helper()
	config := map[string]string{
		"max_prepared_transactions": "10", "wal_keep_size": "4GB", "max_wal_size": "4GB",
		"wal_compression": "on", "autovacuum": "off",
	}
	if s.major >= 17 {
		config["summarize_wal"] = "on"
	}
	maps.Copy(config, s.config)
	l := &live{size: pg.SegmentSize(s.segment) << 20, compared: soak.Tally{}}
	l.Cluster = pgtest.New(t, pgtest.Options{Major: s.major, WALSegSize: s.segment, Checksums: s.checksums, Config: config})
	space := pgtest.Dir(t)
	l.Exec(t, "CREATE TABLESPACE aside LOCATION '"+space+"'", "CHECKPOINT")
	l.start = written(t, l.Cluster)
	leave := func() {}
	if s.crowd {
		leave = l.crowd(t)
	}
	w := l.Workload(s.seed)
	w.Tablespaces = []string{"aside"}
	w.Run(t, s.steps)
	l.special(t)
	w.Run(t, s.steps/3)
	leave()
	l.Exec(t, "CHECKPOINT", "SELECT pg_switch_wal()", "CREATE TABLE last AS SELECT 1", "CHECKPOINT")
	l.end = written(t, l.Cluster)
	l.read(t)
	t.Logf("seed %d: %d records from %s to %s", s.seed, len(l.records), l.start, l.end)
	return l
}

// written gives the end of a server's WAL, once all of it is in files: what no commit
// waits for, such as that a page was pruned, the server writes when it likes.
func written(t *testing.T, c *pgtest.Cluster) pg.LSN {
	t.Helper()
	p, err := pg.ParseLSN(c.Value(t, "SELECT pg_current_wal_insert_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	c.WaitFor(t, fmt.Sprintf("SELECT pg_current_wal_flush_lsn() >= '%s'", p), "t")
	return p
}

// special is what the workload of pgtest leaves out.
func (l *live) special(t *testing.T) {
	t.Helper()
	many := make([]string, 300)
	for i := range many {
		many[i] = fmt.Sprintf("CREATE TABLE many_%d (id int PRIMARY KEY, v text)", i)
	}
	l.Exec(t, "BEGIN", strings.Join(many, ";"), "COMMIT", "BEGIN",
		strings.ReplaceAll(strings.Join(many, ";"), "many", "none"), "ROLLBACK",
		"DO $$ BEGIN FOR i IN 0..299 LOOP EXECUTE 'DROP TABLE many_' || i; END LOOP; END $$",
		// Two-phase, with relations made and dropped.
		"CREATE TABLE gone (id int)", "BEGIN", "DROP TABLE gone", "CREATE TABLE come (id int)", "PREPARE TRANSACTION 'one'",
		"BEGIN", "CREATE TABLE never (id int)", "INSERT INTO never VALUES (1)", "PREPARE TRANSACTION 'two'",
		"COMMIT PREPARED 'one'", "ROLLBACK PREPARED 'two'",
		// Truncation in place: at the end by vacuum, and of a relation made in the same transaction.
		"CREATE TABLE shrink AS SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i",
		"DELETE FROM shrink WHERE i > 100", "VACUUM shrink", "INSERT INTO shrink SELECT i, 'y' FROM generate_series(1, 3000) i",
		"BEGIN", "CREATE TABLE fresh AS SELECT i FROM generate_series(1, 3000) i", "TRUNCATE fresh", "INSERT INTO fresh VALUES (1)", "COMMIT",
		// Large objects, multixacts (a prepared transaction holds the first lock), subtransactions, messages, sequences.
		"SELECT lo_from_bytea(0, decode(repeat(md5(i::text), 2000), 'hex')) FROM generate_series(1, 10) i",
		"SELECT lo_unlink(oid) FROM pg_largeobject_metadata ORDER BY oid LIMIT 5",
		"CREATE TABLE shared AS SELECT i FROM generate_series(1, 500) i",
		"BEGIN", "SELECT * FROM shared FOR SHARE", "PREPARE TRANSACTION 'lock'", "SELECT * FROM shared FOR SHARE", "ROLLBACK PREPARED 'lock'",
		"DO $$ BEGIN FOR i IN 1..200 LOOP BEGIN INSERT INTO shared VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$",
		"SELECT pg_logical_emit_message(true, 'test', repeat('m', 3000000))",
		"CREATE SEQUENCE counter", "SELECT nextval('counter') FROM generate_series(1, 200)",
		// An index of an extension's own kind.
		"CREATE EXTENSION bloom", "CREATE INDEX ON shared USING bloom (i)", "INSERT INTO shared SELECT i FROM generate_series(1, 3000) i",
		"DELETE FROM shared WHERE i % 2 = 0", "VACUUM shared",
		"CREATE TABLESPACE brief LOCATION '"+pgtest.Dir(t)+"'", "CREATE TABLE there TABLESPACE brief AS SELECT 1 AS i", "DROP TABLE there", "DROP TABLESPACE brief",
		"CREATE DATABASE moved", "ALTER DATABASE moved SET TABLESPACE aside", "DROP DATABASE moved",
		"CREATE TABLE zeroed AS SELECT 1 AS i", "ALTER TABLE zeroed SET UNLOGGED", "ALTER TABLE zeroed SET LOGGED")
	l.ExecIn(t, "template1", "CREATE TABLE IF NOT EXISTS a_template AS SELECT i FROM generate_series(1, 1000) i", "VACUUM FULL pg_class", "VACUUM FREEZE")
}

func (l *live) dir() wal.Dir {
	return wal.Dir{Path: filepath.Join(l.DataDir, "pg_wal"), History: pg.FirstTimeline(), SegmentSize: l.size}
}

// read fills records and all by a Reader.
func (l *live) read(t *testing.T) {
	t.Helper()
	r := wal.NewReader(l.dir(), l.start, wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: l.size})
	l.records, l.all = nil, new(wal.BlockMap)
	for _, rec := range readMapped(t, r, l.end, l.all) {
		l.records = append(l.records, rec)
	}
	if len(l.records) == 0 || l.records[0].Start != l.start || r.End() < l.end {
		t.Fatalf("%d records up to %s (%v), the server is at %s", len(l.records), r.End(), r.Reason(), l.end)
	}
}

// readMapped reads records that start before end and puts them into a map.
func readMapped(t *testing.T, r *wal.Reader, end pg.LSN, m *wal.BlockMap) []wal.Record {
	t.Helper()
	defer r.Close()
	var out []wal.Record
	for {
		rec, err := r.Next(t.Context())
		if err != nil {
			t.Logf("WAL ends: %v (%v)", err, r.Reason())
			return out
		}
		if rec.Start >= end {
			return out
		}
		if _, err := m.Record(rec); err != nil {
			t.Fatal(err)
		}
		c := *rec
		c.Blocks = append([]wal.BlockRef(nil), rec.Blocks...)
		c.Main = append([]byte(nil), rec.Main...)
		out = append(out, c)
	}
}

func (l *live) segment(t *testing.T, n pg.SegmentNumber) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(l.DataDir, "pg_wal", pg.Segment{Timeline: 1, Number: n}.Name(l.size)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// inspectsAlike compares inspections joined by a chain with the Reader.
func (l *live) inspectsAlike(t *testing.T) {
	first, last := l.size.SegmentOf(l.start), l.size.SegmentBefore(l.end)
	want, got := new(wal.BlockMap), new(wal.BlockMap)
	var end pg.LSN // of what the segments' maps tell of; autovacuum may have added to the last one
	var c wal.Chain
	var system pg.SystemID
	joined, switched := 0, 0
	for n := first; n <= last; n++ {
		in := inspect(t, l.segment(t, n), wal.Expect{
			SystemID: system, SegmentSize: l.size, Segment: pg.Segment{Timeline: 1, Number: n}, Unfinished: n == last,
		})
		system = in.Info.SystemID
		joint, err := c.Add(in.Info, in.Carry)
		if err != nil {
			t.Fatal(err)
		}
		if joint.Completed != nil {
			joined++
			got.Merge(joint.Completed.Map)
		}
		if in.Info.Tail == wal.TailSwitch {
			switched++
		}
		if in.Info.Major != l.Major || in.Info.Flags.BreaksChain() {
			t.Errorf("segment %d: %+v", n, in.Info)
		}
		got.Merge(in.Map)
		if end = in.Info.End; in.Carry.Tail != nil {
			end = in.Carry.Tail.Start
		}
	}
	readMapped(t, wal.NewReader(l.dir(), l.size.Start(first), wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: l.size}), end, want)
	if last-first >= 8 && (joined == 0 || switched == 0) {
		t.Errorf("%d records joined, %d segments switched: the work is too small", joined, switched)
	}
	if !got.Equal(want) {
		t.Error("the segments' maps together are not the Reader's")
	}
}

// condenses compares every chunk of every segment with what it is condensed to, and
// finds that most are.
func (l *live) condenses(t *testing.T) {
	const size = 1 << 20
	first, last := l.size.SegmentOf(l.start), l.size.SegmentBefore(l.end)
	chunks, condensed, saved := 0, 0, 0
	for n := first; n < last; n++ { // the last one need not be full
		segment := l.segment(t, n)
		heard := pieces(segment)
		in, err := wal.InspectPieces(heard, int64(len(segment)), wal.Expect{})
		if err != nil {
			t.Fatal(err)
		}
		segment = segment[:in.Info.End-in.Info.Start]
		for off := 0; off < len(segment); off += size {
			chunk := segment[off:min(off+size, len(segment))]
			var marks wal.Marks
			marks.Reset(len(chunk))
			for _, sound := range heard.sound {
				if at := int(sound) - off; at >= 0 && at < len(chunk) {
					marks.Add(at)
				}
			}
			c, ok := expanded(t, chunk, marks)
			if _, computed := expanded(t, chunk, nil); computed != ok {
				t.Errorf("segment %d at %d: condensed %v, with its CRCs computed %v", n, off, ok, computed)
			}
			if chunks++; ok {
				condensed++
				saved += len(chunk) - len(c)
			}
		}
	}
	t.Logf("%d of %d chunks are condensed, which saves %d KiB", condensed, chunks, saved>>10)
	if condensed < chunks*9/10 {
		t.Errorf("%d of %d chunks are condensed", condensed, chunks)
	}
	l.compared["chunks"] += chunks
	l.compared["condensed"] += condensed
}

// overwrites makes the server give up an unfinished record after a crash.
func (l *live) overwrites(t *testing.T) {
	l.Exec(t, "CHECKPOINT", "SELECT pg_switch_wal()", "SELECT pg_logical_emit_message(true, 'test', repeat('m', 50000))")
	l.Crash(t)
	r := wal.NewReader(l.dir(), l.end, wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: l.size})
	records := readMapped(t, r, pg.MaxLSN, new(wal.BlockMap))
	var message wal.Record
	for _, rec := range records {
		if rec.Rmgr == rmLogical {
			message = rec
		}
	}
	page := (message.Start/testBlock + 2) * testBlock
	name := pg.Segment{Timeline: 1, Number: l.size.SegmentOf(page)}.Name(l.size)
	f, err := os.OpenFile(filepath.Join(l.DataDir, "pg_wal", name), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, l.size-pg.SegmentSize(uint64(page)%uint64(l.size))), int64(uint64(page)%uint64(l.size))); err != nil {
		t.Fatal(err)
	}
	l.Start(t)
	l.Exec(t, "CREATE TABLE after_the_crash AS SELECT 1")
	l.end = written(t, l.Cluster)
	l.read(t)
	for _, rec := range l.records {
		if rec.Rmgr == 0 && rec.Info == 0xD0 {
			if named := pg.LSN(le.Uint64(rec.Main)); named != message.Start {
				t.Errorf("the record at %s was overwritten, not %s", named, message.Start)
			}
			in := inspect(t, l.segment(t, l.size.SegmentOf(rec.Start)), wal.Expect{Unfinished: true})
			if in.Info.Flags&wal.FlagOverwrites == 0 {
				t.Errorf("flags of the segment: %s", in.Info.Flags)
			}
			return
		}
	}
	t.Error("the server overwrote no record")
}

// coversPages asserts that each page whose LSN says that it was changed in the
// time is in the map. The server is stopped.
func (l *live) coversPages(t *testing.T) {
	r := wal.NewReader(l.dir(), l.start, wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: l.size})
	m := new(wal.BlockMap)
	readMapped(t, r, pg.MaxLSN, m)
	seen := 0
	for _, dir := range []string{"global", "base/*", "pg_tblspc/*/PG_*/*"} {
		files, err := filepath.Glob(filepath.Join(l.DataDir, dir, "[0-9]*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			seen += l.coversFile(t, m, f)
		}
	}
	if seen < 500 {
		t.Errorf("only %d changed pages on disk: the work is too small", seen)
	}
}

func (l *live) coversFile(t *testing.T, m *wal.BlockMap, path string) int {
	t.Helper()
	var rel wal.Relation
	parts := strings.Split(strings.TrimPrefix(path, l.DataDir+"/"), "/")
	if _, err := fmt.Sscanf(parts[len(parts)-1]+" ", "%d ", &rel.Number); err != nil || strings.ContainsAny(parts[len(parts)-1], "_.") {
		return 0 // another fork, or a later segment, which so small relations have not
	}
	if _, err := os.Stat(path + "_init"); err == nil {
		return 0 // unlogged: recovery made it anew, a copy of its init fork
	}
	switch parts[0] {
	case "global":
		rel.Tablespace = 1664
	case "base":
		rel.Tablespace = 1663
		fmt.Sscan(parts[1], &rel.Database)
	default:
		fmt.Sscan(parts[1], &rel.Tablespace)
		fmt.Sscan(parts[3], &rel.Database)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for block := 0; (block+1)*8192 <= len(b); block++ {
		page := b[block*8192:]
		lsn := pg.LSN(uint64(le.Uint32(page))<<32 | uint64(le.Uint32(page[4:])))
		if lsn <= l.start {
			continue
		}
		seen++
		if !m.Changed(rel, wal.Main, uint32(block)) {
			t.Errorf("block %d of %s has LSN %s, and is not in the map from %s", block, rel, lsn, l.start)
		}
	}
	return seen
}

func (l *live) breaksOnMinimal(t *testing.T) {
	settings := map[string]string{"wal_level": "minimal", "max_wal_senders": "0"}
	if l.Major >= 17 {
		settings["summarize_wal"] = "off"
	}
	l.Configure(t, settings)
	l.Start(t)
	l.Stop(t, pgtest.Fast)
	r := wal.NewReader(l.dir(), l.end, wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: l.size})
	defer r.Close()
	var flags wal.Flags
	for {
		rec, err := r.Next(t.Context())
		if err != nil {
			break
		}
		f, err := new(wal.BlockMap).Record(rec)
		if err != nil {
			t.Fatal(err)
		}
		if f.BreaksChain() && rec.Start < l.end {
			t.Errorf("record at %s, written under wal_level replica: %s", rec.Start, f)
		}
		flags |= f
	}
	if flags&wal.FlagWALLevelMinimal == 0 || !flags.BreaksChain() {
		t.Errorf("flags: %s", flags)
	}
}
