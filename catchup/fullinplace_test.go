package catchup_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/servertest"
	"github.com/pgtender/pgtender/internal/soak"
)

// fullDisk has the disk of the member be full from each step of a run on. That
// ends with what to do, and the directory cannot be started; once there is room
// the next run ends as one does that nothing disturbs.
func (x *branched) fullDisk(t *testing.T) {
	base := pgtest.Dir(t)
	disk := servertest.MountDisk(t, base, 600)
	dir := filepath.Join(base, "data")
	run := func(step func(string)) (catchup.RungName, error) {
		o := x.gatherOptions(t)
		o.Dir = dir
		p := x.plan(t, o)
		r := catchup.RunOptions{Repo: x.repo, Audit: true, Log: testLog(t, "unarchived WAL")}
		if step != nil {
			r.SetStep(step)
		}
		_, err := catchup.Run(t.Context(), p, r)
		return p.Choice, err
	}
	again := func() {
		for _, name := range []string{dir, catchup.SavedWAL(dir)} {
			if err := os.RemoveAll(name); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := exec.Command("cp", "-a", x.old.DataDir, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	again()
	if way, err := run(nil); err != nil || way != catchup.ByMaps {
		t.Fatalf("undisturbed, by %q: %v", way, err)
	}
	want := tree(t, child{Dir: dir})
	for _, from := range []string{"changes", "state", "parked", "saved", "pruned", "marked", "file", "fetched", "given"} {
		if !soak.Wanted() && !strings.Contains("state file", from) {
			continue
		}
		again()
		var mu sync.Mutex // several files are written at a time
		full := false
		way, err := run(func(name string) {
			mu.Lock()
			defer mu.Unlock()
			if full = full || name == from; full {
				disk.Fill(t, 0)
			}
		})
		if err == nil {
			t.Errorf("from %q on: it came through by %q", from, way)
		} else if !errors.Is(err, syscall.ENOSPC) || finding.Hint(err) == "" {
			t.Errorf("from %q on: %v (hint: %s)", from, err, finding.Hint(err))
		}
		_, statErr := os.Stat(filepath.Join(dir, pg.ControlPath))
		if untouched := from == "changes"; untouched != (statErr == nil) {
			t.Errorf("from %q on: pg_control: %v", from, statErr)
		}
		disk.Empty(t)
		if way, err := run(nil); err != nil || way != catchup.ByMaps {
			t.Errorf("from %q on, and then with room, by %q: %v", from, way, err)
		}
		if diff := cmp.Diff(want, tree(t, child{Dir: dir})); diff != "" {
			t.Errorf("from %q on, and then with room: %s", from, diff)
		}
	}
}
