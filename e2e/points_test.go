package e2e_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// A single member with a tablespace, backed up while it leads, is restored on a
// bare host, which knows no more than a URL and a name, to each kind of target.
func TestPointsInTime(t *testing.T) {
	t.Parallel()
	s := startSite(t, siteOptions{Options: lab.Options{Nodes: 1}})
	primary := server(s, s.Leader())
	space := pgtest.Dir(t)
	primary.Exec(t, fmt.Sprintf("CREATE TABLESPACE space LOCATION '%s'", space),
		"CREATE TABLE step (i int PRIMARY KEY) TABLESPACE space")
	taken := s.backup(t)
	if taken.Backup.SourceRole != "primary" {
		t.Errorf("the backup is of a %s, want the primary", taken.Backup.SourceRole)
	}
	var steps [5]step
	for i := range steps {
		steps[i] = takeStep(t, primary, i)
	}
	last := s.backup(t)
	primary.Exec(t, "INSERT INTO step VALUES (100)")
	primary.Value(t, "SELECT pg_switch_wal()")

	// Step i is a transaction that inserts i; its time and position are taken
	// after it, its restore point comes at its end.
	for _, tt := range []struct {
		name string
		args []string
		want string // the last step that is there
	}{
		{"latest", nil, "100"},
		{"latest from a backup by id", []string{"--backup", taken.ID}, "100"},
		{"a time", []string{"--target-time", steps[1].time}, "1"},
		{"an LSN", []string{"--target-lsn", steps[2].lsn}, "2"},
		{"a transaction", []string{"--target-xid", steps[3].xid}, "3"},
		{"just before a transaction", []string{"--target-xid", steps[3].xid, "--target-exclusive"}, "2"},
		{"a restore point", []string{"--target-name", "step 1"}, "1"},
		{"the end of a backup", []string{"--backup", last.ID, "--target-immediate"}, "4"},
		{"a timeline", []string{"--target-timeline", "1"}, "100"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(pgtest.Dir(t), "data")
			moved := filepath.Join(filepath.Dir(dir), "space")
			args := append([]string{"--repository", s.repo.url, "--cluster", s.Scope, "restore", "--target-dir", dir,
				"--tablespace", space + "=" + moved, "--target-action", "promote"}, tt.args...)
			s.must(t, nil, args...)
			c := s.adopt(t, dir)
			c.Start(t)
			c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
			if got := c.Value(t, "SELECT max(i) FROM step"); got != tt.want {
				t.Errorf("the last step is %s, want %s", got, tt.want)
			}
			if got := c.Value(t, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'"); got != moved {
				t.Errorf("the tablespace lies in %s, want %s", got, moved)
			}
		})
	}
	t.Run("what is refused", func(t *testing.T) { refusals(t, s, primary) })
}

type step struct{ time, lsn, xid string }

func takeStep(t *testing.T, c *pgtest.Cluster, i int) step {
	t.Helper()
	var s step
	s.xid = c.Value(t, fmt.Sprintf("WITH i AS (INSERT INTO step VALUES (%d) RETURNING 1) SELECT pg_current_xact_id()::text FROM i", i))
	c.Value(t, fmt.Sprintf("SELECT pg_create_restore_point('step %d')", i))
	s.lsn = c.Value(t, "SELECT pg_current_wal_lsn()")
	s.time = c.Value(t, "SELECT clock_timestamp()")
	return s
}

// refusals are restores that must not touch anything.
func refusals(t *testing.T, s *site, primary *pgtest.Cluster) {
	foreign := pgtest.Dir(t)
	if err := os.WriteFile(filepath.Join(foreign, "diary.txt"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(pgtest.Dir(t), "data")
	for _, tt := range []struct {
		name string
		dir  string
		args []string
		word string
	}{
		{"a directory with a running server", primary.DataDir, nil, "a PostgreSQL server runs there"},
		{"a directory with other files", foreign, nil, "diary.txt"},
		{"a time that is not archived yet", empty, []string{"--target-time", time.Now().Add(24 * time.Hour).Format(time.RFC3339)}, "time"},
		{"an LSN that is not archived yet", empty, []string{"--target-lsn", "FF/0"}, "FF/0"},
		{"a restore point that does not exist", empty, []string{"--target-name", "nowhere"}, "nowhere"},
		{"a transaction that is not archived yet", empty, []string{"--target-xid", "999999999"}, "999999999"},
		{"a time before the first backup", empty, []string{"--target-time", "2001-01-01T00:00:00Z"}, "2001"},
		{"a timeline that does not exist", empty, []string{"--target-timeline", "7"}, "7"},
		{"a backup that does not exist", empty, []string{"--backup", "20010101T000000Z-000000"}, "20010101T000000Z-000000"},
		{"an unmapped tablespace that is in use", empty, nil, "space"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := tree(t, tt.dir)
			args := append([]string{"--repository", s.repo.url, "--cluster", s.Scope, "restore", "--target-dir", tt.dir}, tt.args...)
			s.refused(t, nil, args, tt.word, "hint: ")
			if after := tree(t, tt.dir); after != before {
				t.Errorf("the directory was changed:\nbefore: %s\nafter: %s", before, after)
			}
		})
	}
	primary.Exec(t, "INSERT INTO step VALUES (101)") // it works still
}

// tree lists the names in a directory, those with dots included.
func tree(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return fmt.Sprint(entries)
}
