package server_test

import (
	"strconv"
	"syscall"
	"testing"
)

// freeze stops a server process until the result is called.
func freeze(t *testing.T, pid string) (resume func()) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil || n < 2 {
		t.Fatalf("process id %q", pid)
	}
	syscall.Kill(n, syscall.SIGSTOP)
	return func() { syscall.Kill(n, syscall.SIGCONT) }
}
