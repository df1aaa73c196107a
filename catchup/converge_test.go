package catchup_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/catchup"
)

func TestAMemberConvergesByBlockMaps(t *testing.T) {
	for _, b := range []branch{
		{major: 15, stop: "lagging, crashed", taken: "after the fork", protect: "none", seed: 1},
		{major: 17, stop: "diverged, clean", taken: "past the fork", protect: "checksums", seed: 2, space: true},
		{major: 13, stop: "diverged, crashed", taken: "before the fork", protect: "checksums", seed: 3, archives: true},
		{major: 18, stop: "diverged, killed in recovery", taken: "after the fork", protect: "hints", seed: 4, archives: true},
		{major: 14, stop: "diverged standby", taken: "after the fork", protect: "checksums", seed: 9, space: true},
		{major: 16, stop: "two timelines behind", taken: "two", protect: "hints", seed: 6, space: true},
	} {
		t.Run(b.String(), func(t *testing.T) {
			t.Parallel()
			x := newBranched(t, b)
			lost := x.onlyHere(t)
			x.back(t, catchup.ByMaps)
			if b.stop != "diverged standby" {
				return
			}
			for _, name := range lost {
				if _, err := os.Stat(filepath.Join(catchup.SavedWAL(x.old.DataDir), name)); err != nil {
					t.Errorf("it had the only copy: %v", err)
				}
			}
			if len(lost) == 0 {
				t.Error("the standby has no segment that is nowhere else")
			}
		})
	}
}

// onlyHere lists the segments that the member says are archived, and that are not.
func (x *branched) onlyHere(t *testing.T) (names []string) {
	t.Helper()
	marks, err := filepath.Glob(filepath.Join(x.old.DataDir, "pg_wal", "archive_status", "*.done"))
	if err != nil {
		t.Fatal(err)
	}
	for _, mark := range marks {
		name := strings.TrimSuffix(filepath.Base(mark), ".done")
		found, err := filepath.Glob(filepath.Join(x.store, "*", "*", "wal", "*", "*", name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(x.old.DataDir, "pg_wal", name)); err == nil && len(name) == 24 && len(found) == 0 {
			names = append(names, name)
		}
	}
	return names
}
