package agent_test

import (
	"os"
	"testing"

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
