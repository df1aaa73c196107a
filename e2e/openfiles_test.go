package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// watcher looks again and again at the files that a process has open. What it
// does not see was open for less than a round, a fraction of a millisecond;
// nobody reads a database that way.
type watcher struct {
	mu   sync.Mutex
	seen map[string]bool

	stop, done chan struct{}
}

func watch(pid int) *watcher {
	w := &watcher{seen: map[string]bool{}, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for {
			select {
			case <-w.stop:
				return
			default:
				w.look(pid)
			}
		}
	}()
	return w
}

func (w *watcher) look(pid int) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // it has ended
	}
	for _, e := range entries {
		if path, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			w.mu.Lock()
			w.seen[path] = true
			w.mu.Unlock()
		}
	}
}

// below lists what has been seen open below a folder, its pg_wal left out.
func (w *watcher) below(folder string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for path := range w.seen {
		if rest, ok := strings.CutPrefix(path, folder+"/"); ok && !strings.HasPrefix(rest, "pg_wal") {
			out = append(out, rest)
		}
	}
	return out
}

func (w *watcher) end() {
	close(w.stop)
	<-w.done
}
