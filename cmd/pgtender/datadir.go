package main

import (
	"os"
	"path/filepath"

	"github.com/pgtender/pgtender/internal/pg"
)

// dataDirOf finds the data directory that a file of pg_wal belongs to, from the
// path as PostgreSQL, pg_rewind or Patroni give it: relative to the data
// directory they run in, or absolute. It gives "" if there is none, and knows
// nothing of the configuration: a restored copy is not the member that Patroni
// runs on the same machine.
func dataDirOf(walPath string) string {
	candidates := []string{"."}
	if walPath != "" {
		// By name, not by what a symbolic link leads to: pg_wal may lie anywhere.
		if abs, err := filepath.Abs(walPath); err == nil {
			candidates = []string{filepath.Dir(filepath.Dir(abs)), "."}
		}
	}
	for _, dir := range candidates {
		if exists(filepath.Join(dir, "PG_VERSION")) && exists(filepath.Join(dir, "global", "pg_control")) {
			if abs, err := filepath.Abs(dir); err == nil {
				return abs
			}
		}
	}
	return ""
}

// standbyMode reports whether recovery in dataDir runs as a standby, which
// streams where the archive does not answer. standby.signal wins over
// recovery.signal (readRecoverySignalFile in PostgreSQL's xlogrecovery.c).
func standbyMode(dataDir string) bool {
	return dataDir != "" && exists(filepath.Join(dataDir, "standby.signal"))
}

// ownHistory reports whether a server that ends its recovery asks for the
// history that it followed itself, to write the next timeline's from it. That
// request comes after standby.signal and recovery.signal were removed (StartupXLOG
// in PostgreSQL's xlog.c, writeTimeLineHistory in timeline.c), so that a status
// above 125 would not stop recovery but undo a promotion. Told that the archive
// has none the server takes the file in pg_wal, which is the one it followed.
// Timeline 1 has no history, and is asked for all the same. A history that is not
// in pg_wal is not its own in this sense: the server would go on as if there were
// none.
func ownHistory(name, dest string) bool {
	dir := dataDirOf(dest)
	if dir == "" || filepath.Base(dest) != "RECOVERYHISTORY" {
		return false
	}
	tli, err := pg.ParseHistoryName(name)
	switch {
	case err != nil:
		return false
	case tli == 1:
		return true
	case standbyMode(dir) || exists(filepath.Join(dir, "recovery.signal")):
		return false
	}
	return exists(filepath.Join(dir, "pg_wal", name))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
