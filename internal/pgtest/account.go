package pgtest

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/pgtender/pgtender/internal/servertest"
)

// account is looked up once.
var account = sync.OnceValues(servertest.Account)

func credential(t testing.TB) *syscall.Credential {
	t.Helper()
	cred, err := account()
	if err != nil {
		servertest.Missing(t, "%v", err)
	}
	return cred
}

// Command prepares a program that runs as the servers' user, in English and UTC.
// It is killed when ctx ends.
func Command(ctx context.Context, t testing.TB, path string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(t)}
	cmd.Dir = "/"
	cmd.Env = append(environ(), "LC_ALL=C", "PGTZ=UTC", "PGCONNECT_TIMEOUT=10")
	return cmd
}

// environ is our environment without the variables that steer tests: a pgtender
// that a server runs would take them for misspelt settings.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PGTENDER_") })
}

// Dir makes an empty directory that the servers' user owns and can reach
// (t.TempDir is closed to other users), and removes it at the end of the test.
// Its path is short enough for a socket to lie in it.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(servertest.Scratch(), "pgt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	Own(t, dir)
	return dir
}

// Own gives a file or a tree to the servers' user. Links are not followed.
func Own(t testing.TB, path string) {
	t.Helper()
	cred := credential(t)
	if cred == nil {
		return
	}
	err := filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, int(cred.Uid), int(cred.Gid))
	})
	if err != nil {
		t.Fatal(err)
	}
}
