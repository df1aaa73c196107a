package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/internal/pg/server"
)

// AMCheck verifies every table and B-tree index of every database: structure,
// and that each row of a table is in its indexes. It uses pg_amcheck, and SQL
// on version 13, which pg_amcheck does not know. On a standby the extension
// amcheck must be there already: see EnableAMCheck.
func (c *Cluster) AMCheck(t testing.TB) {
	t.Helper()
	if !c.InRecovery(t) {
		c.EnableAMCheck(t)
	}
	for _, db := range c.databases(t) {
		if got := c.QueryIn(t, db, `SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'`); got[0][0] != "1" {
			t.Fatalf("database %s has no amcheck extension: call EnableAMCheck on the primary", db)
		}
		if c.Major < 14 {
			c.checkIndexes(t, db)
		}
	}
	if c.Major >= 14 {
		c.tool(t, "pg_amcheck", "--all", "--heapallindexed")
	}
}

// EnableAMCheck creates the extension amcheck in every database and in the
// template of those to come.
func (c *Cluster) EnableAMCheck(t testing.TB) {
	t.Helper()
	for _, db := range c.databases(t) {
		c.ExecIn(t, db, `CREATE EXTENSION IF NOT EXISTS amcheck WITH SCHEMA public`)
	}
}

// InRecovery reports whether the server is a standby or recovers.
func (c *Cluster) InRecovery(t testing.TB) bool {
	t.Helper()
	return c.Value(t, `SELECT pg_is_in_recovery()`) == "t"
}

func (c *Cluster) databases(t testing.TB) []string {
	t.Helper()
	var names []string
	for _, row := range c.Query(t, `SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1`) {
		names = append(names, row[0])
	}
	return names
}

// checkIndexes reads each table whole as well. Unlogged and temporary
// relations are left out, as pg_amcheck does on a standby.
func (c *Cluster) checkIndexes(t testing.TB, db string) {
	t.Helper()
	c.QueryIn(t, db, `
SELECT count(public.bt_index_check(i.indexrelid, true))
  FROM pg_index i JOIN pg_class r ON r.oid = i.indexrelid JOIN pg_am a ON a.oid = r.relam
 WHERE a.amname = 'btree' AND r.relkind = 'i' AND r.relpersistence = 'p' AND i.indisvalid AND i.indisready`)
}

// Checksums verifies the page checksums of the whole cluster, which must have
// them. Of a stopped server pg_checksums reads every page; of a running one,
// BASE_BACKUP does, which leaves out pages changed since its checkpoint (on a
// standby: since the last restartpoint).
func (c *Cluster) Checksums(t testing.TB) {
	t.Helper()
	if !c.Running() {
		c.offlineChecksums(t)
		return
	}
	if c.Value(t, `SHOW data_checksums`) != "on" {
		t.Fatal("the cluster has no page checksums to verify")
	}
	conn := c.ConnectReplication(t)
	defer conn.Close()
	b, err := conn.BaseBackup(t.Context(), server.BaseBackupOptions{Label: "pgtest checksums", Fast: true, NoWait: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Finish(t.Context()); err != nil {
		t.Fatalf("verify checksums: %v\n%s", err, strings.Join(b.Notices(), "\n"))
	}
}

// offlineChecksums verifies them while the server is stopped.
func (c *Cluster) offlineChecksums(t testing.TB) {
	t.Helper()
	c.pgChecksums(t, "--check")
}

// CanSetChecksums reports whether SetChecksums can do it: the version's own
// pg_checksums is installed. Another one does not find its tablespaces.
func (c *Cluster) CanSetChecksums() bool {
	_, ok := ownTool(c.Major, "pg_checksums")
	return ok
}

// SetChecksums turns the page checksums of a stopped server on or off.
func (c *Cluster) SetChecksums(t testing.TB, on bool) {
	t.Helper()
	if on {
		c.pgChecksums(t, "--enable")
	} else {
		c.pgChecksums(t, "--disable")
	}
}

func (c *Cluster) pgChecksums(t testing.TB, action string) {
	t.Helper()
	tool, ok := c.checksumTool()
	if !ok {
		t.Fatalf("no pg_checksums for PostgreSQL %d is installed", c.Major)
	}
	if out, err := Command(t.Context(), t, tool, action, "--no-sync", "-D", c.DataDir).CombinedOutput(); err != nil {
		t.Fatalf("pg_checksums %s: %v\n%s", action, err, out)
	}
}

// checksumTool finds pg_checksums, which works on clusters with the pg_control
// version it was made for: 13 to 16 share one.
func (c *Cluster) checksumTool() (path string, ok bool) {
	path, ok = ownTool(c.Major, "pg_checksums")
	for m := 13; !ok && c.Major <= 16 && m <= 16; m++ {
		path, ok = ownTool(m, "pg_checksums")
	}
	return path, ok
}

// CorruptPage overwrites 16 bytes in the middle of a page of a stopped
// server's relation file, named relative to the data directory.
func (c *Cluster) CorruptPage(t testing.TB, file string, block int64) {
	t.Helper()
	if c.Running() {
		t.Fatal("stop the server first: it may hold the page in memory")
	}
	const pageSize = 8192
	if err := overwrite(filepath.Join(c.DataDir, file), block*pageSize+pageSize/2, bytes.Repeat([]byte{0xA5}, 16)); err != nil {
		t.Fatal(err)
	}
}

// Waldump runs the version's own pg_waldump on the cluster's pg_wal and gives
// its output. That WAL ends is no error. Only versions with all client programs
// have one: see HasWaldump.
func (c *Cluster) Waldump(t testing.TB, args ...string) string {
	t.Helper()
	tool, ok := ownTool(c.Major, "pg_waldump")
	if !ok {
		t.Fatalf("no pg_waldump of PostgreSQL %d is installed", c.Major)
	}
	args = append([]string{"-p", filepath.Join(c.DataDir, "pg_wal")}, args...)
	out, errs, err := output(c.client(t.Context(), t, tool, args...))
	if err != nil && !strings.Contains(errs, "error in WAL record at") {
		t.Fatalf("pg_waldump: %v\n%s", err, errs)
	}
	return out
}

// HasWaldump reports whether the version's pg_waldump is installed.
func (c *Cluster) HasWaldump() bool {
	_, ok := ownTool(c.Major, "pg_waldump")
	return ok
}

// tool runs a client program against the server and gives its output.
func (c *Cluster) tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	return c.run(t, Tool(t, c.Major, name), args...)
}

func (c *Cluster) run(t testing.TB, path string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	defer cancel()
	out, errs, err := output(c.client(ctx, t, path, args...))
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%s", filepath.Base(path), err, tail(out, 50), tail(errs, 50))
	}
	return out
}

func output(cmd *exec.Cmd) (out, errs string, err error) {
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// client prepares a program that finds the server through its environment.
func (c *Cluster) client(ctx context.Context, t testing.TB, path string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := Command(ctx, t, path, args...)
	cmd.Env = append(cmd.Env, "PGHOST="+c.Host, fmt.Sprintf("PGPORT=%d", c.Port), "PGUSER=postgres", "PGDATABASE=postgres")
	return cmd
}
