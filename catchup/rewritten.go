package catchup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// rewritten says why page checksums may have been off when changes were made past
// the fork, "" if nothing tells that they were.
//
// pg_checksums turns them on in a server that was shut down, without a word in WAL
// and without a new LSN on any page, and writes all pages that had none. So where
// WAL ends with the checkpoint of a shutdown, no file of a relation may have been
// written later. Whoever turns them on and lets the server go on as a primary
// before it comes back is not found out.
func (l *LocalFacts) rewritten(dir string) (string, error) {
	c := &l.control
	if c.CheckpointCopy.Redo != c.Checkpoint || l.End > c.Checkpoint+shutdownRecord {
		return "", nil
	}
	// The time in pg_control is no use: pg_checksums changes that, too, and so does
	// a start as a standby. That of the checkpoint is when it began.
	ended := c.CheckpointCopy.Time.Add(shutdownTime)
	for _, pattern := range []string{"global", "base/*", "pg_tblspc/*/PG_*/*"} {
		dirs, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(pattern)))
		if err != nil {
			return "", fmt.Errorf("look at data directory: %w", err)
		}
		for _, d := range dirs {
			name, at, err := writtenAfter(d, ended)
			if err != nil {
				return "", fmt.Errorf("look at data directory: %w", err)
			}
			if name != "" {
				return fmt.Sprintf("page checksums may have been off: %s was written at %s, after the server was shut down",
					filepath.Join(d, name), at.UTC().Format("2006-01-02 15:04:05Z07:00")), nil
			}
		}
	}
	return "", nil
}

// shutdownRecord is more than the record of a checkpoint takes (CheckPoint,
// catalog/pg_control.h), with a page header in the middle of it, and less than any
// work would.
const shutdownRecord = 256

// shutdownTime is how long a server may write pages after its last checkpoint has
// begun. Where that takes longer, pages are compared without need.
const shutdownTime = time.Minute

// writtenAfter gives a file of a relation's pages that was written after a time, and
// when; "" if there is none.
func writtenAfter(dir string, after time.Time) (name string, at time.Time, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", at, err
	}
	for _, e := range entries {
		// The name of a relation's main fork begins with a digit, that of a
		// temporary one with a letter.
		if first := e.Name()[0]; first < '0' || first > '9' || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", at, err
		}
		if info.ModTime().After(after) {
			return e.Name(), info.ModTime(), nil
		}
	}
	return "", at, nil
}
