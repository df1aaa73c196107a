package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// Disks fill up: that of the repository while WAL is archived and a backup
// taken, then those that a restore and a new replica are written to. Each says
// so, lists or starts nothing that is not whole, and works once there is room.
func TestFullDisks(t *testing.T) {
	t.Parallel()
	s := prepareSite(t, siteOptions{Options: lab.Options{Nodes: 2}})
	d := &fullDisks{site: s, repository: mountSmall(t, s.Test, s.repo.dir), member: mountSmall(t, s.Test, s.Nodes[1].Dir)}
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
	repository, member *smallDisk
}

const noRoom = "no space left on device"

func (d *fullDisks) archiving(t *testing.T) {
	leader := d.Leader()
	primary := server(d.site, leader)
	segmentArchived(t, primary)
	d.repository.fill(t, 0)
	archivingFails(t, primary)
	if log := leader.Log(50); !strings.Contains(log, noRoom) {
		t.Errorf("the log does not say %q:\n%s", noRoom, log)
	}
	if o := d.run(t, leader, "check"); o.code != 1 || !strings.Contains(o.stdout, noRoom) {
		t.Errorf("check does not say %q: %v", noRoom, o)
	}
	d.repository.empty(t)
	segmentArchived(t, primary)
	d.must(t, leader, "wal", "verify")
}

func (d *fullDisks) backingUp(t *testing.T) {
	d.backup(t) // for the later steps
	f := &faults{site: d.site, restored: map[string]bool{}}
	b := f.begin(t, d.WaitSyncStandby())
	d.repository.fill(t, 0)
	f.fails(t, b, noRoom)
	d.repository.empty(t)
	f.next(t)
	f.allRestore(t)
	d.must(t, d.Leader(), "wal", "verify")
}

func (d *fullDisks) restoring(t *testing.T) {
	base := pgtest.Dir(t)
	disk := mountSmall(t, d.Test, base)
	dir := filepath.Join(base, "data")
	want := mark(t, server(d.site, d.Leader()), "before the disks of copies are full")
	args := []string{"-c", d.host(t), "restore", "--target-dir", dir, "--target-name", want.name, "--target-action", "promote"}

	disk.fill(t, 10<<20)
	d.refused(t, nil, args, "free", "hint: ") // it is seen before anything is written
	disk.empty(t)

	run := d.start(t, nil, args...)
	waitFor(t, "the restore to write", func() bool { return tree(t, dir) != "[]" })
	b := &begun{run}
	b.signal(t, syscall.SIGSTOP)
	disk.fill(t, 1<<20)
	if o := b.ends(t); o.code != 1 || !strings.Contains(o.stderr, noRoom) || !strings.Contains(o.stderr, "make room") {
		t.Errorf("want the restore to fail for want of room: %v", o)
	}
	disk.empty(t)
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
	d.member.fill(t, 1<<20)
	syscall.Kill(pid, syscall.SIGCONT)
	waitFor(t, "the log to tell of the full disk", func() bool {
		log := replica.Log(100)
		return strings.Contains(log, noRoom) || strings.Contains(log, "free")
	})
	if exists(filepath.Join(replica.DataDir, "global", "pg_control")) {
		t.Error("the directory could start")
	}
	d.member.empty(t)
	d.WaitStreaming(1)
	rebuiltByUs(t, replica)
	sameContent(t, d.site, d.Leader(), replica)
}

// smallDisk is a file system of its own.
type smallDisk struct{ dir string }

// mountSmall mounts one over a folder, which must be empty, for the servers' user.
func mountSmall(t *testing.T, l *lab.Test, dir string) *smallDisk {
	t.Helper()
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	sudo(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=600m,mode=0755,uid=%d,gid=%d", owner.Uid, owner.Gid), "pgtender-e2e", dir)
	// Servers may still run on it.
	t.Cleanup(func() { sudo(t, "umount", "--lazy", dir) })
	return &smallDisk{dir}
}

// sudo runs a program as root.
func sudo(t *testing.T, args ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		args = append([]string{"sudo", "-n"}, args...)
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

func (d *smallDisk) ballast() string { return filepath.Join(d.dir, ".ballast") }

// fill takes up the room but for some bytes.
func (d *smallDisk) fill(t *testing.T, leave int64) {
	t.Helper()
	f, err := os.Create(d.ballast())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// In steps that get smaller, since others may write meanwhile.
	for size, taken := int64(64<<20), int64(0); size >= 4096; {
		var fs unix.Statfs_t
		if err := unix.Statfs(d.dir, &fs); err != nil {
			t.Fatal(err)
		}
		if int64(fs.Bavail)*fs.Bsize-leave < size || unix.Fallocate(int(f.Fd()), 0, taken, size) != nil {
			size /= 2
			continue
		}
		taken += size
	}
}

func (d *smallDisk) empty(t *testing.T) {
	t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		t.Fatal(err)
	}
}
