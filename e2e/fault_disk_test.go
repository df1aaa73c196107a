package e2e_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/servertest"
)

// Disks fill up: that of the repository while WAL is archived and a backup
// taken, then those that a restore and a new replica are written to. Each says
// so, lists or starts nothing that is not whole, and works once there is room.
func TestFullDisks(t *testing.T) {
	t.Parallel()
	s := prepareSite(t, siteOptions{Options: lab.Options{Nodes: 2}})
	d := &fullDisks{site: s, repository: servertest.MountDisk(t, s.repo.dir, 600), member: servertest.MountDisk(t, s.Nodes[1].Dir, 600)}
	if err := s.Nodes[1].WriteConfig(nil); err != nil {
		t.Fatal(err)
	}
	s.configure(t, s.Nodes[1])
	s.up(t)
	primary := server(s, s.Leader())
	primary.EnableAMCheck(t)
	primary.PgbenchInit(t, 1)
	for _, step := range []struct {
		name string
		run  func(*fullDisks, *testing.T)
	}{
		{"the repository's while WAL is archived", (*fullDisks).archiving},
		{"the repository's in the middle of a backup", (*fullDisks).backingUp},
		{"the target's in the middle of a restore", (*fullDisks).restoring},
		{"a new replica's", (*fullDisks).creating},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(d, t) }) {
			return
		}
	}
}

// fullDisks is the site of TestFullDisks, whose repository and second member
// each have a small disk of their own.
type fullDisks struct {
	*site
	repository, member *servertest.Disk
}

const noRoom = "no space left on device"

func (d *fullDisks) archiving(t *testing.T) {
	leader := d.Leader()
	primary := server(d.site, leader)
	segmentArchived(t, primary)
	d.repository.Fill(t, 0)
	archivingFails(t, primary)
	if log := leader.Log(50); !strings.Contains(log, noRoom) {
		t.Errorf("the log does not say %q:\n%s", noRoom, log)
	}
	if o := d.run(t, leader, "check"); o.code != 1 || !strings.Contains(o.stdout, noRoom) {
		t.Errorf("check does not say %q: %v", noRoom, o)
	}
	d.repository.Empty(t)
	segmentArchived(t, primary)
	d.must(t, leader, "wal", "verify")
}

func (d *fullDisks) backingUp(t *testing.T) {
	d.backup(t) // for the later steps
	f := &faults{site: d.site, restored: map[string]bool{}}
	b := f.begin(t, d.WaitSyncStandby())
	d.repository.Fill(t, 0)
	f.fails(t, b, noRoom)
	d.repository.Empty(t)
	f.next(t)
	f.allRestore(t)
	d.must(t, d.Leader(), "wal", "verify")
}

func (d *fullDisks) restoring(t *testing.T) {
	base := pgtest.Dir(t)
	disk := servertest.MountDisk(t, base, 600)
	dir := filepath.Join(base, "data")
	want := mark(t, server(d.site, d.Leader()), "before the disks of copies are full")
	args := []string{"-c", d.host(t), "restore", "--target-dir", dir, "--target-name", want.name, "--target-action", "promote"}

	disk.Fill(t, 10<<20)
	d.refused(t, nil, args, "free", "hint: ") // it is seen before anything is written
	disk.Empty(t)

	run := d.start(t, nil, args...)
	waitFor(t, "the restore to write", func() bool { return tree(t, dir) != "[]" })
	b := &begun{run}
	b.signal(t, syscall.SIGSTOP)
	disk.Fill(t, 1<<20)
	if o := b.ends(t); o.code != 1 || !strings.Contains(o.stderr, noRoom) || !strings.Contains(o.stderr, "make room") {
		t.Errorf("want the restore to fail for want of room: %v", o)
	}
	disk.Empty(t)
	mustNotStart(t, d.site, dir)
	d.must(t, nil, args...)
	c := d.adopt(t, dir)
	c.Start(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	if got := c.Dump(t); got != want.content {
		t.Errorf("the restored content differs:\n%s", firstDifference(want.content, got))
	}
	c.Stop(t, pgtest.Immediate)
}

// creating lets Patroni make the replica anew on its full disk.
func (d *fullDisks) creating(t *testing.T) {
	replica := d.Nodes[1]
	if d.Leader() == replica {
		d.Switchover(d.Nodes[0])
	}
	d.useMethod(t, map[string]any{"keep_data": true})
	replica.Kill()
	d.Wipe(replica)
	d.StartNode(replica)
	pid := 0
	waitFor(t, "pgtender create-replica to run", func() bool {
		pid = creating(replica)
		return pid != 0 && syscall.Kill(pid, syscall.SIGSTOP) == nil
	})
	d.member.Fill(t, 1<<20)
	syscall.Kill(pid, syscall.SIGCONT)
	waitFor(t, "the log to tell of the full disk", func() bool {
		log := replica.Log(100)
		return strings.Contains(log, noRoom) || strings.Contains(log, "free")
	})
	if exists(filepath.Join(replica.DataDir, "global", "pg_control")) {
		t.Error("the directory could start")
	}
	d.member.Empty(t)
	d.WaitStreaming(1)
	rebuiltByUs(t, replica)
	sameContent(t, d.site, d.Leader(), replica)
}
