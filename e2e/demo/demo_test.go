package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestDemo(t *testing.T) {
	o := built(t)
	var out, errOut output
	if code := play(t.Context(), o, &out, &errOut); code != exitDone {
		t.Fatalf("exit status %d\n%s\n%s", code, out.String(), errOut.String())
	}
	for _, want := range []string{
		"is not the source of a backup", "the primary:               0 of 17", "replica has been created using pgtender",
		"the last order before the crash\n  the first order after the crash", "No row is missing",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not print %q", want)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
	nothingLeft(t, out.String())
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	o := built(t)
	ctx, interrupt := context.WithCancel(t.Context())
	out := output{seen: "pgbench -p", then: interrupt} // in the middle of step 2
	var errOut output
	if code := play(ctx, o, &out, &errOut); code != exitInterrupted || !strings.Contains(errOut.String(), "interrupted") {
		t.Fatalf("exit status %d\n%s\n%s", code, out.String(), errOut.String())
	}
	nothingLeft(t, out.String())
}

func TestFailedDemoSaysWhereTheLogsAre(t *testing.T) {
	needsCluster(t)
	var out, errOut output
	if code := play(t.Context(), options{tool: "/bin/false"}, &out, &errOut); code != exitFailed {
		t.Fatalf("exit status %d with a pgtender that always fails\n%s", code, out.String())
	}
	dir := folder(t, out.String())
	defer os.RemoveAll(dir)
	if want := filepath.Join(dir, "*.log"); !strings.Contains(errOut.String(), want) {
		t.Errorf("no word of %s:\n%s", want, errOut.String())
	}
	logs, err := filepath.Glob(filepath.Join(dir, "pg*.log"))
	if err != nil || len(logs) == 0 {
		t.Errorf("logs %v, error %v", logs, err)
	}
	noProcess(t, dir)
}

func needsCluster(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a cluster")
	}
}

// built builds the program to show.
func built(t *testing.T) options {
	t.Helper()
	needsCluster(t)
	tool := filepath.Join(t.TempDir(), "pgtender")
	if out, err := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", tool, "../../cmd/pgtender").CombinedOutput(); err != nil {
		t.Fatalf("build pgtender: %v\n%s", err, out)
	}
	return options{tool: tool}
}

func folder(t *testing.T, out string) string {
	t.Helper()
	dir := regexp.MustCompile(`/var/tmp/pgtender-demo-\d+`).FindString(out)
	if dir == "" {
		t.Fatalf("the demo does not say where it runs:\n%s", out)
	}
	return dir
}

func nothingLeft(t *testing.T, out string) {
	t.Helper()
	dir := folder(t, out)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	noProcess(t, dir)
}

// noProcess fails for each process that has to do with the demo's folder.
func noProcess(t *testing.T, dir string) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(processes) == 0 {
		t.Fatalf("list processes: %v", err)
	}
	for _, file := range processes {
		line, _ := os.ReadFile(file) // it may have ended
		cwd, _ := os.Readlink(filepath.Join(filepath.Dir(file), "cwd"))
		if bytes.Contains(line, []byte(dir)) || strings.HasPrefix(cwd, dir) {
			t.Errorf("still running in %s: %s", cwd, bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
}

// output keeps what is printed; then, if set, is called once it holds seen.
type output struct {
	seen string
	then func()
	once sync.Once

	mu  sync.Mutex
	buf bytes.Buffer
}

var _ io.Writer = (*output)(nil)

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	if o.then != nil && strings.Contains(o.buf.String(), o.seen) {
		o.once.Do(o.then)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := await(ctx, "the impossible", func() (bool, error) { return false, nil }); err == nil || !strings.Contains(err.Error(), "the impossible") {
		t.Errorf("error %v", err)
	}
}
