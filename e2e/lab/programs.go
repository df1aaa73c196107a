package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pgtender/pgtender/internal/pg"
)

//go:embed pg_basebackup.sh
var basebackupScript string

// programs finds what e2e/setup put into the cache folder.
type programs struct{ cache string }

// NotInstalledError says which component of e2e/setup a lab lacks.
type NotInstalledError struct {
	Component string
	Err       error
}

func (e *NotInstalledError) Error() string {
	return fmt.Sprintf("%s is not installed: %v\nhint: go run ./e2e/setup %s", e.Component, e.Err, e.Component)
}

func (e *NotInstalledError) Unwrap() error { return e.Err }

// find gives the absolute path of a program of the cache.
func (p programs) find(component string, path ...string) (string, error) {
	file := filepath.Join(append([]string{p.cache}, path...)...)
	if _, err := os.Stat(file); err != nil {
		return "", &NotInstalledError{component, err}
	}
	return file, nil
}

func (p programs) server(name string) (string, error) { return p.find(name, "bin", name) }

func (p programs) patroni(series string) (string, error) {
	return p.find("patroni-"+series, "patroni", series, "bin", "patroni")
}

// client gives a client program of the distribution's PostgreSQL.
func (p programs) client(name string) (string, error) {
	return p.find("postgres", "postgres", "client", "bin", name)
}

// clientMajor is the distribution's major.
func (p programs) clientMajor() (int, error) {
	psql, err := p.client("psql")
	if err != nil {
		return 0, err
	}
	return pg.ProgramMajor(context.Background(), psql)
}

// serverBin gives a bin_dir for Patroni. The distribution's own is used as it is,
// and so is any other complete one. For the majors with server programs only,
// one is put together in dir:
//   - pg_controldata is the distribution's: the control file's layout is the
//     same from 13 to 17 (pg_control.h, PG_CONTROL_VERSION 1300), and 18 added a
//     field behind all that Patroni reads. It warns about the checksum there.
//   - pg_basebackup talks to older servers, and for newer ones a script stands in.
//   - pg_rewind works for its own major only, so there is none.
func (p programs) serverBin(major int, dir string) (string, error) {
	clients, err := p.clientMajor()
	if err != nil {
		return "", err
	}
	var postgres string
	if clients == major {
		postgres, err = p.client("postgres")
	} else {
		postgres, err = p.find(fmt.Sprintf("postgres-%d", major), "postgres", strconv.Itoa(major), "bin", "postgres")
	}
	if err != nil {
		return "", err
	}
	own := filepath.Dir(postgres)
	if _, err := os.Stat(filepath.Join(own, "pg_basebackup")); err == nil {
		return own, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	links := map[string]string{}
	for _, name := range []string{"postgres", "initdb", "pg_ctl"} {
		links[name] = filepath.Join(own, name)
	}
	for _, name := range []string{"pg_controldata", "pg_isready", "psql", "pg_basebackup"} {
		if links[name], err = p.client(name); err != nil {
			return "", err
		}
	}
	if clients < major {
		script := strings.NewReplacer("@PSQL@", links["psql"], "@SUPERUSER@", superuser, "@PASSWORD@", password).Replace(basebackupScript)
		links["pg_basebackup"] = ""
		if err := os.WriteFile(filepath.Join(dir, "pg_basebackup"), []byte(script), 0o755); err != nil {
			return "", err
		}
	}
	for name, target := range links {
		if target == "" {
			continue
		}
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	return dir, nil
}
