package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pgtender/pgtender/internal/servertest"
)

// machine is where the bench runs: its folder, the user of its programs and,
// once it is started, the source's server.
type machine struct {
	dir     string
	bin     string              // of PostgreSQL's programs
	account *syscall.Credential // nil: as ourselves
	server  *postgres           // of the source
	note    io.Writer           // what is being done, for a person
}

const major = "15"

// newMachine prepares the folder. The caller calls close.
func newMachine(o options, note io.Writer) (m *machine, close func(), err error) {
	m = &machine{dir: o.dir, note: note}
	if m.bin, err = findPostgres(); err != nil {
		return nil, nil, err
	}
	if m.account, err = servertest.Account(); err != nil {
		return nil, nil, err
	}
	close = func() {}
	if m.dir == "" {
		// Short, so that a socket can lie in it.
		if m.dir, err = os.MkdirTemp("", "pgtender-bench-"); err != nil {
			return nil, nil, err
		}
		close = func() { os.RemoveAll(m.dir) }
	} else if m.dir, err = filepath.Abs(m.dir); err != nil {
		return nil, nil, err
	}
	if err := m.mkdir(m.dir, 0o755); err != nil {
		close()
		return nil, nil, err
	}
	return m, close, nil
}

// findPostgres gives the folder of a PostgreSQL with all the programs needed.
func findPostgres() (string, error) {
	dirs := []string{filepath.Join(servertest.CacheDir(), "postgres", major, "bin"), "/usr/lib/postgresql/" + major + "/bin"}
	if dir := os.Getenv("PGTENDER_PG" + major + "_BIN"); dir != "" {
		dirs = append([]string{dir}, dirs...)
	}
	var missing error
	for _, dir := range dirs {
		missing = nil
		for _, name := range []string{"initdb", "postgres", "psql", "pgbench", "pg_basebackup"} {
			if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
				missing = err
			}
		}
		if missing == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("PostgreSQL %s with its client programs is in none of %s\nhint: run 'make servers', or set PGTENDER_PG%s_BIN", major, strings.Join(dirs, ", "), major)
}

func (m *machine) path(name ...string) string {
	return filepath.Join(append([]string{m.dir}, name...)...)
}

func (m *machine) program(name string) string { return filepath.Join(m.bin, name) }

// mkdir makes a folder that the servers' user owns, whatever the umask.
func (m *machine) mkdir(dir string, mode fs.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	if err := os.Chmod(dir, mode); err != nil {
		return err
	}
	return m.own(dir)
}

func (m *machine) own(path string) error {
	if m.account == nil {
		return nil
	}
	return os.Lchown(path, int(m.account.Uid), int(m.account.Gid))
}

// writeFile writes a file that the servers' user owns.
func (m *machine) writeFile(path, text string, mode fs.FileMode) error {
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		return err
	}
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	return m.own(path)
}

// copyProgram copies a program to where the servers' user can run it: a
// checkout may lie in a closed home directory. It must not pass through our
// own memory, which every child begins with.
func (m *machine) copyProgram(from, name string) (string, error) {
	to := m.path(name)
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	src, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(dst, src)
	if err = errors.Join(err, dst.Close()); err != nil {
		return "", fmt.Errorf("copy %s: %w", from, err)
	}
	return to, errors.Join(os.Chmod(to, 0o755), m.own(to))
}

func (m *machine) say(format string, args ...any) {
	fmt.Fprintf(m.note, format+"\n", args...)
}

// size sums up the bytes of the files below dir, without those that skip
// names; a missing dir has none.
func size(dir string, skip func(path string) bool) (int64, error) {
	sum := int64(0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || skip != nil && skip(path) {
			return err
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return sum, err
}

// settleDisk writes out what earlier jobs left behind, so that no tool pays for
// another, and with cold drops dirs from the page cache.
func settleDisk(cold bool, dirs ...string) error {
	unix.Sync()
	if !cold {
		return nil
	}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return nil // a server removes files as it likes
			}
			defer f.Close()
			return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		})
		if err != nil {
			return fmt.Errorf("drop %s from the page cache: %w", dir, err)
		}
	}
	return nil
}
