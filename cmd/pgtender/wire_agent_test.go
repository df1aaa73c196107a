package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/internal/config"
	"github.com/pgtender/pgtender/internal/pg"
)

// TestAnAgentNoticesAnotherCluster: a cluster is made anew in the data directory
// while the agent runs. What the old one archived says nothing about its WAL.
func TestAnAgentNoticesAnotherCluster(t *testing.T) {
	dir := t.TempDir()
	mustMkdir(t, dir, "global")
	n := &node{
		Config: config.Config{Cluster: "demo", DataDir: dir, Repository: "file://" + mustMkdir(t, dir, "repo")},
		log:    slog.New(slog.DiscardHandler), opened: &opened{},
	}
	s := &shared{node: n, dataDir: dir}
	of := map[string]pg.SystemID{}
	for _, file := range []string{"pg_control.16", "pg_control.16", "pg_control.17"} { // of two clusters
		raw, err := os.ReadFile("../../internal/pg/testdata/" + file)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, pg.ControlPath), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		control, err := pg.ParseControl(raw)
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.repository(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if of[file] = r.Cluster().SystemID; of[file] != control.SystemID {
			t.Errorf("the repository's part is of %s, the server is of %s", of[file], control.SystemID)
		}
	}
	if of["pg_control.16"] == of["pg_control.17"] {
		t.Error("both are of one cluster, so that nothing is proved")
	}
}
