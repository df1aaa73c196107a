package backup

import (
	"bytes"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cacheWatch keeps one range of a file from changing what the page cache
// holds: what the backup brought in is dropped again, what the server had there
// stays. So a standby that serves queries keeps its cache.
type cacheWatch struct {
	f      *os.File
	off    int64
	mapped []byte // the range, which only mincore looks at
	// before has a byte for each page of the range, whose lowest bit says that
	// the page was there before, or that nobody knows; then it is not dropped.
	before []byte
}

// watchCache looks which pages of a range of n bytes from off on are in the page
// cache.
func watchCache(f *os.File, off, n int64) cacheWatch {
	w := watchPages(f, off, n)
	w.look(off, n)
	return w
}

// watchPages is for a range of which some pages are read: each is to be looked at
// before. What looks at all pages costs a backup of few changes 25 ms of the
// kernel's for each GiB that they are scattered over.
//
// Read-ahead is switched off for f, since it would bring in pages behind the
// range, which the next one would take for the server's; prefetch does its
// work.
func watchPages(f *os.File, off, n int64) cacheWatch {
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
	w.mapped, w.before = m, bytes.Repeat([]byte{1}, int((n+page-1)/page))
	return w
}

// look notes which of the range's pages with the n bytes from off on are in the
// page cache, without touching the file: mincore(2) asks for a mapping only. A
// kernel that does not tell, because the file is somebody else's, calls all pages
// resident.
func (w *cacheWatch) look(off, n int64) {
	if n <= 0 || w.mapped == nil {
		return
	}
	page := int64(os.Getpagesize())
	first, last := (off-w.off)/page, (off-w.off+n-1)/page
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&w.mapped[first*page])), uintptr(off-w.off+n-first*page), uintptr(unsafe.Pointer(&w.before[first])))
	if errno != 0 { // not known, then
		for i := first; i <= last; i++ {
			w.before[i] = 1
		}
	}
}

// prefetch asks the kernel to read what comes next while the caller is busy.
func (w *cacheWatch) prefetch(off, n int64) {
	if n > 0 {
		_ = unix.Fadvise(int(w.f.Fd()), off, n, unix.FADV_WILLNEED)
	}
}

// drop drops from the page cache what was not there before it was read, and ends
// the watch.
func (w *cacheWatch) drop() {
	if w.mapped != nil {
		_ = unix.Munmap(w.mapped)
		w.mapped = nil
	}
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
