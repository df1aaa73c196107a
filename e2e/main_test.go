// Package e2e_test drives the built program on real clusters: PostgreSQL under
// Patroni with etcd or Consul, and a repository in a directory or an S3 server.
// It knows pgtender as its users do, by its commands and their output; the
// oracles are PostgreSQL's own (package pgtest) and Patroni's (package lab).
package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// buildDir holds the program under test; it is made when the first test asks.
var buildDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if buildDir != "" {
		os.RemoveAll(buildDir)
	}
	os.Exit(code)
}

// build makes the program once, in a folder that the servers' user can enter.
// PGTENDER_BINARY names one that is built already.
var build = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("PGTENDER_BINARY"); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "pgtender-e2e-")
	if err != nil {
		return "", err
	}
	buildDir = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "pgtender")
	out, err := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", path, "github.com/pgtender/pgtender/cmd/pgtender").CombinedOutput()
	if err != nil {
		return "", &buildError{err, strings.TrimSpace(string(out))}
	}
	return path, nil
})

type buildError struct {
	err    error
	output string
}

func (e *buildError) Error() string { return "build pgtender: " + e.err.Error() + "\n" + e.output }

// program gives the path of the program under test.
func program(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("it runs real servers")
	}
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
