package archive_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/archivetest"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// parameters writes a record that says which wal_level is in force from here on
// (XLOG_PARAMETER_CHANGE): 0 is minimal, 1 replica.
func (b *builder) parameters(level uint32) pg.LSN {
	var main []byte
	for _, v := range []uint32{100, 8, 10, 0, 64, level} {
		main = le.AppendUint32(main, v)
	}
	return b.record(0, 0x60, 0, append(main, 0, 0))
}

// insertTo writes one record that ends where the position is, which must be on the
// page that the next record starts on.
func (b *builder) insertTo(l pg.LSN) {
	b.record(10, 0, 700, make([]byte, int(l-b.at)-24-20-5), 1)
}

// TestVerifyTellsMinimalWAL: no segment is missing, and yet no recovery goes past
// it.
func TestVerifyTellsMinimalWAL(t *testing.T) {
	end := segSize.Start(6)
	for _, c := range []struct {
		name  string
		write func(b *builder) (at, through pg.LSN) // from segment 5 on
		want  string
	}{
		{"within a segment", func(b *builder) (pg.LSN, pg.LSN) {
			b.until(segSize.Start(5) + 5000)
			at := b.parameters(0)
			b.insert(1)
			through := b.parameters(0)
			b.parameters(1)
			return at, through
		}, "minimal 5..5"},
		{"in a record that goes on in the next segment", func(b *builder) (pg.LSN, pg.LSN) {
			b.until(end - 8000)
			b.insertTo(end - 32)
			at := b.parameters(0)
			b.parameters(1)
			return at, at
		}, "minimal 6..6"},
		{"not at all", func(b *builder) (pg.LSN, pg.LSN) {
			b.until(segSize.Start(5) + 5000)
			b.parameters(1)
			return 0, 0
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := repotest.New(t)
			b, dir := newBuilder(1, 4), t.TempDir()
			b.until(segSize.Start(5))
			at, through := c.write(b)
			b.until(segSize.Start(8))
			for n := pg.SegmentNumber(4); n <= 7; n++ {
				push(t, r, b.save(t, dir, n, ""))
			}
			for _, deep := range []bool{false, true} {
				v := verify(t, r, pg.FirstTimeline(), deep)
				if got := strings.Join(faults(v), ", "); got != c.want {
					t.Fatalf("deep %v: %q, want %q", deep, got, c.want)
				}
				if c.want == "" {
					continue
				}
				f, said := v.Faults[0], v.Findings(nil)
				if f.At != at || f.Through != through || !f.EndsRecovery() || f.Mendable() {
					t.Errorf("deep %v: %+v, want %s through %s", deep, f, at, through)
				}
				if len(said) != 1 || said[0].Severity != finding.Error || !strings.Contains(said[0].Text, at.String()) || !strings.Contains(said[0].Hint, "--target-lsn "+at.String()) {
					t.Errorf("deep %v: %v", deep, said)
				}
			}
		})
	}
}

// TestMinimalWALOfAServer: archiving is off meanwhile, and yet the WAL is archived
// whole as soon as it is on again. Recovery does end where wal verify says.
func TestMinimalWALOfAServer(t *testing.T) {
	store := archivetest.Dir(t)
	c := pgtest.New(t, pgtest.Options{WALSegSize: 1, Config: map[string]string{"wal_keep_size": "200MB"}})
	system := c.Value(t, systemID)
	run := archivetest.Install(t, store, system)
	archiving := map[string]string{"archive_mode": "on", "archive_command": run + "push %p", "wal_level": "replica", "max_wal_senders": "4"}
	c.Configure(t, archiving)
	c.Restart(t)
	copies := pgtest.Dir(t)
	for _, name := range []string{"past", "before"} {
		c.BaseBackup(t, filepath.Join(copies, name))
	}
	c.Configure(t, map[string]string{"archive_mode": "off", "wal_level": "minimal", "max_wal_senders": "0"})
	c.Restart(t)
	c.Exec(t, "CREATE TABLE meanwhile AS SELECT generate_series(1, 1000) AS i")
	c.Configure(t, archiving)
	c.Restart(t)
	last := c.Value(t, "SELECT pg_walfile_name(pg_switch_wal())")
	// What waits unmarked is marked by the checkpoint that would remove it.
	entries, err := os.ReadDir(filepath.Join(c.DataDir, "pg_wal"))
	if err != nil {
		t.Fatal(err)
	}
	c.WaitFor(t, "SELECT last_archived_wal >= '"+last+"' FROM pg_stat_archiver", "t")
	r, err := archivetest.Open(t.Context(), store, system)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if pg.IsSegmentName(e.Name()) && e.Name() <= last {
			push(t, r, filepath.Join(c.DataDir, "pg_wal", e.Name()))
		}
	}
	v := verify(t, r, pg.FirstTimeline(), false)
	if len(v.Faults) == 0 || v.Faults[0].Kind != archive.FaultMinimal {
		t.Fatalf("faults %v", faults(v))
	}

	recovering := func(name string, target map[string]string) *pgtest.Cluster {
		config := map[string]string{"archive_mode": "off", "restore_command": run + "get %f %p"}
		maps.Copy(config, target)
		restored := pgtest.Adopt(t, filepath.Join(copies, name), pgtest.Options{Config: config})
		restored.Append(t, "recovery.signal", "")
		return restored
	}
	past := recovering("past", nil)
	if err := past.TryStart(t); err == nil || !strings.Contains(past.Log(), "wal_level=minimal") {
		t.Errorf("recovery past %s: %v\n%s", v.Faults[0].At, err, past.Log())
	}
	before := recovering("before", map[string]string{
		"recovery_target_lsn": v.Faults[0].At.String(), "recovery_target_inclusive": "off", "recovery_target_action": "promote",
	})
	before.Start(t)
	before.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
}
