package servertest

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// EndWithParent has a program get a signal when the thread that starts it ends,
// which happens however its process dies.
func EndWithParent(attr *syscall.SysProcAttr, s syscall.Signal) { attr.Pdeathsig = s }

// allocate takes up room on the disk.
func allocate(fd int, off, n int64) error { return unix.Fallocate(fd, 0, off, n) }

// Remove removes it if it still is the one that was noted down, and nobody uses
// it.
func (m SharedMemory) Remove() {
	var info unix.SysvShmDesc
	if m == (SharedMemory{}) {
		return
	}
	if _, err := unix.SysvShmCtl(m.id, unix.IPC_STAT, &info); err == nil && int(info.Perm.Key) == m.key && info.Nattch == 0 {
		unix.SysvShmCtl(m.id, unix.IPC_RMID, nil)
	}
}
