package catchup

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/backup/repo/repotest"
)

// TestARunKilledBeforeItMarkedItsPlacesMarksThem: otherwise the run after that
// would take the place for somebody else's.
func TestARunKilledBeforeItMarkedItsPlacesMarksThem(t *testing.T) {
	r, _ := repotest.New(t)
	base := t.TempDir()
	dir, place := filepath.Join(base, "data"), Place{OID: 5, Location: filepath.Join(base, "space"), Path: filepath.Join(base, "space", "PG_17")}
	l, err := acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	b := repotest.Backup(repotest.ID(1))
	s := state{Version: stateVersion, ID: "x", Phase: phaseStaging, Purpose: Restore, SystemID: b.SystemID, Backup: b.ID, Places: []Place{place}}
	if err := s.write(dir); err != nil {
		t.Fatal(err)
	}
	run := &runner{
		plan: &Plan{Purpose: Restore, Backup: b, Dir: DirFacts{Path: dir, State: DirUnfinished}, Places: []Place{place}},
		opts: RunOptions{Repo: r}, lock: l, log: slog.New(slog.DiscardHandler), meter: newMeter(nil),
	}
	commit, err := run.prepare(t.Context())
	if err != nil || commit {
		t.Fatalf("commit %t, %v", commit, err)
	}
	if err := os.WriteFile(filepath.Join(place.Path, "5"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := inspectPlace(place.Path, DirFacts{Path: dir})
	if err != nil || found.State != DirUnfinished || run.state.ID != "x" {
		t.Errorf("the place is %s, the run %s, %v", found.State, run.state.ID, err)
	}
}

func TestALockEndsWithItsFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	l, err := acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.held(); err != nil {
		t.Error(err)
	}
	// Patroni removes the directory, and another run begins.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	other, err := acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.held(); err == nil {
		t.Error("the lock of a removed directory is held still")
	}
	if err := l.release(); err != nil {
		t.Error(err)
	}
	if err := other.held(); err != nil {
		t.Errorf("the other run lost its lock: %v", err)
	}
	if err := other.release(); err != nil {
		t.Error(err)
	}
}
