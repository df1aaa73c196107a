package soak_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/soak"
)

func TestRoundsAreRemembered(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PGTENDER_SOAK_DIR", dir)
	// Rounds noted by an earlier form of the file have no tally.
	if err := os.WriteFile(filepath.Join(dir, "some"), []byte("3\n\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := soak.Open(t, "some")
	r.Note(t, "agent-1", soak.Tally{"failovers": 7, "holes": 0})
	r.Note(t, "agent-2", soak.Tally{"failovers": 5})
	r.Note(t, "always-1", nil)

	again := soak.Open(t, "some")
	for round, want := range map[string]bool{"3": true, "agent-1": true, "agent-2": true, "always-1": true, "agent": false, "4": false} {
		if got := again.Passed(round); got != want {
			t.Errorf("round %s has passed: %v, want %v", round, got, want)
		}
	}
	if diff := cmp.Diff(soak.Tally{"rounds": 2, "failovers": 12, "holes": 0}, again.Total("agent-")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(r.Total(""), again.Total("")); diff != "" {
		t.Error(diff)
	}
	// What another process has noted meanwhile counts from the next one on.
	r.Note(t, "always-2", nil)
	again.Note(t, "always-3", soak.Tally{"failovers": 1})
	if !again.Passed("always-2") || again.Total("always-")["rounds"] != 3 {
		t.Errorf("always: %v", again.Total("always-"))
	}
	content, err := os.ReadFile(filepath.Join(dir, "some"))
	if want := "3\n\nagent-1 failovers=7 holes=0\nagent-2 failovers=5\nalways-1\nalways-2\nalways-3 failovers=1\n"; err != nil || string(content) != want {
		t.Errorf("%q (%v), want %q", content, err, want)
	}
}
