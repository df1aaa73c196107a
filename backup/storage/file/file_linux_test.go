package file_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/servertest"
)

// asNobody runs do with the file rights of an ordinary user. They belong to
// the thread (setfsuid(2)), which ends with the goroutine since it is locked.
func asNobody(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			unix.Setfsuid(65534)
		}
		do()
	}()
	<-done
}

func TestUnreadableFoldersAreForbiddenAndNotAbsent(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "a/k", "x")
	for _, closed := range []string{filepath.Join(dir, "a"), dir} {
		if err := os.Chmod(closed, 0); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(closed, 0o700)
		asNobody(func() {
			_, getErr := s.Get(t.Context(), "a/k", 0, -1)
			var listErr error
			for _, listErr = range s.List(t.Context(), "a/", "") {
			}
			for verb, err := range map[string]error{
				"get": getErr, "list": listErr,
				"put":    storage.PutBytes(t.Context(), s, "a/l", nil, storage.PutOptions{IfAbsent: true}),
				"delete": s.Delete(t.Context(), "a/k"),
			} {
				if !errors.Is(err, storage.ErrForbidden) || errors.Is(err, fs.ErrNotExist) || storage.Retryable(err) {
					t.Errorf("%s with %s closed: %v, want ErrForbidden", verb, closed, err)
				}
			}
		})
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	servertest.MountDisk(t, dir, 2)
	s := open(t, dir)
	put(t, s, "a/k", "x")
	err := storage.PutBytes(t.Context(), s, "a/l", make([]byte, 8<<20), storage.PutOptions{})
	if !errors.Is(err, syscall.ENOSPC) || storage.Retryable(err) {
		t.Errorf("put: %v, want ENOSPC", err)
	}
	var advised *storage.Error
	if !errors.As(err, &advised) || advised.Hint() == "" {
		t.Errorf("put: %v, want advice", err)
	}
	if got := tree(t, dir); got != "a a/k" {
		t.Errorf("left: %q", got)
	}
	put(t, s, "a/l", "there is room again")
}
