package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/servertest"
)

// DefaultMajor is the version used where a test does not care: the one whose
// client programs Debian bookworm has.
const DefaultMajor = 15

// Majors gives the versions to test: 13 to 18, or those that PGTENDER_MAJORS
// lists, separated by commas.
func Majors(t testing.TB) []int {
	t.Helper()
	var majors []int
	list := os.Getenv("PGTENDER_MAJORS")
	if list == "" {
		for m := server.OldestMajor; m <= server.NewestMajor; m++ {
			majors = append(majors, m)
		}
		return majors
	}
	for _, word := range strings.Split(list, ",") {
		m, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil {
			t.Fatalf("PGTENDER_MAJORS: %q is not a version", word)
		}
		majors = append(majors, m)
	}
	return majors
}

// EachMajor runs a subtest for each of [Majors], one after the other.
func EachMajor(t *testing.T, run func(t *testing.T, major int)) {
	t.Helper()
	for _, m := range Majors(t) {
		t.Run(fmt.Sprintf("PostgreSQL %d", m), func(t *testing.T) { run(t, m) })
	}
}

// BinDir gives the directory of a version's server programs.
func BinDir(t testing.TB, major int) string {
	t.Helper()
	dirs := binDirs(major)
	for _, dir := range dirs {
		if isProgram(filepath.Join(dir, "postgres")) {
			return dir
		}
	}
	servertest.Missing(t, "PostgreSQL %d is not in %s", major, strings.Join(dirs, ", "))
	return ""
}

// Tool gives the path of a client program (psql, pgbench, ...): the version's
// own, else the one that 'make servers' chose, else the newest installed.
func Tool(t testing.TB, major int, name string) string {
	t.Helper()
	path, ok := findTool(major, name)
	if !ok {
		servertest.Missing(t, "no PostgreSQL with %s is installed", name)
	}
	return path
}

func findTool(major int, name string) (string, bool) {
	dirs := append(binDirs(major), filepath.Join(servertest.CacheDir(), "postgres", "client", "bin"))
	for m := server.NewestMajor; m >= server.OldestMajor; m-- {
		dirs = append(dirs, binDirs(m)...)
	}
	for _, dir := range dirs {
		if path := filepath.Join(dir, name); isProgram(path) {
			return path, true
		}
	}
	return "", false
}

// ownTool is findTool for programs that read files of their own version only.
func ownTool(major int, name string) (string, bool) {
	for _, dir := range binDirs(major) {
		if path := filepath.Join(dir, name); isProgram(path) {
			return path, true
		}
	}
	return "", false
}

func binDirs(major int) []string {
	m := strconv.Itoa(major)
	dirs := []string{
		filepath.Join(servertest.CacheDir(), "postgres", m, "bin"),
		filepath.Join("/usr/lib/postgresql", m, "bin"),
	}
	if dir := os.Getenv("PGTENDER_PG" + m + "_BIN"); dir != "" {
		dirs = append([]string{dir}, dirs...)
	}
	return dirs
}

func isProgram(path string) bool {
	found, err := exec.LookPath(path)
	return err == nil && found != ""
}
