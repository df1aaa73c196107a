package catchup

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

func TestAPageThatIsKeptSaysThatItIsOld(t *testing.T) {
	const lower = pg.LSN(0x1_20000028)
	for name, test := range map[string]struct {
		lsn     pg.LSN
		changed bool
	}{
		"changed by the last record before the bound": {lower, false},
		"changed by the first record from there on":   {lower + 1, true},
		"long ago":                         {0x5000, false},
		"initialised and never logged":     {0, false},
		"filled by an index build":         {1, false},
		"past the next four gigabytes":     {lower + 1<<32, true},
		"before the last four gigabytes":   {lower - 1<<32 + 100, false},
		"by the last record there ever is": {pg.MaxLSN, true},
	} {
		page := make(pg.Page, 8192)
		binary.LittleEndian.PutUint32(page, uint32(test.lsn>>32))
		binary.LittleEndian.PutUint32(page[4:], uint32(test.lsn))
		page[12] = 24 // not a new page
		if got := changedSince(page, lower); got != test.changed {
			t.Errorf("%s: changed %t", name, got)
		}
	}
	if changedSince(make(pg.Page, 8192), lower) {
		t.Error("a page of zeros counts as changed")
	}
}

func TestWhatIsTheServersIsKnownByName(t *testing.T) {
	for path, server := range map[string]bool{
		"base/5/1259": true, "pg_wal/000000010000000000000001": true, "pg_stat_tmp/global.stat": true, "PG_VERSION": true, "backup_label": true, "global/pg_control": true,
		"pg_log/postgresql.log": false, "log/postgresql.log": false, "pg_hba.conf": false, "pg_hba.conf.backup": false, "pg_upgrade_output.d/x": false,
		"postgresql.auto.conf": false, "pg_xact.old/0000": false, "autoprewarm.blocks": false, "pg_my_extension/state": false,
	} {
		if got := !operators(path); got != server {
			t.Errorf("%s: the server's %t", path, got)
		}
	}
}

func TestPlacesThatAreLeftAreEmptied(t *testing.T) {
	top := t.TempDir()
	place := func(name string, oid uint32) Place {
		path := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Join(path, "archive_status"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "000000010000000000000001"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return Place{OID: oid, Location: path, Path: path}
	}
	oldWAL, newWAL, space, gone := place("wal1", 0), place("wal2", 0), place("space", 7), place("gone", 8)
	r := &runner{plan: &Plan{Places: []Place{newWAL, space}}}
	if err := r.leavePlaces([]Place{oldWAL, space, gone}); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, name := range []string{"wal1", "wal2", "space", "gone"} {
		entries, err := os.ReadDir(filepath.Join(top, name))
		if got[name] = len(entries); errors.Is(err, os.ErrNotExist) {
			got[name] = -1
		}
	}
	if diff := cmp.Diff(map[string]int{"wal1": 0, "wal2": 2, "space": 2, "gone": -1}, got); diff != "" {
		t.Error(diff)
	}
}

func TestPagesAreReadInRuns(t *testing.T) {
	var pages []hashedPage
	for _, n := range []uint32{0, 1, 2, 18, 35, 36, 162, 163, 164, 1000} {
		pages = append(pages, hashedPage{number: n})
	}
	var got [][2]uint32
	for run := range runs(pages) {
		got = append(got, [2]uint32{run[0].number, run[len(run)-1].number})
	}
	if diff := cmp.Diff([][2]uint32{{0, 18}, {35, 36}, {162, 164}, {1000, 1000}}, got); diff != "" {
		t.Error(diff)
	}
	for n := range uint32(300) {
		pages = append(pages, hashedPage{number: 1001 + n})
	}
	for run := range runs(pages) {
		if n := run[len(run)-1].number - run[0].number + 1; n > runPages {
			t.Errorf("a run of %d pages", n)
		}
	}
}

// badSector fails reads that touch one page.
type badSector struct {
	*bytes.Reader
	page int64
}

func (b badSector) ReadAt(p []byte, off int64) (int, error) {
	if off/512 <= b.page && b.page < (off+int64(len(p))+511)/512 {
		return 0, io.ErrUnexpectedEOF
	}
	return b.Reader.ReadAt(p, off)
}

func TestPagesThatAreEqualAreFound(t *testing.T) {
	h := &hashes{runner: &runner{log: slog.New(slog.DiscardHandler)}, delta: &delta{blockSize: 512}}
	content := make([]byte, 20*512+100) // the file is cut off in page 20
	for i := range content {
		content[i] = byte(i / 512)
	}
	e := &repo.Entry{Path: "base/1/1", Size: 22*512 + 17}
	var run []hashedPage
	for n := range uint32(23) {
		run = append(run, hashedPage{number: n, hash: repo.PageHash(bytes.Repeat([]byte{byte(n)}, 512))})
	}
	run[4].hash++
	compare := func(f io.ReaderAt) (differing []uint32) {
		t.Helper()
		for i := range run {
			run[i].equal = false
		}
		if err := h.compare(context.Background(), f, e, run); err != nil {
			t.Fatal(err)
		}
		for _, p := range run {
			if !p.equal {
				differing = append(differing, p.number)
			}
		}
		return differing
	}
	if got := compare(bytes.NewReader(content)); !slices.Equal(got, []uint32{4, 20, 21, 22}) {
		t.Errorf("differing: %d", got)
	}
	if got := compare(badSector{bytes.NewReader(content), 9}); !slices.Equal(got, []uint32{4, 9, 20, 21, 22}) {
		t.Errorf("with a bad sector: %d", got)
	}
}
