package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"syscall"
	"testing"
)

// PgbenchInit makes pgbench's tables; a scale of 1 is about 15 MB.
func (c *Cluster) PgbenchInit(t testing.TB, scale int) {
	t.Helper()
	c.tool(t, "pgbench", "-i", "-q", "-s", strconv.Itoa(scale))
}

// Load is pgbench at work.
type Load struct {
	done chan struct{}
	err  error
}

// Pgbench lets pgbench's own transactions run with so many clients until ctx
// ends. Call Wait after that, or at the end of the test it is called for you.
func (c *Cluster) Pgbench(ctx context.Context, t testing.TB, clients int) *Load {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	n := strconv.Itoa(clients)
	cmd := c.client(ctx, t, Tool(t, c.Major, "pgbench"), "-n", "-c", n, "-j", "1", "-T", "86400")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	l := &Load{done: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(l.done)
		err := cmd.Wait()
		if ctx.Err() == nil {
			l.err = fmt.Errorf("pgbench ended early: %v\n%s", err, tail(out.String(), 20))
		}
	}()
	t.Cleanup(func() { cancel(); <-l.done })
	return l
}

// Wait waits until pgbench has ended. It gives an error if pgbench did not run
// until its context ended, as when its server went away.
func (l *Load) Wait() error {
	<-l.done
	return l.err
}
