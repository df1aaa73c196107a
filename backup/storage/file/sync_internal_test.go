package file

import (
	"io"
	"os"
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
