package drill

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

func TestWhatAKilledDrillLeavesIsRemovedByTheNext(t *testing.T) {
	parent := t.TempDir()
	live, lock, err := makeScratch(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	dead, ended, err := makeScratch(parent)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(parent, "pgtender-drill-other") // has no lock
	link := filepath.Join(parent, "pgtender-drill-link")
	target := filepath.Join(parent, "target")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dead, "data", "base"), 0o700), os.WriteFile(filepath.Join(dead, "data", "base", "1"), []byte("page"), 0o400),
		os.Mkdir(other, 0o700), os.Mkdir(target, 0o700), os.WriteFile(filepath.Join(target, lockName), nil, 0o600), os.Symlink(target, link),
		ended.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	removeDead(parent, nil, slog.New(slog.DiscardHandler))
	for path, want := range map[string]bool{live: true, dead: false, other: true, link: true, target: true} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s is there: %v (%v)", path, err == nil, err)
		}
	}
}
