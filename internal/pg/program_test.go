package pg_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/internal/pg"
)

func TestProgramMajorReadsWhatProgramsSay(t *testing.T) {
	for _, c := range []struct {
		says string
		want int // 0: an error
	}{
		{"postgres (PostgreSQL) 17.2 (Debian 17.2-1.pgdg120+1)", 17},
		{"psql (PostgreSQL) 13.23", 13},
		{"postgres (PostgreSQL) 18beta1", 18},
		{"postgres (PostgreSQL) 19devel", 19},
		{"psql (pgBouncer) 15.1", 0},
		{"", 0},
	} {
		program := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(program, []byte("#!/bin/sh\necho '"+c.says+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if got, err := pg.ProgramMajor(t.Context(), program); got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%q: got %d, %v, want %d", c.says, got, err, c.want)
		}
	}
	if _, err := pg.ProgramMajor(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a program that is not there has a version")
	}
}
