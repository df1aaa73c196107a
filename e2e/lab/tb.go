package lab

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/pgtender/pgtender/internal/servertest"
)

// Test is a lab inside a test: what can go wrong ends the test. Each method has
// the time of Timeout.
type Test struct {
	*Cluster
	Timeout time.Duration

	t testing.TB
}

// Start runs a cluster until the end of the test. Without Options.Dir it lies in
// a folder of its own, in memory where there is room and Options.Durable does not
// ask for a disk. The folder is removed unless the test fails or
// PGTENDER_LAB_KEEP is set. When the test fails, the ends of all logs are shown.
// Under -short the test is skipped; otherwise a missing program fails it.
func Start(t testing.TB, o Options) *Test {
	t.Helper()
	l := Ready(t, o)
	ctx, cancel := l.context()
	defer cancel()
	if err := l.Up(ctx); err != nil {
		t.Fatal(err)
	}
	return l
}

// Ready is Start without a running node: see Prepare.
func Ready(t testing.TB, o Options) *Test {
	t.Helper()
	if testing.Short() {
		t.Skip("it runs real servers")
	}
	if o.Dir == "" {
		parent := servertest.Scratch()
		if o.Durable {
			parent = os.TempDir()
		}
		o.Dir = tempDir(t, parent)
	}
	l := &Test{Timeout: 3 * time.Minute, t: t}
	ctx, cancel := l.context()
	defer cancel()
	var err error
	if l.Cluster, err = Prepare(ctx, o); err != nil {
		if missing := (*NotInstalledError)(nil); errors.As(err, &missing) {
			servertest.Missing(t, "%v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		if t.Failed() {
			l.showLogs()
		}
	})
	return l
}

// tempDir is not t.TempDir, which other users cannot enter.
func tempDir(t testing.TB, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "pgtender-lab-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() || os.Getenv("PGTENDER_LAB_KEEP") != "" {
			t.Logf("the lab is kept in %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	return dir
}

// shownLines is how much of each log a failed test shows.
const shownLines = 60

func (l *Test) showLogs() {
	for _, n := range l.Nodes {
		l.t.Logf("end of %s:\n%s", n.LogFile, n.Log(shownLines))
	}
	l.t.Logf("end of %s:\n%s", l.DCS.LogFile, tail(l.DCS.LogFile, shownLines))
}

func (l *Test) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(l.t.Context(), l.Timeout)
}

// must runs an operation with the timeout and ends the test if it fails.
func must[T any](l *Test, operation func(context.Context) (T, error)) T {
	l.t.Helper()
	ctx, cancel := l.context()
	defer cancel()
	value, err := operation(ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	return value
}

func (l *Test) do(operation func(context.Context) error) {
	l.t.Helper()
	must(l, func(ctx context.Context) (struct{}, error) { return struct{}{}, operation(ctx) })
}

// WaitLeader is Cluster.WaitLeader.
func (l *Test) WaitLeader() *Node { l.t.Helper(); return must(l, l.Cluster.WaitLeader) }

// Leader is Cluster.Leader.
func (l *Test) Leader() *Node { l.t.Helper(); return must(l, l.Cluster.Leader) }

// WaitSyncStandby is Cluster.WaitSyncStandby.
func (l *Test) WaitSyncStandby() *Node { l.t.Helper(); return must(l, l.Cluster.WaitSyncStandby) }

// Members is Cluster.Members.
func (l *Test) Members() []Member { l.t.Helper(); return must(l, l.Cluster.Members) }

// WaitStreaming is Cluster.WaitStreaming.
func (l *Test) WaitStreaming(n int) {
	l.t.Helper()
	l.do(func(ctx context.Context) error { return l.Cluster.WaitStreaming(ctx, n) })
}

// Switchover is Cluster.Switchover.
func (l *Test) Switchover(to *Node) {
	l.t.Helper()
	l.do(func(ctx context.Context) error { return l.Cluster.Switchover(ctx, to) })
}

// PatchConfig is Cluster.PatchConfig.
func (l *Test) PatchConfig(change map[string]any) {
	l.t.Helper()
	l.do(func(ctx context.Context) error { return l.Cluster.PatchConfig(ctx, change) })
}

// StartNode is Node.Start.
func (l *Test) StartNode(n *Node) { l.t.Helper(); l.do(n.Start) }

// StopNode is Node.Stop.
func (l *Test) StopNode(n *Node) { l.t.Helper(); l.do(n.Stop) }

// Expire is Node.Expire.
func (l *Test) Expire(n *Node) { l.t.Helper(); l.do(n.Expire) }

// Reinit is Node.Reinit.
func (l *Test) Reinit(n *Node) { l.t.Helper(); l.do(n.Reinit) }

// Wipe is Node.Wipe.
func (l *Test) Wipe(n *Node) {
	l.t.Helper()
	l.do(func(context.Context) error { return n.Wipe() })
}

// SQL is Node.SQL.
func (l *Test) SQL(n *Node, statements string) string {
	l.t.Helper()
	return must(l, func(ctx context.Context) (string, error) { return n.SQL(ctx, statements) })
}
