package backup

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cacheWatch keeps one range of a file from changing what the page cache
// holds: what the backup brought in is dropped again, what the server had there
// stays. So a standby that serves queries keeps its cache.
type cacheWatch struct {
	f   *os.File
	off int64
	// before has a byte for each page of the range, whose lowest bit says that
	// the page was there before. nil: not known, and then nothing is dropped.
	before []byte
}

// watchCache looks which pages of the range are in the page cache, without
// touching the file: mincore(2) asks for a mapping only. A kernel that does not
// tell, because the file is somebody else's, calls all pages resident.
//
// Read-ahead is switched off for f, since it would bring in pages behind the
// range, which the next one would take for the server's; prefetch does its
// work.
func watchCache(f *os.File, off, n int64) cacheWatch {
	w := cacheWatch{f: f, off: off}
	page := int64(os.Getpagesize())
	if n <= 0 || off%page != 0 {
		return w
	}
	// Advice only, here and below: a failure costs cache, not correctness.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)
	m, err := unix.Mmap(int(f.Fd()), off, int(n), unix.PROT_NONE, unix.MAP_SHARED)
	if err != nil {
		return w
	}
	defer unix.Munmap(m)
	before := make([]byte, (n+page-1)/page)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(n), uintptr(unsafe.Pointer(&before[0])))
	if errno == 0 {
		w.before = before
	}
	return w
}

// prefetch asks the kernel to read what comes next while the caller is busy.
func (w *cacheWatch) prefetch(off, n int64) {
	if n > 0 {
		_ = unix.Fadvise(int(w.f.Fd()), off, n, unix.FADV_WILLNEED)
	}
}

// drop drops from the page cache what was not there before the range was read.
func (w *cacheWatch) drop() {
	page := int64(os.Getpagesize())
	for i := 0; i < len(w.before); {
		j := i
		for j < len(w.before) && w.before[j]&1 == 0 {
			j++
		}
		if j > i {
			_ = unix.Fadvise(int(w.f.Fd()), w.off+int64(i)*page, int64(j-i)*page, unix.FADV_DONTNEED)
		}
		i = j + 1
	}
}
