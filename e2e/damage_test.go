package e2e_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/e2e/lab"
	"github.com/pgtender/pgtender/internal/pgtest"
)

// A bit is flipped in one object of the repository at a time. Whoever needs the
// object is told its name, and nothing of it is handed over.
func TestDamagedObjects(t *testing.T) {
	t.Parallel()
	s := startSite(t, siteOptions{Options: lab.Options{Nodes: 1}})
	primary := server(s, s.Leader())
	primary.PgbenchInit(t, 1)
	taken := s.backup(t)
	primary.Exec(t, "CREATE TABLE later AS SELECT generate_series(1, 1000) AS i")
	want := primary.Dump(t)
	segmentArchived(t, primary)
	objects := repositoryFiles(t, s.repo.dir)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, kind := range []struct {
		part  string // of the objects' paths
		flips int
		try   func(*testing.T, *damaged, string)
	}{
		{"/manifest/", 3, damagedBackup},
		{"/pack/", 8, damagedBackup},
		{"/wal/", 6, damagedSegment},
		{"/owner/", 1, damagedOwner},
	} {
		d := &damaged{site: s, taken: taken, want: want}
		candidates := slices.DeleteFunc(slices.Clone(objects), func(o string) bool {
			return !strings.Contains(o, kind.part) || strings.HasSuffix(o, ".backup")
		})
		if len(candidates) == 0 {
			t.Fatalf("the repository has no objects %s: %v", kind.part, objects)
		}
		for range kind.flips {
			key := candidates[random.IntN(len(candidates))]
			path := filepath.Join(s.repo.dir, key)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			bit := random.IntN(8 * len(content))
			t.Run(fmt.Sprintf("bit %d of %s", bit, key), func(t *testing.T) {
				flip(t, path, bit)
				defer flip(t, path, bit)
				kind.try(t, d, strings.TrimPrefix(key, "/"))
			})
		}
		if d.refused == 0 {
			t.Errorf("no damage to an object %s was noticed", kind.part)
		}
	}
	// With every bit back in place all is as it was.
	dir := filepath.Join(pgtest.Dir(t), "data")
	s.must(t, nil, "-c", s.host(t), "restore", "--target-dir", dir)
	(&damaged{site: s, want: want}).recovers(t, dir)
}

// damaged is a site one of whose objects is damaged.
type damaged struct {
	*site
	taken   infoBackup
	want    string // what the database holds
	refused int    // times that the damage was noticed
}

// repositoryFiles lists a repository's objects, each with a leading slash.
func repositoryFiles(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out = append(out, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// flip flips a bit of a file. Objects may be read-only.
func flip(t *testing.T, path string, bit int) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[bit/8] ^= 1 << (bit % 8)
	info, err := os.Stat(path)
	if err == nil {
		err = os.Chmod(path, 0o644)
	}
	if err == nil {
		err = os.WriteFile(path, content, 0o644)
	}
	if err == nil {
		err = os.Chmod(path, info.Mode())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// damagedBackup restores the damaged backup, and any. Parts of a pack serve
// verification alone: where a restore does not read the flipped bit, it must
// give the right content.
func damagedBackup(t *testing.T, d *damaged, key string) {
	for _, args := range [][]string{{"--backup", d.taken.ID}, nil} {
		dir := filepath.Join(pgtest.Dir(t), "data")
		o := d.run(t, nil, append([]string{"-c", d.host(t), "restore", "--target-dir", dir}, args...)...)
		switch {
		case o.code == 0 && strings.Contains(key, "/pack/"):
			d.recovers(t, dir)
		case o.code != 1 || !strings.Contains(o.stderr, key):
			t.Errorf("want a refusal that names the object: %v", o)
		default:
			d.refused++
			mustNotStart(t, d.site, dir)
		}
	}
}

// recovers starts a restored directory and compares.
func (d *damaged) recovers(t *testing.T, dir string) {
	t.Helper()
	c := d.adopt(t, dir)
	c.Start(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()::text", "false")
	if got := c.Dump(t); got != d.want {
		t.Errorf("the restored content differs:\n%s", firstDifference(d.want, got))
	}
	c.Stop(t, pgtest.Immediate)
}

// damagedSegment fetches the segment, as recovery would.
func damagedSegment(t *testing.T, d *damaged, key string) {
	dest := filepath.Join(pgtest.Dir(t), "RECOVERYXLOG")
	o := d.run(t, nil, "-c", d.host(t), "archive-get", filepath.Base(key), dest)
	if o.code < 126 || !strings.Contains(o.stderr, key) {
		t.Errorf("want a status that stops recovery, and the object's name: %v", o)
		return
	}
	d.refused++
	if exists(dest) {
		t.Error("something was handed over")
	}
}

// damagedOwner asks whose the repository is.
func damagedOwner(t *testing.T, d *damaged, key string) {
	leader := d.Leader()
	d.site.refused(t, leader, []string{"info"}, key)
	if o := d.run(t, leader, "check"); o.code != 1 || !strings.Contains(o.stdout+o.stderr, key) {
		t.Errorf("check does not name the object: %v", o)
		return
	}
	d.refused++
}

// mustNotStart fails the test if a server starts in what an unfinished restore
// left.
func mustNotStart(t testing.TB, s *site, dir string) {
	t.Helper()
	if !exists(dir) {
		return
	}
	c := s.adopt(t, dir)
	if err := c.TryStart(t); err == nil {
		t.Errorf("a server started in %s, whose restore did not end well", dir)
	}
}
