package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadsAreOfUsersRelationsAlone(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	others := []string{"base/5/1259", "base/5/PG_VERSION", "base/5/t3_16384", "global/1262", "pg_xact/0000"}
	for _, name := range append([]string{"base/5/16384", "base/5/16384.1", "base/5/16384_vm"}, others...) {
		if err := os.MkdirAll(filepath.Dir(path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path(name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := watchReads(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"base/5/16384.1", "base/5/16384.1"}, others...) {
		if _, err := os.ReadFile(path(name)); err != nil {
			t.Fatal(err)
		}
	}
	// Writing and looking at a file is not reading it.
	if err := os.WriteFile(path("base/5/16384"), []byte("y"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path("base/5/16384_vm")); err != nil {
		t.Fatal(err)
	}
	got, err := r.end()
	if diff := cmp.Diff([]string{"base/5/16384.1"}, got); diff != "" || err != nil || len(r.files) != 3 {
		t.Errorf("of %d files (want 3), error %v (-want +got):\n%s", len(r.files), err, diff)
	}
}

func TestReadsOfNoDataDirectoryIsAnError(t *testing.T) {
	if _, err := watchReads(t.TempDir()); err == nil {
		t.Error("watching an empty folder would count no read, whatever happens")
	}
}
