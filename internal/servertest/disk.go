package servertest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Disk is a small file system of a test's own, in memory.
type Disk struct{ dir string }

// MountDisk mounts an empty one of so many MiB over a directory, which must be
// empty and keeps its owner, until the test ends. To mount takes root or sudo
// without a password. Where neither is, the test fails, and under -short it is
// skipped, which never asks sudo.
func MountDisk(t testing.TB, dir string, mib int) *Disk {
	t.Helper()
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if testing.Short() && os.Geteuid() != 0 {
		t.Skip("to mount a file system takes root or sudo")
	}
	owner := info.Sys().(*syscall.Stat_t)
	options := fmt.Sprintf("size=%dm,mode=0755,uid=%d,gid=%d", mib, owner.Uid, owner.Gid)
	if err := asRoot("mount", "-t", "tmpfs", "-o", options, "pgtender-test", dir); err != nil {
		if testing.Short() {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := asRoot("umount", "--lazy", dir); err != nil { // servers may still run on it
			t.Error(err)
		}
	})
	return &Disk{dir}
}

// Resize makes the disk have so many MiB.
func (d *Disk) Resize(t testing.TB, mib int) {
	t.Helper()
	if err := asRoot("mount", "-o", fmt.Sprintf("remount,size=%dm", mib), d.dir); err != nil {
		t.Fatal(err)
	}
}

// asRoot runs a program as root.
func asRoot(args ...string) error {
	if os.Geteuid() != 0 {
		args = append([]string{"sudo", "-n"}, args...)
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%q, which takes root or sudo without a password: %w: %s", args, err, out)
	}
	return nil
}

// Ballast is the file in the disk's root that [Disk.Fill] fills it with.
const Ballast = ".ballast"

// Fill takes up the room but for some bytes. It may be called again, to take
// what has become free since.
func (d *Disk) Fill(t testing.TB, leave int64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(d.dir, Ballast), os.O_CREATE|os.O_WRONLY, 0o600)
	if errors.Is(err, unix.ENOSPC) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	// In steps that get smaller, since others may write meanwhile.
	for size, taken := int64(64<<20), info.Size(); size >= 4096; {
		var fs unix.Statfs_t
		if err := unix.Statfs(d.dir, &fs); err != nil {
			t.Fatal(err)
		}
		if int64(fs.Bavail)*int64(fs.Bsize)-leave < size || allocate(int(f.Fd()), taken, size) != nil {
			size /= 2
			continue
		}
		taken += size
	}
}

// Empty undoes Fill.
func (d *Disk) Empty(t testing.TB) {
	t.Helper()
	if err := os.Remove(filepath.Join(d.dir, Ballast)); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}
