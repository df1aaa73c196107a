package pgtest_test

import (
	"runtime"
	"testing"
)

// recorder stands in for a test that is expected to fail.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Fatal(args ...any) {
	r.TB.Helper()
	r.TB.Log(args...)
	r.failed = true
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.TB.Helper()
	r.TB.Logf(format, args...)
	r.failed = true
	runtime.Goexit()
}
