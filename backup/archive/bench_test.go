package archive_test

import (
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/internal/pg"
)

// fileRepo gives a repository in a directory.
func fileRepo(b *testing.B) *repo.Repo {
	b.Helper()
	store, err := file.Open(b.Context(), file.Options{Dir: b.TempDir(), Create: true})
	if err != nil {
		b.Fatal(err)
	}
	return repo.Open(store, repotest.Cluster, repo.Options{})
}

const benchSegments = 4

// large gives segments of the usual size, in a directory.
func large(b *testing.B, dir string) *builder {
	b.Helper()
	w := &builder{size: pg.DefaultSegmentSize, timeline: 1, system: repotest.Cluster.SystemID, segments: map[pg.SegmentNumber][]byte{}}
	w.at = w.size.Start(4)
	w.until(w.size.Start(4 + benchSegments))
	for n := pg.SegmentNumber(4); n < 4+benchSegments; n++ {
		w.save(b, dir, n, "")
	}
	b.SetBytes(int64(w.size))
	return w
}

func BenchmarkPush(b *testing.B) {
	dir := b.TempDir()
	w := large(b, dir)
	var r *repo.Repo
	for i := 0; b.Loop(); i++ {
		if i%benchSegments == 0 {
			r = fileRepo(b)
		}
		path := filepath.Join(dir, w.name(4+pg.SegmentNumber(i%benchSegments)))
		if _, err := archive.Push(b.Context(), r, archive.PushOptions{Path: path}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	dir, r := b.TempDir(), fileRepo(b)
	w := large(b, dir)
	for n := pg.SegmentNumber(4); n < 4+benchSegments; n++ {
		push(b, r, filepath.Join(dir, w.name(n)))
	}
	for i := 0; b.Loop(); i++ {
		err := archive.Get(b.Context(), r, archive.GetOptions{
			Name: w.name(4 + pg.SegmentNumber(i%benchSegments)), Dest: filepath.Join(dir, "RECOVERYXLOG"),
			Lineage: fixed(pg.FirstTimeline()), SegmentSize: w.size,
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
