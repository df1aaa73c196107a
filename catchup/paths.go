package catchup

import (
	"path/filepath"
	"strings"
)

// workName is where everything of a run lies that is not yet, or never, part
// of the data directory. A directory with nothing but dot-names is an empty
// one to Patroni (data_directory_is_empty, patroni/utils.py), so that a run
// interrupted before its end is simply started again.
const workName = ".pgtender"

// What lies in the work directory.
const (
	lockName     = "lock"
	stateName    = "state.json"
	journalName  = "journal"    // which files are whole
	stageName    = "stage"      // the data directory in the making
	controlName  = "pg_control" // put in place last
	oldName      = "pg_control.old"
	savedName    = "wal"      // unarchived WAL that could be kept nowhere else
	changesName  = "changes"  // what is to be fetched into old data, see changes
	replayedName = "replayed" // how far the data went when WAL alone was left to bring it back
	asideName    = "control"  // in the stage: pg_control as it was fetched, when a directory is converged
)

// workPath gives the path of something in dir's work directory.
func workPath(dir string, name ...string) string {
	return filepath.Join(append([]string{dir, workName}, name...)...)
}

// dataPath gives the path of something in the data directory.
func dataPath(dir, name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }

// markerName is the file in a place that says whose it is; see mark.
const markerName = ".pgtender"

// ignored reports whether a name does not make a directory a used one.
func ignored(name string) bool { return strings.HasPrefix(name, ".") || name == "lost+found" }

// within reports whether name is dir or lies below it; both are clean.
func within(dir, name string) bool {
	rel, err := filepath.Rel(dir, name)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
