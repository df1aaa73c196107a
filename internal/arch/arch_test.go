// Package arch holds the test that keeps the import directions of
// docs/architecture.md true. It reads the sources rather than ask the go
// command, whose test cache would not notice a changed import.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/pgtender/pgtender/"

// allowed says which of the module's packages each may import. A package that
// is missing fails the test, so a new one is a decision. "x/*" stands for the
// packages right below x that have no entry of their own.
var allowed = map[string][]string{
	// Values and files of PostgreSQL, used by both towers.
	"internal/pg":         {},
	"internal/pg/wal":     {"internal/pg"},
	"internal/pg/server":  {"internal/pg"},
	"internal/durable":    {},
	"internal/filelock":   {},
	"internal/finding":    {},
	"internal/config":     {},
	"internal/arch":       {},
	"internal/process":    {},
	"internal/quit":       {},
	"internal/servertest": {"internal/filelock"},
	"internal/soak":       {},
	"internal/pgtest":     {"internal/pg", "internal/pg/server", "internal/servertest"},

	// The data tower.
	"backup/storage":             {},
	"backup/storage/*":           {"backup/storage", "internal/durable"},
	"backup/storage/storagetest": {"backup/storage", "backup/storage/mem"},
	"backup/repo":                {"backup/storage", "internal/pg", "internal/pg/wal"},
	"backup/repo/repotest":       {"backup/repo", "backup/storage", "backup/storage/mem", "backup/storage/storagetest", "internal/pg"},
	"backup/archive":             {"backup/repo", "backup/storage", "internal/durable", "internal/filelock", "internal/finding", "internal/pg", "internal/pg/wal"},
	"backup/archive/agent":       {"backup/archive", "backup/archive/agent/early", "backup/repo", "internal/filelock", "internal/finding", "internal/pg", "internal/pg/server"},
	"backup/archive/agent/early": {},
	"backup/archive/archivetest": {"backup/archive", "backup/repo", "backup/storage/file", "internal/pg", "internal/pgtest"},
	"backup/archive/receive":     {"backup/archive", "backup/repo", "internal/filelock", "internal/finding", "internal/pg", "internal/pg/server"},
	"backup":                     {"backup/archive", "backup/repo", "backup/storage", "internal/durable", "internal/finding", "internal/pg", "internal/pg/server", "internal/pg/wal", "internal/process"},
	"catchup":                    {"backup", "backup/archive", "backup/repo", "backup/storage", "internal/durable", "internal/filelock", "internal/finding", "internal/pg", "internal/pg/server", "internal/pg/wal"},
	"catchup/drill":              {"backup", "backup/repo", "backup/storage", "catchup", "internal/filelock", "internal/finding", "internal/pg", "internal/pg/server"},

	// The control tower.
	"dcs":         {},
	"dcs/*":       {"dcs"},
	"dcs/dcstest": {"dcs", "internal/servertest"},
	"patroni":     {"dcs", "internal/finding", "internal/pg", "patroni/yaml11"},
	"patroni/*":   {"internal/finding", "internal/pg", "patroni"},
	"ha":          {"dcs", "internal/finding", "internal/pg", "patroni"},
	"ha/watch":    {"dcs", "ha", "internal/finding", "internal/pg", "patroni"},
}

// onlyIn confines a third-party dependency to one package.
var onlyIn = map[string]string{
	"github.com/jackc/pgx":         "internal/pg/server",
	"github.com/jackc/pglogrepl":   "internal/pg/server",
	"github.com/aws/":              "backup/storage/s3",
	"go.etcd.io/etcd":              "dcs/etcd",
	"github.com/hashicorp/consul":  "dcs/consul",
	"github.com/DataDog/zstd":      "backup/repo",
	"github.com/klauspost/":        "backup/repo",
	"github.com/spf13/":            "cmd/pgtender",
	"golang.org/x/term":            "cmd/pgtender",
	"github.com/Shopify/toxiproxy": "dcs/dcstest", // and tests
}

func TestLayers(t *testing.T) {
	for name, imports := range sources(t) {
		from := path.Dir(name)
		root := strings.HasPrefix(from, "cmd/") || strings.HasPrefix(from, "e2e")
		may, known := allowed[from]
		if !known {
			may, known = allowed[path.Dir(from)+"/*"]
		}
		if !known && !root {
			t.Errorf("%s: package %s is not in the layering table", name, from)
			continue
		}
		for _, imp := range imports {
			// The composition root may import any package of ours, and end-to-end
			// tests drive the built binary with whatever they need.
			if to, ours := strings.CutPrefix(imp, module); ours && !root && !slices.Contains(may, to) {
				t.Errorf("%s: %s must not import %s", name, from, to)
			}
			for lib, home := range onlyIn {
				if strings.HasPrefix(imp, lib) && from != home && !strings.HasPrefix(from, "e2e") {
					t.Errorf("%s: %s belongs in %s", name, imp, home)
				}
			}
		}
	}
}

// TestNoProcessExit keeps the exit in main: a library that ends the process
// skips the clean-up of everything above it.
func TestNoProcessExit(t *testing.T) {
	root := os.DirFS("../..")
	for name := range sources(t) {
		if strings.HasPrefix(name, "cmd/") || strings.HasPrefix(name, "e2e/") {
			continue
		}
		src, err := fs.ReadFile(root, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{"os.Exit(", "log.Fatal", "slog.Default("} {
			if strings.Contains(string(src), call) {
				t.Errorf("%s: %s belongs in cmd/pgtender", name, call)
			}
		}
	}
}

// sources gives the imports of every Go file that is not a test and belongs to
// this module, by its path.
func sources(t *testing.T) map[string][]string {
	t.Helper()
	out := make(map[string][]string)
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); name != "." && (strings.HasPrefix(base, ".") || base == "testdata") {
				return fs.SkipDir
			}
			if _, err := fs.Stat(root, path.Join(name, "go.mod")); err == nil && name != "." {
				return fs.SkipDir // a module of its own
			}
			return nil
		}
		if path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		src, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		out[name] = []string{}
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			out[name] = append(out[name], imp)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatal("no sources found")
	}
	return out
}
