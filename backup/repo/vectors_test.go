package repo_test

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
)

var update = flag.Bool("update", false, "write testdata/v1-dev anew")

const vectors = "testdata/v1-dev"

// A small repository as the release of the format's name wrote it: a full
// backup, an incremental on it, and one object of every other kind.
func TestARepositoryOfThisFormatVersionStillReads(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	store := mem.New()
	for key, b := range vectorObjects(t) {
		if err := storage.PutBytes(t.Context(), store, key, b, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	repotest.Check(t, store)
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	for i, want := range []tree{vectorTree(), vectorNext()} {
		got, err := readBack(t.Context(), r, repotest.ID(i+1))
		if err != nil {
			t.Fatal(err)
		}
		sameTree(t, got, want)
	}
}

// vectorObjects gives the objects of the small repository by their keys.
func vectorObjects(t *testing.T) map[string][]byte {
	t.Helper()
	objects := map[string][]byte{}
	err := filepath.WalkDir(vectors, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		key, err := filepath.Rel(vectors, path)
		objects[filepath.ToSlash(key)] = b
		return err
	})
	if err != nil || len(objects) < 15 {
		t.Fatalf("%d objects, %v", len(objects), err)
	}
	return objects
}

func vectorTree() tree {
	t := smallTree()
	t["base/2"] = pagesOfText(12, "the first state of this page ")
	return t
}

func vectorNext() tree {
	t := vectorTree()
	for _, p := range []int{2, 3, 7} {
		copy(t["base/2"][p*bs:], pagesOfText(1, "another state "))
	}
	return t
}

func pagesOfText(n int, text string) []byte {
	b := make([]byte, n*bs)
	for off := 0; off < len(b); {
		off += copy(b[off:], text)
	}
	return b
}

func writeVectors(t *testing.T) {
	store := mem.New()
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	if _, err := writeFull(t.Context(), r, repotest.ID(1), vectorTree(), repo.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := writeIncremental(t.Context(), r, repotest.ID(2), repotest.ID(1), vectorTree(), vectorNext()); err != nil {
		t.Fatal(err)
	}
	for name, s := range specimens(t) {
		if name != "manifest" && name != "data pack" && name != "map pack" {
			put(t, store, s.key, s.data)
		}
	}
	if err := os.RemoveAll(vectors); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys(t, store) {
		path := filepath.Join(vectors, filepath.FromSlash(k))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, object(t, store, k), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
