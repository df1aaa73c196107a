package catchup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheDirectoriesThatDataLeadsToAreKnownAlsoWhereTheyAreMissing(t *testing.T) {
	const version = "PG_15_202209061"
	base := t.TempDir()
	data := filepath.Join(base, "data")
	for _, name := range []string{"data/pg_tblspc/44444", "whole/" + version, "unmounted", "wal/archive_status", "nowal"} {
		if err := os.MkdirAll(filepath.Join(base, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(data, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(data, name)); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(base, name) }
	space := func(oid uint32, name string) Place {
		return Place{OID: oid, Location: at(name), Path: filepath.Join(at(name), version)}
	}
	link(at("whole"), "pg_tblspc/1")
	link(at("unmounted"), "pg_tblspc/2")
	link(at("nowhere"), "pg_tblspc/3")
	link("../../beside", "pg_tblspc/4")
	for to, there := range map[string]bool{"wal": true, "nowal": false, "nowhere": false} {
		link(at(to), "pg_wal")
		old, missing := []Place{space(1, "whole")}, []Place{space(2, "unmounted"), space(3, "nowhere"), space(4, "beside")}
		if p := (Place{Location: at(to), Path: at(to)}); there {
			old = append(old, p)
		} else {
			missing = append(missing, p)
		}
		gotOld, gotMissing, err := oldPlaces(data, version)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(old, gotOld) + cmp.Diff(missing, gotMissing); diff != "" {
			t.Errorf("pg_wal at %s: %s", to, diff)
		}
	}
}
