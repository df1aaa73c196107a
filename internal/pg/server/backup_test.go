package server_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// backup copies a running server's files between start and stop, as a backup
// does, and proves that a server recovers from what it got.
func (e env) backup(t *testing.T, c *pgtest.Cluster) {
	conn := c.Connect(t)
	before, err := conn.LastCheckpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, b, err := conn.StartBackup(t.Context(), server.BackupOptions{Label: "it's a backup", Fast: true, KeepAlive: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Abort()
	if b.FromStandby != (c == e.standby) || b.Start.Timeline != 1 || b.Start.LSN < before.Redo.LSN {
		t.Errorf("started at %s, from standby %t, after %s", b.Start, b.FromStandby, before.Redo)
	}
	if err := conn.Ping(ctx); err != nil { // the session serves others meanwhile
		t.Fatal(err)
	}
	dir := filepath.Join(pgtest.Dir(t), "data")
	e.primary.Exec(t, "UPDATE t SET v = 'new' WHERE i % 10 = 0")
	copyTree(t, c.DataDir, dir)
	space := pgtest.Dir(t)
	copyTree(t, c.Value(t, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'other'"), space)
	e.primary.Exec(t, "UPDATE t SET v = 'newer' WHERE i % 10 = 1")
	if c == e.standby {
		c.CatchUp(t, e.primary)
	}
	copyFile(t, filepath.Join(c.DataDir, "global/pg_control"), filepath.Join(dir, "global/pg_control"))
	end, err := b.Stop(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if end.End.Timeline != 1 || end.End.LSN < b.Start.LSN {
		t.Errorf("from %s to %s", b.Start, end.End)
	}
	if ctx.Err() == nil {
		t.Error("the context outlives the backup")
	}
	if err := conn.Ping(t.Context()); err != nil {
		t.Errorf("the session does not outlive the backup: %v", err)
	}
	if _, err := b.Stop(t.Context()); err == nil {
		t.Error("a backup was stopped twice")
	}
	restored := recoverFrom(t, c, dir, space, end)
	if diff := cmp.Diff(e.primary.Dump(t), restored.Dump(t)); diff != "" {
		t.Errorf("the recovered copy differs (-primary +copy):\n%s", diff)
	}
	restored.Checksums(t)
}

// recoverFrom makes a copy what a restored backup looks like and starts it.
func recoverFrom(t *testing.T, c *pgtest.Cluster, dir, space string, end server.BackupEnd) *pgtest.Cluster {
	t.Helper()
	spaces, err := pg.ParseTablespaceMap(end.TablespaceMap)
	if err != nil || len(spaces) != 1 {
		t.Fatalf("tablespaces %v, %v", spaces, err)
	}
	pgtest.Own(t, space)
	spaces[0].Location = space
	copyTree(t, filepath.Join(c.DataDir, "pg_wal"), filepath.Join(dir, "pg_wal"))
	for name, content := range map[string][]byte{"backup_label": end.Label, "tablespace_map": pg.EncodeTablespaceMap(spaces)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"postmaster.pid", "standby.signal"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	restored := pgtest.Adopt(t, dir, pgtest.Options{Major: c.Major})
	restored.Start(t)
	return restored
}

// copyTree copies directories and files, but no links: those are tablespaces.
// Files may vanish meanwhile.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		case d.Type().IsRegular():
			copyFile(t, path, filepath.Join(to, rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = os.WriteFile(to, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
