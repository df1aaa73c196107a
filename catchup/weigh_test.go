package catchup_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// Databases that are made of a template are a few bytes of WAL, and much to
// fetch: a backup from before them is the better one.
func TestAnOlderBackupServesWhereLessIsFetched(t *testing.T) {
	t.Parallel()
	x := newBranched(t, branch{major: 14, stop: "lagging, crashed", taken: "after the fork", protect: "none", seed: 41})
	for i := range 8 {
		x.primary.Exec(t, fmt.Sprintf("CREATE DATABASE many%d", i))
	}
	newest := x.lab.backup(t, x.primary)
	x.archived(t)
	o := x.gatherOptions(t)
	o.Rung = catchup.ByMaps
	p := x.plan(t, o)
	if len(p.Candidates) != 2 || p.Candidates[0].Backup != newest.ID || p.Backup.ID != p.Candidates[1].Backup {
		t.Fatalf("took %s of %+v", p.Backup.ID, p.Candidates)
	}
	for i, want := range []string{"to converge by block maps takes", "takes the least time from it"} {
		if v := p.Candidates[i]; !strings.Contains(v.Reason, want) || len(v.Rungs) != 3 {
			t.Errorf("of %s it says %q; %+v", v.Backup, v.Reason, v.Rungs)
		}
	}
	fetch := func(v catchup.Verdict) int64 {
		i := slices.IndexFunc(v.Rungs, func(r catchup.Rung) bool { return r.Name == catchup.ByMaps })
		return v.Rungs[i].Fetch
	}
	if a, b := fetch(p.Candidates[0]), fetch(p.Candidates[1]); b >= a {
		t.Errorf("%d bytes from the older one, %d from the newest", b, a)
	}
	if back := x.back(t, catchup.ByMaps); back.Backup.ID != p.Backup.ID {
		t.Errorf("came back with %s", back.Backup.ID)
	}
	x.plannedWhileItRuns(t)
}

// plannedWhileItRuns asks for a plan of a member whose server runs.
func (x *branched) plannedWhileItRuns(t *testing.T) {
	c := x.follow(t, x.old.DataDir, map[string]string{"restore_command": x.restoreCommand(x.leader(t).History.Timeline)})
	defer c.Stop(t, pgtest.Fast)
	var refusal *catchup.RefusalError
	if _, err := catchup.Decide(x.gather(t, x.gatherOptions(t))); !errors.As(err, &refusal) || refusal.Permanent || !strings.Contains(err.Error(), "in use") {
		t.Errorf("to be carried out: %v", err)
	}
	o := x.gatherOptions(t)
	o.Stopped = true
	p := x.plan(t, o)
	if !p.Snapshot || p.Dir.Running || p.Dir.PID == 0 || p.Choice != catchup.ByReplay || p.Local == nil || !p.Local.Standby || p.Local.Diverged {
		t.Errorf("snapshot %t of %+v: %s: %+v", p.Snapshot, p.Dir, p.Choice, p.Local)
	}
	if _, err := catchup.Run(t.Context(), p, catchup.RunOptions{Repo: x.repo}); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "while a server ran") {
		t.Errorf("carried out: %v", err)
	}
}
