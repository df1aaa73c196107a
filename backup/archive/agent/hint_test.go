package agent_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive/agent"
	"github.com/pgtender/pgtender/backup/archive/agent/early"
)

func TestAHintIsWithdrawnByItsOwnAgentAlone(t *testing.T) {
	dir := t.TempDir()
	leave := func(socket string) (withdraw func() error) {
		withdraw, err := agent.LeaveHint(dir, early.Hint{Socket: socket, Config: "/c"})
		if err != nil {
			t.Fatal(err)
		}
		return withdraw
	}
	old, current := leave("/old"), leave("/new")
	count := func() int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if err := old(); err != nil || count() != 1 {
		t.Errorf("%v, %d files where the other agent's hint should be", err, count())
	}
	if err := current(); err != nil || count() != 0 {
		t.Errorf("%v, %d files left", err, count())
	}
	if err := current(); err != nil {
		t.Error(err)
	}
	if _, err := agent.LeaveHint(dir, early.Hint{Socket: "/a\nb", Config: "/c"}); err == nil || count() != 0 {
		t.Error("a path with a line break was left")
	}
}

// TestAHintComesBackWithItsMember: a new member's agent may run before there is a data
// directory, and create-replica makes one anew beside it.
func TestAHintComesBackWithItsMember(t *testing.T) {
	walDir := filepath.Join(t.TempDir(), "pg_wal")
	until := func(there bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			_, err := os.Stat(filepath.Join(walDir, early.HintFile))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if (err == nil) == there {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the hint: %v", err)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		agent.KeepHint(ctx, walDir, early.Hint{Socket: "/s", Config: "/c"}, 5*time.Millisecond, slog.New(slog.DiscardHandler))
	}()
	for range 2 {
		if err := os.Mkdir(walDir, 0o700); err != nil {
			t.Fatal(err)
		}
		until(true)
		if err := os.Rename(walDir, walDir+".old"); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(walDir + ".old"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(walDir, 0o700); err != nil {
		t.Fatal(err)
	}
	until(true)
	cancel()
	<-done
	until(false)
}
