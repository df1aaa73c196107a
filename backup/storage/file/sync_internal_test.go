package file

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
)

// Each fsync of a folder makes the disk flush its cache, changed or not, and a
// repository that was written to a moment ago is read in hundreds of pieces.
func TestAFolderIsSyncedAgainOnlyAfterItChanged(t *testing.T) {
	s, err := Open(t.Context(), Options{Dir: t.TempDir(), Create: true})
	if err != nil {
		t.Fatal(err)
	}
	syncs := map[string]int{}
	s.fsync = func(f *os.File) error {
		info, err := f.Stat()
		if err == nil {
			syncs[info.Name()]++
		}
		return f.Sync()
	}
	put := func(key string) {
		t.Helper()
		if err := storage.PutBytes(t.Context(), s, key, []byte(key), storage.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(key string) (before, after int) {
		t.Helper()
		before = syncs["a"]
		r, err := s.Get(t.Context(), key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Fatal(err)
		}
		for _, err := range s.List(t.Context(), "a/", "") {
			if err != nil {
				t.Fatal(err)
			}
		}
		return before, syncs["a"]
	}
	put("a/one")
	if before, after := read("a/one"); after == before {
		t.Fatal("names of this second were told without being synced")
	}
	// From a second on the folder's time tells whether it has changed.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if before, after := read("a/one"); after == before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a folder that does not change is synced over and over")
		}
	}
	other, err := Open(t.Context(), Options{Dir: s.dir})
	if err != nil {
		t.Fatal(err)
	}
	other.fsync = func(*os.File) error { return nil } // killed before it had synced
	if err := storage.PutBytes(t.Context(), other, "a/two", []byte("2"), storage.PutOptions{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	if before, after := read("a/two"); after == before {
		t.Error("a name that came after the sync was told without being synced")
	}
}

// A file system that an error has made read-only goes on showing names that never
// came to the disk. It says so when it is told to sync.
func TestAFileSystemThatHasFailedTakesNothing(t *testing.T) {
	s, err := Open(t.Context(), Options{Dir: t.TempDir(), Create: true})
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string) error {
		return storage.PutBytes(t.Context(), s, key, []byte(key), storage.PutOptions{IfAbsent: true})
	}
	get := func(key string) error {
		r, err := s.Get(t.Context(), key, 0, -1)
		if err == nil {
			r.Close()
		}
		return err
	}
	for _, key := range []string{"old/one", "young/one"} {
		if err := put(key); err != nil {
			t.Fatal(err)
		}
	}
	hour := time.Now().Add(-time.Hour)
	for _, dir := range []string{"", "old"} {
		if err := os.Chtimes(filepath.Join(s.dir, dir), hour, hour); err != nil {
			t.Fatal(err)
		}
	}
	s.fsync = func(*os.File) error { return syscall.EROFS }
	for name, err := range map[string]error{
		"a new name":                   put("young/two"),
		"a name that is taken":         put("old/one"),
		"reading a young one":          get("young/one"),
		"making sure of a young one":   s.Persist(t.Context(), "young/one"),
		"making sure of an old one":    s.Persist(t.Context(), "old/one"),
		"what was never there":         s.Persist(t.Context(), "none/one"),
		"through what wraps the store": storage.Persist(t.Context(), wrapper{s}, "old/one"),
	} {
		if err == nil || errors.Is(err, storage.ErrExists) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	s.fsync = (*os.File).Sync
	for name, err := range map[string]error{
		"a name that was stored while it failed": s.Persist(t.Context(), "young/two"),
		"an old one":                             s.Persist(t.Context(), "old/one"),
	} {
		if err != nil {
			t.Errorf("mended, %s: %v", name, err)
		}
	}
}

type wrapper struct{ storage.Store }

func (w wrapper) Unwrap() storage.Store { return w.Store }
