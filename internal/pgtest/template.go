package pgtest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/servertest"
)

// newDataDir makes a data directory as initdb does, by copying a template and
// giving the copy a system identifier of its own.
func newDataDir(t testing.TB, o Options, dir string) {
	t.Helper()
	template := initdbTemplate(t, o)
	if out, err := Command(t.Context(), t, "/bin/cp", "-a", "--reflink=auto", template, dir).CombinedOutput(); err != nil {
		t.Fatalf("copy the template %s: %v\n%s", template, err, out)
	}
	var id [8]byte
	rand.Read(id[:])
	setSystemID(t, o.Major, dir, pg.SystemID(binary.LittleEndian.Uint64(id[:])>>1|1))
}

// initdbTemplate gives a fresh data directory to copy from, made once for each
// build of PostgreSQL and set of options. Several processes may make it at once;
// the first to finish wins.
func initdbTemplate(t testing.TB, o Options) string {
	t.Helper()
	initdb := filepath.Join(BinDir(t, o.Major), "initdb")
	// 18 verifies checksums unless told not to, older ones only when told to.
	args := []string{"-N", "-A", "trust", "-U", "postgres", "--no-locale", "-E", "UTF8", fmt.Sprintf("--wal-segsize=%d", o.WALSegSize)}
	switch {
	case o.Checksums:
		args = append(args, "-k")
	case o.Major >= 18:
		args = append(args, "--no-data-checksums")
	}
	build, err := os.Stat(initdb)
	if err != nil {
		t.Fatal(err)
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s %d %d %q", initdb, build.Size(), build.ModTime().UnixNano(), args))
	parent := filepath.Join(servertest.CacheDir(), "initdb")
	path := filepath.Join(parent, fmt.Sprintf("%d-%x", o.Major, key[:6]))
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(Dir(t), "template")
	if out, err := Command(t.Context(), t, initdb, append(args, "-D", made)...).CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	near, err := os.MkdirTemp(parent, "new")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(near)
	Own(t, near)
	if out, err := Command(t.Context(), t, "/bin/cp", "-a", made, near).CombinedOutput(); err != nil {
		t.Fatalf("store the template: %v\n%s", err, out)
	}
	if err := os.Rename(filepath.Join(near, "template"), path); err != nil {
		if _, gone := os.Stat(path); gone != nil {
			t.Fatal(err)
		}
	}
	return path
}

// setSystemID changes the identifier of a cluster that initdb has just made: in
// pg_control and in the long header at the start of each WAL segment
// (XLogLongPageHeaderData: xlp_sysid at offset 24), which are all its places.
// pg.EditControl refuses this, rightly.
func setSystemID(t testing.TB, major int, dir string, id pg.SystemID) {
	t.Helper()
	control := filepath.Join(dir, "global", "pg_control")
	raw, err := os.ReadFile(control)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint64(raw, uint64(id))
	crc := 288 // offsetof(ControlFileData, crc)
	if major >= 18 {
		crc = 292
	}
	binary.LittleEndian.PutUint32(raw[crc:], crc32.Checksum(raw[:crc], crc32.MakeTable(crc32.Castagnoli)))
	if err := os.WriteFile(control, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "pg_wal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !pg.IsSegmentName(e.Name()) {
			continue
		}
		err := overwrite(filepath.Join(dir, "pg_wal", e.Name()), 24, binary.LittleEndian.AppendUint64(nil, uint64(id)))
		if err != nil {
			t.Fatal(err)
		}
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// overwrite replaces bytes inside an existing file.
func overwrite(path string, at int64, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, at)
	return firstError(err, f.Close())
}
