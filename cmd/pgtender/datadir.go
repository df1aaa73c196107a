package main

import (
	"os"
	"path/filepath"
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

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
