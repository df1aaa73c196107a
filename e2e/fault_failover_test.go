package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/patroni"
)

// What befalls a cluster while a backup of it runs. The backup must end with the
// right status and words, or in spite of it be right; nothing may be listed that
// does not restore; and the next one is let in at once, from the right member.
func TestFailoverDuringBackup(t *testing.T) {
	t.Parallel()
	f := startFaults(t, siteOptions{Options: lab.Options{Nodes: 3}})
	f.steps(t, []faultStep{
		{"the leader dies and the source is promoted", (*faults).leaderDies},
		{"the leader dies and the source follows the next one", (*faults).leaderOfSourceDies},
		{"the source's machine dies", (*faults).sourceDies},
		{"a paused backup wakes up after another one", (*faults).pausedWakes},
	})
	f.allRestore(t)
}

// TestSoakFailoverDuringBackup is TestFailoverDuringBackup with all that takes
// longer, on both DCSs. It runs with PGTENDER_SOAK=1.
func TestSoakFailoverDuringBackup(t *testing.T) {
	if os.Getenv("PGTENDER_SOAK") == "" {
		t.Skip("PGTENDER_SOAK is not set")
	}
	for _, dcs := range []string{"etcd", "consul"} {
		t.Run(dcs, func(t *testing.T) {
			f := startFaults(t, siteOptions{Options: lab.Options{Nodes: 3, DCS: dcs}})
			for range 5 {
				f.steps(t, []faultStep{
					{"the leader dies and the source is promoted", (*faults).leaderDies},
					{"the leader dies and the source follows the next one", (*faults).leaderOfSourceDies},
					{"the source's machine dies", (*faults).sourceDies},
					{"the source is promoted by a switchover", (*faults).sourceIsPromoted},
					{"the source's server dies", (*faults).sourceServerDies},
					{"a paused backup wakes up after another one", (*faults).pausedWakes},
					{"a paused backup wakes up when its lease has lapsed", (*faults).pausedBeyondLease},
				})
				f.allRestore(t)
			}
		})
	}
}

type faultStep struct {
	name string
	run  func(*faults, *testing.T)
}

func (f *faults) steps(t *testing.T, steps []faultStep) {
	t.Helper()
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.run(f, t) }) {
			t.FailNow()
		}
	}
}

// faults is a site of which backups are taken while faults befall it.
type faults struct {
	*site
	restored map[string]bool // backups that have been tried
	marks    int             // restore points made
}

func startFaults(t *testing.T, o siteOptions) *faults {
	t.Helper()
	f := &faults{site: startSite(t, o), restored: map[string]bool{}}
	primary := server(f.site, f.Leader())
	primary.EnableAMCheck(t)
	primary.PgbenchInit(t, 1)
	f.useMethod(t, nil)
	return f
}

// begun is a backup in the middle of the copy. The process is stopped, so that
// what befalls the cluster does so in time however slow the machine is.
type begun struct{ *running }

func (f *faults) begin(t *testing.T, source *lab.Node, args ...string) *begun {
	t.Helper()
	b := &begun{f.start(t, source, append([]string{"backup", "--kind", "full", "--max-rate", "15MB"}, args...)...)}
	w := watch(b.cmd.Process.Pid)
	defer w.end()
	waitFor(t, "the copy to begin", func() bool { return len(w.below(source.DataDir)) > 5 })
	b.signal(t, syscall.SIGSTOP)
	return b
}

func (b *begun) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := b.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// ends lets the backup go on, and waits for its end.
func (b *begun) ends(t *testing.T) outcome {
	t.Helper()
	b.signal(t, syscall.SIGCONT)
	return b.wait(t)
}

// fails lets the backup go on and wants it to end with status 1, saying the
// words, and with nothing listed.
func (f *faults) fails(t *testing.T, b *begun, words ...string) {
	t.Helper()
	before := f.listed(t)
	o := b.ends(t)
	if o.code != 1 || o.stdout != "" {
		t.Errorf("want the backup to fail with status 1: %v", o)
	}
	for _, word := range append(words, "hint: ") {
		if !strings.Contains(o.stderr, word) {
			t.Errorf("the backup does not say %q: %v", word, o)
		}
	}
	if after := f.listed(t); after != before {
		t.Errorf("listed were %s, and are now %s", before, after)
	}
}

// listed gives the backups that are listed as complete.
func (f *faults) listed(t *testing.T) string {
	t.Helper()
	var ids []string
	for _, b := range f.info(t, f.alive()[0]).complete(t) {
		ids = append(ids, b.ID)
	}
	return strings.Join(ids, " ")
}

// alive are the members whose machine runs.
func (f *faults) alive() []*lab.Node {
	var out []*lab.Node
	for _, n := range f.Nodes {
		if n.Running() {
			out = append(out, n)
		}
	}
	return out
}

// next runs backup --elect on each living member, as their timers do, and wants
// the synchronous standby to be the one that takes it.
func (f *faults) next(t *testing.T) {
	t.Helper()
	standby := f.WaitSyncStandby()
	for _, n := range f.alive() {
		// The new leader knows it first; what the members say of themselves comes
		// with their next round.
		waitFor(t, fmt.Sprintf("%s to see that %s is the source", n.Name, standby.Name), func() bool {
			var got struct{ Source string }
			f.query(t, n, &got, "topology")
			return got.Source == standby.Name
		})
	}
	for _, n := range f.alive() {
		o := f.must(t, n, "backup", "--elect")
		if took := o.stdout != ""; took != (n == standby) {
			t.Errorf("the synchronous standby is %s: %v", standby.Name, o)
		}
	}
}

// healed replaces the machines that died by empty ones, and waits until all stream.
func (f *faults) healed(t *testing.T) {
	t.Helper()
	for _, n := range f.Nodes {
		if !n.Running() {
			f.Wipe(n)
			f.StartNode(n)
		}
	}
	f.WaitStreaming(len(f.Nodes) - 1)
	f.WaitSyncStandby()
}

// other gives a replica that is not the synchronous standby.
func (f *faults) other(t *testing.T) *lab.Node {
	t.Helper()
	leader, standby := f.Leader(), f.WaitSyncStandby()
	for _, n := range f.Nodes {
		if n != leader && n != standby {
			return n
		}
	}
	t.Fatal("there is no third member")
	return nil
}

func (f *faults) sourceIsPromoted(t *testing.T) {
	source := f.WaitSyncStandby()
	b := f.begin(t, source)
	f.Switchover(source)
	f.fails(t, b, "promoted")
	f.healed(t)
	f.next(t)
}

func (f *faults) leaderDies(t *testing.T) {
	leader, source := f.Leader(), f.WaitSyncStandby()
	b := f.begin(t, source)
	if got := failOver(t, f.site, leader); got != source {
		t.Errorf("%s leads, want %s", got.Name, source.Name)
	}
	f.fails(t, b, "promoted")
	f.next(t)
	f.healed(t)
}

// leaderOfSourceDies backs up from a member that only changes its leader. That
// is no reason to fail.
func (f *faults) leaderOfSourceDies(t *testing.T) {
	leader, source := f.Leader(), f.other(t)
	b := f.begin(t, source, "--member", source.Name)
	failOver(t, f.site, leader)
	if o := b.ends(t); o.code != 0 {
		t.Errorf("a change of the leader has ended the backup: %v", o)
	}
	f.healed(t)
}

// sourceDies lets the whole machine go: server and backup.
func (f *faults) sourceDies(t *testing.T) {
	source := f.WaitSyncStandby()
	b := f.begin(t, source)
	before := f.listed(t)
	b.cmd.Process.Kill()
	source.Kill()
	b.wait(t)
	if after := f.listed(t); after != before {
		t.Errorf("listed were %s, and are now %s", before, after)
	}
	f.WaitStreaming(1)
	f.lapse(t)
	f.next(t)
	f.healed(t)
}

// sourceServerDies leaves the backup itself alive.
func (f *faults) sourceServerDies(t *testing.T) {
	source := f.WaitSyncStandby()
	b := f.begin(t, source)
	source.Kill()
	f.fails(t, b, "session")
	f.WaitStreaming(1)
	f.next(t)
	f.healed(t)
}

// lapse lets the backup's lease end as it does by itself within a minute. That
// is waited for in pausedBeyondLease.
func (f *faults) lapse(t *testing.T) {
	t.Helper()
	key := ha.BackupKey(patroni.Prefix("service", f.Scope))
	if err := f.DCS.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}

// pausedWakes stops a backup until another one has been taken. It may end
// before it looks at its lease, which is no fence: then it must be right.
func (f *faults) pausedWakes(t *testing.T) {
	b := f.begin(t, f.WaitSyncStandby())
	f.lapse(t)
	f.next(t)
	before := f.listed(t)
	if o := b.ends(t); (o.code == 0) != (f.listed(t) != before) {
		t.Errorf("listed were %s, and are now %s: %v", before, f.listed(t), o)
	}
}

// pausedBeyondLease stops a backup for longer than its lease lasts.
func (f *faults) pausedBeyondLease(t *testing.T) {
	source := f.WaitSyncStandby()
	b := f.begin(t, source)
	f.refused(t, source, []string{"backup"}, "another backup of the cluster is running")
	waitFor(t, "the lease to lapse", func() bool { return f.run(t, source, "backup").code == 0 })
	f.fails(t, b, "lease lost")
}

// allRestore restores every backup that is listed.
func (f *faults) allRestore(t *testing.T) {
	t.Helper()
	for _, b := range f.info(t, f.Leader()).complete(t) {
		if f.restored[b.ID] {
			continue
		}
		f.restored[b.ID] = true
		c := f.restore(t, "--backup", b.ID, "--target-immediate", "--target-action", "promote")
		c.Start(t)
		c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
		c.AMCheck(t)
		c.Checksums(t)
		agree(t, c)
		c.Stop(t, pgtest.Immediate)
	}
}
