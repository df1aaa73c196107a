package catchup

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/internal/pg"
)

// BenchmarkRestore restores a synthetic backup of large files and many small
// ones from a repository of files, all synced. It reports CPU time too.
func BenchmarkRestore(b *testing.B) {
	const files, fileSize, small = 4, 128 << 20, 2000
	store, err := file.Open(b.Context(), file.Options{Dir: b.TempDir(), Create: true})
	if err != nil {
		b.Fatal(err)
	}
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	backup := synthetic(b, r, files, fileSize, small)
	for _, buffered := range []bool{false, true} {
		b.Run(fmt.Sprintf("buffered=%t", buffered), func(b *testing.B) {
			b.SetBytes(files * fileSize)
			cpu := cpuTime()
			for b.Loop() {
				dir := filepath.Join(b.TempDir(), "data")
				restoreFiles(b, r, backup, dir, buffered)
				b.StopTimer()
				os.RemoveAll(dir)
				b.StartTimer()
			}
			b.ReportMetric((cpuTime()-cpu).Seconds()/float64(b.N), "cpu-s/op")
		})
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// restoreFiles is what a run does up to the WAL.
func restoreFiles(b *testing.B, r *repo.Repo, backup repo.Backup, dir string, buffered bool) {
	b.Helper()
	run := fetching(b, r, backup, dir)
	run.opts.Buffered = buffered
	defer run.lock.release()
	defer run.tree.close()
	if err := run.fetch(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := run.tree.syncDirs(); err != nil {
		b.Fatal(err)
	}
}

// fetching gives a run that is about to fetch a backup's files. Its lock and its
// tree are the caller's to give back.
func fetching(t testing.TB, r *repo.Repo, backup repo.Backup, dir string) *runner {
	t.Helper()
	l, err := acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	run := &runner{
		plan: &Plan{Dir: DirFacts{Path: dir, State: DirEmpty}, Backup: backup, Lineage: archive.Lineage{History: pg.FirstTimeline()}},
		opts: RunOptions{Repo: r, Workers: 2}, lock: l, meter: newMeter(nil),
	}
	if run.manifest, err = r.OpenManifest(t.Context(), backup.ID); err != nil {
		t.Fatal(err)
	}
	if err := run.makePlaces(); err != nil {
		t.Fatal(err)
	}
	if run.tree, err = openTree(run.plan); err != nil {
		t.Fatal(err)
	}
	return run
}

// synthetic writes a backup whose pages compress as tables' do.
func synthetic(b *testing.B, r *repo.Repo, files int, size int64, small int) repo.Backup {
	b.Helper()
	id := repotest.ID(1)
	w, err := r.Create(b.Context(), id, repo.WriteOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	p := w.Pack()
	random := rand.New(rand.NewPCG(1, 1))
	frame := make([]byte, repo.MaxFrame)
	entries := []repo.Entry{{Path: "base", Dir: true, Mode: 0o700}, {Path: "base/1", Dir: true, Mode: 0o700}}
	number := uint32(0)
	for n := range files {
		number++
		var frames []repo.Frame
		for off := int64(0); off < size; off += repo.MaxFrame {
			for i := 0; i < len(frame); i += 64 {
				binary.LittleEndian.PutUint64(frame[i:], random.Uint64())
				copy(frame[i+8:i+40], "a column of text, b column of tx")
			}
			f, err := p.WriteRun(b.Context(), number, uint32(off/8192), frame)
			if err != nil {
				b.Fatal(err)
			}
			frames = append(frames, f)
		}
		ref, err := w.WriteMap(b.Context(), number, frames, repo.NewPageMap(id, uint32(size/8192)), nil)
		if err != nil {
			b.Fatal(err)
		}
		entries = append(entries, repo.Entry{File: number, Path: fmt.Sprintf("base/1/%08d", n), Mode: 0o600, Size: size, Map: &ref})
	}
	for n := 0; n < small; n += 8 {
		var members []repo.Member
		for range 8 {
			members = append(members, repo.Member{File: number + uint32(len(members)) + 1, Data: frame[:8192]})
		}
		f, err := p.WriteBundle(b.Context(), members)
		if err != nil {
			b.Fatal(err)
		}
		for i := range members {
			number++
			entries = append(entries, repo.Entry{File: number, Path: fmt.Sprintf("base/1/small%08d", n+i), Mode: 0o600, Size: 8192,
				Bundle: &repo.BundleRef{Place: f.Place, Member: uint32(i)}, Digest: repo.DigestOf(frame[:8192])})
		}
	}
	if err := p.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	meta := repotest.Backup(id)
	meta.Tablespaces = nil
	var seq iter.Seq2[repo.Entry, error] = func(yield func(repo.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
	out, err := w.Commit(b.Context(), repo.Contents{Backup: meta, Entries: seq})
	if err != nil {
		b.Fatal(err)
	}
	return out
}
