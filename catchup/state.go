package catchup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/durable"
	"github.com/pgtender/pgtender/internal/pg"
)

// phase says how far a run has got, and so what its successor must do.
type phase string

const (
	phaseReplacing  phase = "replacing"  // old data is being removed; the directory cannot start
	phaseStaging    phase = "staging"    // files arrive below the stage
	phaseConverging phase = "converging" // pages arrive in old data; the directory cannot start
	phaseCommitting phase = "committing" // all is staged and synced, and is being moved into place
)

// state is what a run writes down for its successor, in state.json. It is
// there from before the first change to the directory until after the last.
type state struct {
	Version  int           `json:"version"` // stateVersion
	ID       string        `json:"id"`      // of the run that began it; binds the journal and the markers
	Phase    phase         `json:"phase"`
	Purpose  Purpose       `json:"purpose"`
	Target   Target        `json:"target"`
	Scope    string        `json:"cluster"` // for whoever reads the file
	SystemID pg.SystemID   `json:"system_id"`
	Backup   repo.BackupID `json:"backup"`
	Places   []Place       `json:"places,omitempty"`     // that are written to
	Old      []Place       `json:"old_places,omitempty"` // that are emptied while replacing
	// Control is the digest of the pg_control that is put in place last: as
	// long as the directory has it, no server has run there.
	Control repo.Digest `json:"control,omitzero"`

	// Of a run that converges old data. What the run started from is kept, since
	// nothing in the directory tells it any more.
	Rung       RungName    `json:"rung,omitempty"`
	Lower      pg.LSN      `json:"lower,omitzero"`       // changes from here on count
	Redo       pg.LSN      `json:"redo,omitzero"`        // of the old data
	Fork       pg.LSN      `json:"fork,omitzero"`        // where its history left the leader's
	Changes    repo.Digest `json:"changes,omitzero"`     // of the file of this name
	OldControl repo.Digest `json:"old_control,omitzero"` // of the pg_control that is parked

	// Followed says that the old data, converged or replaced, was that of a standby
	// on the leader's history: the segment it was receiving is the leader's.
	Followed bool `json:"followed,omitzero"`
	// OnlyHere are the segments of old data that are marked as archived and are
	// not, see onlyHere.
	OnlyHere []string `json:"only_here,omitempty"`
}

const stateVersion = 1

// errState marks a state file that cannot be understood.
var errState = errors.New("it is no state that this release wrote")

func parseState(b []byte) (state, error) {
	var s state
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return state{}, fmt.Errorf("%w: %w", errState, err)
	}
	switch {
	case s.Version != stateVersion:
		return state{}, fmt.Errorf("%w: version %d, not %d", errState, s.Version, stateVersion)
	case s.Phase != phaseReplacing && s.Phase != phaseStaging && s.Phase != phaseConverging && s.Phase != phaseCommitting:
		return state{}, fmt.Errorf("%w: phase %q", errState, s.Phase)
	case s.Phase == phaseConverging && (!s.Rung.inPlace() || s.Changes.IsZero()):
		return state{}, fmt.Errorf("%w: it does not say what is converged", errState)
	case s.ID == "" || s.SystemID == 0 || s.Backup == 0:
		return state{}, fmt.Errorf("%w: run, cluster or backup is not named", errState)
	}
	for _, p := range append(s.Places[:len(s.Places):len(s.Places)], s.Old...) {
		// These are removed and written to.
		if !filepath.IsAbs(p.Path) || filepath.Clean(p.Path) != p.Path || p.Path == "/" {
			return state{}, fmt.Errorf("%w: %q is no absolute path", errState, p.Path)
		}
	}
	return s, nil
}

// readState reads the state of an interrupted run in dir; the error is an
// fs.ErrNotExist if there is none.
func readState(dir string) (state, error) {
	name := workPath(dir, stateName)
	b, err := os.ReadFile(name)
	if err != nil {
		return state{}, fmt.Errorf("read state of an interrupted run: %w", err)
	}
	s, err := parseState(b)
	if err != nil {
		return state{}, fmt.Errorf("read %s: %w", name, err)
	}
	return s, nil
}

func (s state) write(dir string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	return durable.FS{}.WriteFile(workPath(dir, stateName), append(b, '\n'), 0o600)
}

// marker says whose files a place outside of the data directory holds, while
// they do not make a data directory.
type marker struct {
	Dir      string      `json:"data_directory"`
	SystemID pg.SystemID `json:"system_id"`
}

// mark puts the marker into a place. The target's real path names it, since a
// link to it may be called anything.
func mark(path string, m marker) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode marker: %w", err)
	}
	return durable.FS{}.WriteFile(filepath.Join(path, markerName), append(b, '\n'), 0o600)
}

// readMarker reads the marker of a place; the zero marker if there is none, or
// one that says nothing.
func readMarker(path string) (marker, error) {
	b, err := os.ReadFile(filepath.Join(path, markerName))
	if errors.Is(err, fs.ErrNotExist) {
		return marker{}, nil
	}
	if err != nil {
		return marker{}, err
	}
	return parseMarker(b), nil
}

func parseMarker(b []byte) (m marker) {
	if json.Unmarshal(b, &m) != nil {
		return marker{}
	}
	return m
}
