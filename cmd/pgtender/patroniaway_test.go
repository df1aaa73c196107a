package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/dcs/mem"
	"github.com/pgtender/pgtender/internal/config"
	"github.com/pgtender/pgtender/internal/finding"
)

// A directory has many names, and Patroni knows one of them. The server is down in
// between, so nothing else would keep catchup from it.
func TestPatroniIsNoticedByWhateverNameTheDirectoryHas(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"state": "stopped", "role": "replica", "patroni": {"version": "4.1.0", "scope": "lab", "name": "pg1"}}`)
	}))
	defer api.Close()
	dir := t.TempDir()
	data, link := filepath.Join(dir, "data"), filepath.Join(dir, "link")
	for _, name := range []string{data, filepath.Join(dir, "other")} {
		if err := os.Mkdir(name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(data, link); err != nil {
		t.Fatal(err)
	}
	yml := filepath.Join(dir, "patroni.yml")
	text := "scope: lab\nname: pg1\nrestapi:\n  connect_address: " + strings.TrimPrefix(api.URL, "http://") + "\netcd3:\n  host: 127.0.0.1:1\npostgresql:\n  data_dir: " + data + "\n"
	if err := os.WriteFile(yml, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n := &node{Config: config.Default(), log: slog.New(slog.DiscardHandler), opened: &opened{}}
	n.Patroni = yml
	t.Chdir(dir)
	for name, refused := range map[string]bool{
		data: true, data + "/": true, link: true, "data": true,
		filepath.Join(dir, "other"): false, filepath.Join(dir, "none"): false,
	} {
		if err := n.patroniAway(t.Context(), name); (err != nil) != refused {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The plan of a leader's own directory would be to follow itself.
func TestTheLeaderIsNotCaughtUp(t *testing.T) {
	dir := t.TempDir()
	store := mem.New()
	for key, value := range map[string]string{"service/lab/leader": "pg1", "service/lab/initialize": "7711327895676495429"} {
		if _, _, err := store.Create(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	for name, leads := range map[string]bool{"pg1": true, "pg2": false} {
		yml := filepath.Join(dir, name+".yml")
		text := "scope: lab\nname: " + name + "\netcd3:\n  host: 127.0.0.1:1\npostgresql:\n  data_dir: " + dir + "\n"
		if err := os.WriteFile(yml, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		n := &node{Config: config.Default(), log: slog.New(slog.DiscardHandler), opened: &opened{dcsStore: store}}
		n.Patroni = yml
		if err := n.notLeader(t.Context(), dir); (err != nil) != leads || leads && finding.Hint(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
		if err := n.notLeader(t.Context(), t.TempDir()); err != nil {
			t.Errorf("another directory on %s: %v", name, err)
		}
	}
}
