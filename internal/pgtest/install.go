package pgtest

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Install copies the test program itself under the given name to where the
// servers' user can run it, as an archive_command or restore_command for
// instance, and gives its path.
func Install(t testing.TB, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	program := filepath.Join(Dir(t), name)
	out, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	Own(t, program)
	return program
}
