package pg_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg"
)

var layout15 = pg.Layout{Major: 15, VersionDir: pg.TablespaceVersionDir(15, 202209061)}

func TestClassify(t *testing.T) {
	rel := func(space, db, number uint32, fork pg.ForkNumber, segment uint32) pg.Class {
		return pg.Class{Kind: pg.KindRelation, Rel: pg.RelFile{Relation: pg.Relation{Tablespace: space, Database: db, Number: number}, Fork: fork, Segment: segment}}
	}
	kind := func(k pg.Kind) pg.Class { return pg.Class{Kind: k} }
	for path, want := range map[string]pg.Class{
		"base/5/16384":                   rel(1663, 5, 16384, pg.MainFork, 0),
		"base/5/16384.12":                rel(1663, 5, 16384, pg.MainFork, 12),
		"base/5/16384_vm":                rel(1663, 5, 16384, pg.VMFork, 0),
		"base/5/16384_fsm.1":             rel(1663, 5, 16384, pg.FSMFork, 1),
		"base/5/16384_init":              rel(1663, 5, 16384, pg.InitFork, 0),
		"base/5/4294967295":              rel(1663, 5, 4294967295, pg.MainFork, 0),
		"global/1262":                    rel(1664, 0, 1262, pg.MainFork, 0),
		"global/1262_vm":                 rel(1664, 0, 1262, pg.VMFork, 0),
		"global/pg_control":              kind(pg.KindControl),
		"global/pg_filenode.map":         kind(pg.KindOther),
		"global/pg_internal.init":        kind(pg.KindExcluded),
		"base/5/pg_internal.init":        kind(pg.KindExcluded),
		"base/5/pg_internal.init.77":     kind(pg.KindExcluded),
		"base/5/4294967296":              kind(pg.KindOther),
		"base/5/016384":                  kind(pg.KindOther),
		"base/5/0":                       kind(pg.KindOther),
		"base/5/16384.0":                 kind(pg.KindOther),
		"base/5/16384.01":                kind(pg.KindOther),
		"base/5/16384.":                  kind(pg.KindOther),
		"base/5/16384_main":              kind(pg.KindOther),
		"base/5/16384_vm_fsm":            kind(pg.KindOther),
		"base/5/16384.1_vm":              kind(pg.KindOther),
		"base/5/16384.bak":               kind(pg.KindOther),
		"base/5/PG_VERSION":              kind(pg.KindOther),
		"base/x/16384":                   kind(pg.KindOther),
		"base/16384":                     kind(pg.KindOther),
		"base/5/x/16384":                 kind(pg.KindOther),
		"base/5/t3_16400":                kind(pg.KindTemp),
		"base/5/t3_16400_vm":             kind(pg.KindTemp),
		"base/5/t3_16400_fsm.2":          kind(pg.KindTemp),
		"base/5/t_16400":                 kind(pg.KindOther),
		"base/5/t3_":                     kind(pg.KindOther),
		"base/5/t3_16400_x":              kind(pg.KindOther),
		"base/5/t3_16400.":               kind(pg.KindOther),
		"base/pgsql_tmp/pgsql_tmp4711.0": kind(pg.KindTemp),
		"pg_tblspc/16400/PG_15_202209061/pgsql_tmp/x":          kind(pg.KindTemp),
		"pg_tblspc/16400/PG_15_202209061/5/16401.1":            rel(16400, 5, 16401, pg.MainFork, 1),
		"pg_tblspc/16400/PG_15_202209061/5/t1_2":               kind(pg.KindTemp),
		"pg_tblspc/16400/PG_13_202007201/5/16401":              kind(pg.KindForeign),
		"pg_tblspc/16400/stray":                                kind(pg.KindForeign),
		"pg_tblspc/stray":                                      kind(pg.KindOther),
		"pg_wal/000000010000000000000001":                      kind(pg.KindWAL),
		"pg_wal/archive_status/000000010000000000000001.ready": kind(pg.KindWAL),
		"pg_replslot/s/state":                                  kind(pg.KindExcluded),
		"pg_notify/0000":                                       kind(pg.KindExcluded),
		"pg_subtrans/0000":                                     kind(pg.KindExcluded),
		"sub/pg_stat_tmp/x":                                    kind(pg.KindExcluded), // BASE_BACKUP goes by the last name
		"pg_xact/0000":                                         kind(pg.KindOther),
		"backup_label":                                         kind(pg.KindExcluded),
		".pgtender/state.json":                                 kind(pg.KindExcluded),
		".pgtender/stage/base/5/16384":                         kind(pg.KindExcluded),
		"base/.pgtender":                                       kind(pg.KindOther),
		"backup_label.old":                                     kind(pg.KindOther),
		"tablespace_map":                                       kind(pg.KindExcluded),
		"backup_manifest":                                      kind(pg.KindExcluded),
		"postmaster.pid":                                       kind(pg.KindExcluded),
		"postmaster.opts":                                      kind(pg.KindExcluded),
		"current_logfiles":                                     kind(pg.KindOther),
		"current_logfiles.tmp":                                 kind(pg.KindExcluded),
		"postgresql.auto.conf.tmp":                             kind(pg.KindExcluded),
		"postgresql.auto.conf":                                 kind(pg.KindConfig),
		"pg_hba.conf":                                          kind(pg.KindConfig),
		"sub/pg_hba.conf":                                      kind(pg.KindOther),
		"standby.signal":                                       kind(pg.KindSignal),
		"PG_VERSION":                                           kind(pg.KindOther),
		"":                                                     kind(pg.KindUnrecognized),
		"/base/5/1":                                            kind(pg.KindUnrecognized),
		"base//1":                                              kind(pg.KindUnrecognized),
		"base/../1":                                            kind(pg.KindUnrecognized),
		"base/5/":                                              kind(pg.KindUnrecognized),
	} {
		got := layout15.Classify(path, false)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
		if got.Kind == pg.KindRelation && got.Rel.Path(layout15.VersionDir) != path {
			t.Errorf("%s: its path comes back as %s", path, got.Rel.Path(layout15.VersionDir))
		}
	}
}

func TestClassifyDirectories(t *testing.T) {
	layout17 := pg.Layout{Major: 17, VersionDir: "PG_17_202406281"}
	for _, tt := range []struct {
		layout pg.Layout
		path   string
		want   pg.Kind
	}{
		{layout15, ".", pg.KindDir},
		{layout15, "base/5", pg.KindDir},
		{layout15, "pg_wal", pg.KindDir},
		{layout15, "pg_wal/archive_status", pg.KindDir},
		{layout15, "pg_wal/summaries", pg.KindWAL},
		{layout17, "pg_wal/summaries", pg.KindDir},
		{layout17, "pg_wal/summaries/x", pg.KindWAL},
		{layout15, "pg_replslot", pg.KindDir},
		{layout15, "pg_replslot/s", pg.KindExcluded},
		{layout15, "pg_stat_tmp", pg.KindDir},
		{layout15, "base/pgsql_tmp", pg.KindTemp},
		{layout15, "pg_tblspc/16400", pg.KindDir},
		{layout15, "pg_tblspc/16400/PG_15_202209061", pg.KindDir},
		{layout15, "pg_tblspc/16400/PG_17_202406281", pg.KindForeign},
		{layout15, "log", pg.KindDir},
	} {
		if got := tt.layout.Classify(tt.path, true).Kind; got != tt.want {
			t.Errorf("PostgreSQL %d %s: %s, want %s", tt.layout.Major, tt.path, got, tt.want)
		}
	}
}

func TestOnlyInitForksOfUnloggedRelationsAreKept(t *testing.T) {
	var classes []pg.Class
	paths := []string{
		"base/5/100", "base/5/100.1", "base/5/100_fsm", "base/5/100_init", // unlogged
		"base/5/200", "base/5/200_vm", // not
		"base/6/100", // another database's
		"base/5/PG_VERSION",
	}
	for _, p := range paths {
		classes = append(classes, layout15.Classify(p, false))
	}
	var dropped []string
	for i, c := range pg.DropUnlogged(classes) {
		if !c.Copied() {
			dropped = append(dropped, paths[i])
		}
	}
	if diff := cmp.Diff([]string{"base/5/100", "base/5/100.1", "base/5/100_fsm"}, dropped); diff != "" {
		t.Error(diff)
	}
}

// tree makes a data directory: names ending in a slash are directories, "a -> b"
// a link.
func tree(t *testing.T, root string, names ...string) {
	t.Helper()
	for _, n := range names {
		var err error
		if link, to, isLink := strings.Cut(n, " -> "); isLink {
			err = os.Symlink(to, filepath.Join(root, link))
		} else if strings.HasSuffix(n, "/") {
			err = os.MkdirAll(filepath.Join(root, n), 0o700)
		} else {
			err = os.WriteFile(filepath.Join(root, n), []byte("x"), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestWalkOverADataDirectory(t *testing.T) {
	root, space, wal := t.TempDir(), t.TempDir(), t.TempDir()
	tree(t, space, "PG_15_202209061/5/", "PG_15_202209061/5/300", "PG_13_202007201/")
	tree(t, wal, "000000010000000000000001")
	tree(t, root, "base/5/", "base/5/100", "base/5/100_init", "base/5/t1_7", "global/", "global/pg_control", "log/",
		"pg_replslot/s/", "pg_stat_tmp -> /nowhere", "pg_tblspc/", "pg_tblspc/16400 -> "+space, "pg_tblspc/note -> "+space,
		"pg_wal -> "+wal, "postmaster.pid", "postgresql.conf", "cert -> /etc/ssl")
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := pg.OpenDataDir(root, layout15)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]pg.Tablespace{{16400, space}}, d.Tablespaces); diff != "" || d.WALLocation != wal {
		t.Errorf("%s; pg_wal at %s", diff, d.WALLocation)
	}
	var got []string
	for e, err := range d.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		line := e.Path + ": " + e.Kind.String()
		if e.Link != "" {
			line += " link"
		}
		if (e.Kind == pg.KindDir) != e.Mode.IsDir() {
			line += ", mode " + e.Mode.String()
		}
		got = append(got, line)
	}
	want := []string{
		".: directory", "base: directory", "base/5: directory", "base/5/100: unlogged", "base/5/100_init: relation",
		"base/5/t1_7: temporary", "cert: symbolic link link", "fifo: special file", "global: directory", "global/pg_control: pg_control", "log: directory",
		"pg_replslot: directory", "pg_stat_tmp: directory link",
		"pg_tblspc: directory", "pg_tblspc/16400: directory link", "pg_tblspc/16400/PG_13_202007201: other version's, mode drwx------",
		"pg_tblspc/16400/PG_15_202209061: directory", "pg_tblspc/16400/PG_15_202209061/5: directory", "pg_tblspc/16400/PG_15_202209061/5/300: relation",
		"pg_tblspc/note: symbolic link link",
		"pg_wal: directory link", "pg_wal/archive_status: directory", "postgresql.conf: configuration", "postmaster.pid: excluded",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWalkPassesOverWhatVanishes(t *testing.T) {
	root := t.TempDir()
	tree(t, root, "base/5/", "base/5/100", "base/6/", "base/6/100", "pg_tblspc/", "pg_wal/", "zz")
	d, err := pg.OpenDataDir(root, layout15)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for e, err := range d.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Path == "base/5" { // listed together with base/6
			if err := errors.Join(os.RemoveAll(filepath.Join(root, "base/6")), os.Remove(filepath.Join(root, "base/5/100"))); err != nil {
				t.Fatal(err)
			}
		}
		got = append(got, e.Path)
	}
	want := []string{".", "base", "base/5", "base/6", "pg_tblspc", "pg_wal", "pg_wal/archive_status", "zz"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWalkEndsWithItsContextAndWithItsRoot(t *testing.T) {
	root := t.TempDir()
	tree(t, root, "base/", "pg_tblspc/", "pg_wal/")
	d, err := pg.OpenDataDir(root, layout15)
	if err != nil {
		t.Fatal(err)
	}
	last := func(ctx context.Context) error {
		var last error
		for _, err := range d.Entries(ctx) {
			last = err
		}
		return last
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := last(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	if err := last(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without its root: %v", err)
	}
}

func TestTablespacesInOddPlaces(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "data")
	tree(t, root, "/")
	tree(t, root, "base/", "pg_tblspc/", "pg_wal/")
	tree(t, dir, "a/", "a/PG_15_202209061/inner/", "alias -> "+root)
	for _, tt := range []struct {
		name  string
		links []string
		want  string // "": accepted
	}{
		{"inside the data directory", []string{"1 -> " + root + "/base"}, "inside the other"},
		{"inside the data directory by another name", []string{"1 -> " + dir + "/alias/base"}, "inside the other"},
		{"one inside another", []string{"1 -> " + dir + "/a", "2 -> " + dir + "/a/PG_15_202209061/inner"}, "inside the other"},
		{"the same place twice", []string{"1 -> " + dir + "/a", "2 -> " + dir + "/a"}, "inside the other"},
		{"nowhere", []string{"1 -> " + dir + "/gone"}, "cannot be reached"},
		{"beside the data directory, in the directory around it", []string{"1 -> " + dir}, ""},
		{"a relative link", []string{"1 -> ../../a"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, l := range tt.links {
				tree(t, filepath.Join(root, "pg_tblspc"), l)
			}
			defer func() {
				for _, l := range tt.links {
					if err := os.Remove(filepath.Join(root, "pg_tblspc", l[:1])); err != nil {
						t.Error(err)
					}
				}
			}()
			_, err := pg.OpenDataDir(root, layout15)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzClassify(f *testing.F) {
	for _, p := range []string{"base/5/16384_vm.1", "base/5/t3_16400", "pg_tblspc/16400/PG_15_202209061/5/1", "pg_wal/x", "global/1262", ".", "a/../b"} {
		f.Add(p, false)
		f.Add(p, true)
	}
	f.Fuzz(func(t *testing.T, path string, isDir bool) {
		c := layout15.Classify(path, isDir)
		if c.Kind == pg.KindRelation && c.Rel.Path(layout15.VersionDir) != path {
			t.Errorf("%q comes back as %q", path, c.Rel.Path(layout15.VersionDir))
		}
		if c.Copied() && !filepath.IsLocal(path) {
			t.Errorf("%q leads out of the data directory", path)
		}
		if isDir && c.Copied() && c.Kind != pg.KindDir {
			t.Errorf("the directory %q is a %s", path, c.Kind)
		}
	})
}
