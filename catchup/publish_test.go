package catchup_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// TestARunTellsHowFarItIs reads the file that others read, in the middle of a
// restore; afterwards it is gone.
func TestARunTellsHowFarItIs(t *testing.T) {
	t.Parallel()
	l := newLab(t, pgtest.Options{})
	l.backup(t, l.primary)
	dir := filepath.Join(pgtest.Dir(t), "data")
	p := l.plan(t, catchup.GatherOptions{Purpose: catchup.Restore, Dir: dir})
	path := filepath.Join(dir, ".pgtender", "progress.json")
	seen := map[string]bool{}
	o := catchup.RunOptions{Repo: l.repo, RestoreCommand: "false", Log: testLog(t)}
	var mu sync.Mutex
	o.SetStep(func(string) {
		mu.Lock()
		defer mu.Unlock()
		b, err := os.ReadFile(path)
		if err != nil {
			return
		}
		var now catchup.Published
		if err := json.Unmarshal(b, &now); err != nil || now.PID != os.Getpid() || now.Way != catchup.FullRestore || now.Backup != p.Backup.ID || now.At.IsZero() {
			t.Errorf("%s: %v", b, err)
		}
		seen[now.Phase] = true
	})
	if _, err := catchup.Run(t.Context(), p, o); err != nil {
		t.Fatal(err)
	}
	if !seen[catchup.PhaseFiles] || !seen[catchup.PhaseFinishing] {
		t.Errorf("it told of %v", seen)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file is there still: %v", err)
	}
}
