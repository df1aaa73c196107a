package backup

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheCopyLeavesThePageCacheAsItWas(t *testing.T) {
	t.Run("full", func(t *testing.T) {
		s := newSource(t)
		s.write("base/5/1", relation(64))
		s.write("base/5/2", relation(3))
		for _, name := range []string{"base/5/1", "base/5/2"} {
			sameCache(t, filepath.Join(s.dir.Root, name), func() { copied(t, s, 1, nil) })
		}
	})
	for _, byLSN := range []bool{false, true} {
		t.Run(fmt.Sprintf("incremental, by page LSNs %t", byLSN), func(t *testing.T) {
			l := newLine(t, 5)
			l.byLSN, l.quiet = byLSN, true
			l.grow(20000, 500)
			l.backUp(t)
			for _, block := range []uint32{0, 1, 2, 77, 78, 499} {
				l.change(20000, block)
			}
			sameCache(t, filepath.Join(l.dir.Root, path5(20000)), func() { l.backUp(t) })
		})
	}
}

// sameCache has the second page of a file in the page cache, and no other, and
// wants that so after f.
func sameCache(t *testing.T, path string, f func()) {
	t.Helper()
	h, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	info, err := h.Stat()
	if err != nil {
		t.Fatal(err)
	}
	evict(t, h)
	// The server reads a part of it.
	if _, err := h.ReadAt(make([]byte, testPage), testPage); err != nil {
		t.Fatal(err)
	}
	before := watchCache(h, 0, info.Size()).before
	if before == nil || !slices.ContainsFunc(before, func(b byte) bool { return b&1 == 0 }) {
		t.Skip("the file system of the temporary directory has no page cache to drop from")
	}
	f()
	if after := watchCache(h, 0, info.Size()).before; !bytes.Equal(before, after) {
		t.Errorf("%s: pages in the cache before\n%v\nand after\n%v", path, before, after)
	}
}

func evict(t *testing.T, f *os.File) {
	t.Helper()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, advice := range []int{unix.FADV_DONTNEED, unix.FADV_RANDOM} {
		if err := unix.Fadvise(int(f.Fd()), 0, 0, advice); err != nil {
			t.Fatal(err)
		}
	}
}
