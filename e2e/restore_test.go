package e2e_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/internal/pgtest"
)

// host makes a configuration for a machine that has nothing to do with Patroni:
// the repository and the cluster's name.
func (s *site) host(t testing.TB) string {
	t.Helper()
	path := filepath.Join(pgtest.Dir(t), "pgtender.yml")
	text := fmt.Sprintf("repository: %s\ncluster: %s\n%s", s.repo.url, s.Scope, s.repo.settings(nil))
	if err := s.WriteFile(path, []byte(text)); err != nil {
		t.Fatal(err)
	}
	return path
}

// restore restores on a bare host and gives the server, not yet started.
func (s *site) restore(t testing.TB, args ...string) *pgtest.Cluster {
	t.Helper()
	dir := filepath.Join(pgtest.Dir(t), "data")
	args = append([]string{"-c", s.host(t), "restore", "--target-dir", dir}, args...)
	s.must(t, nil, args...)
	return s.adopt(t, dir)
}

// adopt makes a server of a restored directory. The configuration files in it
// are those that Patroni wrote for the member, so what they say about the
// member's place is overridden, as on any other machine. The copy does not archive.
func (s *site) adopt(t testing.TB, dir string) *pgtest.Cluster {
	t.Helper()
	return pgtest.Adopt(t, dir, pgtest.Options{Major: s.Major, Config: map[string]string{
		"hba_file": filepath.Join(dir, "pg_hba.conf"), "ident_file": filepath.Join(dir, "pg_ident.conf"), "archive_mode": "off",
	}})
}
