package filelock_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/internal/filelock"
)

func TestALockIsHeldByOneUntilItsFileIsClosed(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	if _, err := filelock.Open(name, os.O_RDWR, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a file that is not there: %v", err)
	}
	first, err := filelock.Open(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := filelock.Open(name, os.O_RDWR|os.O_CREATE, 0o600); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("the second got %v, want ErrHeld", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := filelock.Open(name, os.O_RDWR, 0o600)
	if err != nil {
		t.Fatalf("after the first has closed it: %v", err)
	}
	second.Close()
}
