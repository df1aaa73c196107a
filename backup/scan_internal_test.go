package backup

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
)

func TestTheScanListsWhatBelongsToABackup(t *testing.T) {
	s := newSource(t)
	for _, name := range []string{
		"base/5/1", "base/5/1_init", "base/5/2", "base/5/t3_4", "global/pg_control", "backup_label", "postmaster.pid", "pg_wal/000000010000000000000001", "postgresql.conf",
	} {
		s.write(name, make([]byte, testPage))
	}
	if err := os.Symlink("/etc/hosts", filepath.Join(s.dir.Root, "link.conf")); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	files, err := scan(t.Context(), s.dir, testPage, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	last := uint32(0)
	for _, f := range files {
		got = append(got, f.entry.Path)
		if !f.entry.Dir {
			if f.entry.File != last+1 {
				t.Errorf("%s has number %d after %d", f.entry.Path, f.entry.File, last)
			}
			last = f.entry.File
		}
	}
	want := []string{
		"base", "base/5", "base/5/1_init", "base/5/2", "global", "pg_tblspc", "pg_wal", "pg_wal/archive_status", "pg_wal/summaries", "pg_xact", "postgresql.conf",
	}
	if diff := cmp.Diff(want, got); diff != "" || !slices.IsSorted(got) {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if !strings.Contains(log.String(), "link.conf") {
		t.Errorf("nothing is said of the symbolic link: %s", &log)
	}
}

func TestAFileThatNoBackupCanHoldIsRefusedAtOnce(t *testing.T) {
	s := newSource(t)
	for name, size := range map[string]int64{"dump.sql": repo.MaxFileSize, "pg_wal/huge": repo.MaxFileSize + 1} {
		s.write(name, nil)
		if err := os.Truncate(filepath.Join(s.dir.Root, name), size); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	if _, err := scan(t.Context(), s.dir, testPage, log); err != nil {
		t.Errorf("the largest file, and a larger one that is left out: %v", err)
	}
	if err := os.Truncate(filepath.Join(s.dir.Root, "dump.sql"), repo.MaxFileSize+1); err != nil {
		t.Fatal(err)
	}
	_, err := scan(t.Context(), s.dir, testPage, log)
	if err == nil || !strings.Contains(err.Error(), "dump.sql") || finding.Hint(err) == "" {
		t.Errorf("got %v", err)
	}
}
