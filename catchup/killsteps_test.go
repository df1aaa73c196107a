package catchup_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/soak"
)

// stepsOf gives the steps of a run, in order: old data is converged in place, or
// replaced.
func stepsOf(rung catchup.RungName) []string {
	first := []string{"changes", "state", "parked", "pruned", "marked", "saved", "left"}
	if rung == catchup.FullRestore {
		first = []string{"state", "parked", "saved", "removed"}
	}
	return append(first, "file", "fetched", "WAL", "finished", "given", "committing", "committed", "cleaned")
}

// killing kills runs over copies of one directory. What the next run makes is
// compared with what an undisturbed one does.
type killing struct {
	*branched
	rung   catchup.RungName
	insist catchup.RungName // "" where the plan takes the way by itself
	backup repo.BackupID
	want   map[string]string
	random *rand.Rand
	kills  int
}

func newKilling(t *testing.T, x *branched, rung catchup.RungName, seed uint64) *killing {
	t.Helper()
	k := &killing{branched: x, rung: rung, insist: rung, random: rand.New(rand.NewPCG(seed, 7))}
	o := x.gatherOptions(t)
	if x.plan(t, o).Choice == rung {
		k.insist = ""
	}
	o.Rung = k.insist
	k.backup = x.plan(t, o).Backup.ID
	undisturbed := x.copied(t)
	if undisturbed.childRun(t, k.insist, "", 0) {
		t.Fatal("nobody was to kill it")
	}
	k.want = tree(t, child{Dir: undisturbed.old.DataDir})
	return k
}

// at kills a run at a step and, if again is set, the next one at another step, and
// lets the last one come to its end. It gives the directory.
func (k *killing) at(t *testing.T, step string, again bool) *branched {
	t.Helper()
	y := k.copied(t)
	trail := step
	if !y.childRun(t, k.insist, step, k.count(step)) {
		t.Fatalf("%s: there is no step %q", k.rung, step)
	}
	k.killed(t, y, step)
	if again {
		// Not every step comes again, and then that run has come to its end.
		next := k.pick()
		if trail += ", then at " + next; y.childRun(t, k.after(step), next, k.count(next)) {
			k.killed(t, y, next)
			step = next
		} else {
			step = ""
		}
	}
	if step != "" && y.childRun(t, k.after(step), "", 0) {
		t.Fatalf("%s, killed at %s: nobody was to kill the last one", k.rung, trail)
	}
	if diff := cmp.Diff(k.want, tree(t, child{Dir: y.old.DataDir})); diff != "" {
		t.Errorf("%s, killed at %s: %s", k.rung, trail, diff)
	}
	return y
}

// pick draws a step. Half of them all come while files arrive.
func (k *killing) pick() string {
	if k.random.IntN(2) == 0 {
		return "file"
	}
	steps := stepsOf(k.rung)
	return steps[k.random.IntN(len(steps))]
}

// count gives how often a step is passed before the kill.
func (k *killing) count(step string) int {
	if step == "file" {
		return k.random.IntN(20)
	}
	return 0
}

// after gives the way to insist on after a kill.
func (k *killing) after(step string) catchup.RungName {
	if step == "committed" || step == "cleaned" {
		return "" // there is nothing to do
	}
	return k.insist
}

// killed counts a kill, and sees that no server can start but in what is whole.
func (k *killing) killed(t testing.TB, y *branched, step string) {
	t.Helper()
	k.kills++
	steps := stepsOf(k.rung)
	at, parked, back := slices.Index(steps, step), slices.Index(steps, "parked"), slices.Index(steps, "committed")
	_, err := os.Stat(filepath.Join(y.old.DataDir, pg.ControlPath))
	if away := errors.Is(err, fs.ErrNotExist); away != (parked <= at && at < back) {
		t.Errorf("%s, killed at %q: pg_control: %v", k.rung, step, err)
	}
}

// killed kills a run at some of its steps; TestSoakKilledAtEveryStep at all.
func (x *branched) killed(t *testing.T) {
	k := newKilling(t, x, catchup.ByMaps, 1)
	for _, step := range []string{"state", "pruned", "file", "finished"} {
		k.at(t, step, step == "pruned")
	}
}

// childRun runs a child process, which is killed at a step, and reports whether
// it was; else it has come to its end.
func (x *branched) childRun(t testing.TB, rung catchup.RungName, step string, count int) (killed bool) {
	t.Helper()
	cmd := x.command(t, "022", child{Dir: x.old.DataDir, Purpose: catchup.Replica, Leader: x.leader(t), Rung: rung, KillAt: step, KillCount: count})
	var out bytes.Buffer
	cmd.Stderr = &out
	err := cmd.Run()
	if err != nil && (step == "" || cmd.ProcessState == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
		t.Fatalf("%q, to be killed at %q: %v: %s", rung, step, err, out.String())
	}
	return err != nil
}

// killedBranches is how many random clusters TestSoakKilledAtEveryStep makes: some
// hundred and fifty kills, and half as many of runs that were to go on.
const killedBranches = 12

// TestSoakKilledAtEveryStep kills the run that brings a member back at every step,
// on one random failover after the other, by the way that the plan chooses, and
// some by page hashes or in full. The run after it ends as one does that nothing
// disturbs; that end is compared with a restore and follows the leader. It goes on
// after an interruption, as TestSoakMembersComeBack does.
func TestSoakKilledAtEveryStep(t *testing.T) {
	soak.Skip(t)
	passed := soak.Open(t, "catchup-kills-soak")
	t.Run("branches", func(t *testing.T) {
		for n := range killedBranches {
			if passed.Passed(strconv.Itoa(n)) {
				continue
			}
			b := randomBranch(10_000+n, pgtest.Majors(t))
			t.Run(fmt.Sprintf("%d, %s", n, b), func(t *testing.T) {
				t.Parallel()
				kills := newBranched(t, b).killedEverywhere(t, n)
				if !t.Failed() {
					passed.Note(t, strconv.Itoa(n), soak.Tally{"kills": kills})
				}
			})
		}
	})
	if total := passed.Total(""); !t.Failed() && (total["rounds"] != killedBranches || total["kills"] < 100) {
		t.Errorf("want %d branches and a hundred kills: %s", killedBranches, total)
	} else {
		t.Log(total)
	}
}

// killedEverywhere kills a run at each step, and gives the number of kills.
func (x *branched) killedEverywhere(t *testing.T, n int) int {
	rung := x.expected(t, n)
	if n%4 == 3 {
		rung = catchup.FullRestore
	}
	k := newKilling(t, x, rung, x.seed)
	for i, step := range stepsOf(rung) {
		t.Run(step, func(t *testing.T) { k.at(t, step, i%2 == n%2) })
	}
	if t.Failed() {
		return k.kills
	}
	last := k.at(t, "file", true)
	last.proved(t, k.backup)
	t.Logf("%s: %d kills", rung, k.kills)
	return k.kills
}
