package catchup

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/file"
)

// BenchmarkRestoreOfAChain restores the last of 60 incremental backups, each of
// 8 % of the pages at random, beside a full backup of the same content.
func BenchmarkRestoreOfAChain(b *testing.B) {
	const pages, changes, incrementals = 24 << 10, 2000, 60 // 192 MiB
	store, err := file.Open(b.Context(), file.Options{Dir: b.TempDir(), Create: true})
	if err != nil {
		b.Fatal(err)
	}
	c := newChain(b, repo.Open(store, repotest.Cluster, repo.Options{}), pages)
	full := c.full()
	for range incrementals {
		c.incremental(changes)
	}
	last := c.last
	again := c.full()
	for _, of := range []struct {
		name   string
		backup repo.Backup
	}{{"the first full", full}, {"the last incremental", last}, {"a full of that content", again}} {
		b.Run(of.name, func(b *testing.B) {
			b.SetBytes(pages * chainPage)
			cpu := cpuTime()
			for b.Loop() {
				dir := filepath.Join(b.TempDir(), "data")
				restoreFiles(b, c.repo, of.backup, dir, false)
				b.StopTimer()
				os.RemoveAll(dir)
				b.StartTimer()
			}
			b.ReportMetric((cpuTime()-cpu).Seconds()/float64(b.N), "cpu-s/op")
		})
	}
}

const (
	chainPage = 8192
	chainPath = "base/1/16384"
)

// chain makes backups of one file, each on the one before.
type chain struct {
	testing.TB
	repo   *repo.Repo
	random *rand.Rand
	data   []byte
	n      int // backups so far
	last   repo.Backup
}

func newChain(t testing.TB, r *repo.Repo, pages int) *chain {
	c := &chain{TB: t, repo: r, random: rand.New(rand.NewPCG(1, 2)), data: make([]byte, pages*chainPage)}
	for p := range pages {
		c.change(uint32(p))
	}
	return c
}

// change gives a page new content, which compresses as tables do.
func (c *chain) change(page uint32) {
	b := c.data[int(page)*chainPage:][:chainPage]
	for i := 0; i < len(b); i += 64 {
		binary.LittleEndian.PutUint64(b[i:], c.random.Uint64())
		copy(b[i+8:i+40], "a column of text, b column of tx")
	}
}

// full backs everything up, in frames of 64 KiB.
func (c *chain) full() repo.Backup {
	c.Helper()
	return c.write(repo.Full, func(p *repo.PackWriter) (frames []repo.Frame, err error) {
		for off := 0; off < len(c.data) && err == nil; off += 64 << 10 {
			var f repo.Frame
			f, err = p.WriteRun(c.Context(), 1, uint32(off/chainPage), c.data[off:off+64<<10])
			frames = append(frames, f)
		}
		return frames, err
	})
}

// incremental changes so many pages and backs them up, four to a frame.
func (c *chain) incremental(changes int) repo.Backup {
	c.Helper()
	changed := map[uint32]bool{}
	for len(changed) < changes {
		page := c.random.Uint32N(uint32(len(c.data) / chainPage))
		changed[page] = true
		c.change(page)
	}
	return c.write(repo.Incremental, func(p *repo.PackWriter) (frames []repo.Frame, err error) {
		var pages []uint32
		var raw []byte
		for page := range uint32(len(c.data) / chainPage) {
			if changed[page] {
				pages, raw = append(pages, page), append(raw, c.data[int(page)*chainPage:][:chainPage]...)
			}
			if len(pages) == 4 || len(pages) > 0 && int(page+1)*chainPage == len(c.data) {
				f, err := p.WriteList(c.Context(), 1, pages, raw)
				if err != nil {
					return nil, err
				}
				frames, pages, raw = append(frames, f), nil, nil
			}
		}
		return frames, nil
	})
}

// write makes a backup of what f stores.
func (c *chain) write(kind repo.Kind, f func(*repo.PackWriter) ([]repo.Frame, error)) repo.Backup {
	c.Helper()
	c.n++
	ctx, id := c.Context(), repotest.ID(c.n)
	w, err := c.repo.Create(ctx, id, repo.WriteOptions{})
	if err != nil {
		c.Fatal(err)
	}
	defer w.Close()
	p := w.Pack()
	frames, err := f(p)
	if err != nil {
		c.Fatal(err)
	}
	if err := p.Close(ctx); err != nil {
		c.Fatal(err)
	}
	b := repotest.Backup(id)
	b.Kind, b.Tablespaces = kind, nil
	contents := repo.Contents{Backup: b}
	pages := uint32(len(c.data) / chainPage)
	pm, kept := repo.NewPageMap(id, pages), [][]repo.PackRef{nil}
	if kind == repo.Incremental {
		pm, kept = c.overlay(&contents, pages, frames)
	}
	ref, err := w.WriteMap(ctx, 1, frames, pm, kept[0])
	if err != nil {
		c.Fatal(err)
	}
	contents.Entries = chainEntries(repo.Entry{File: 1, Path: chainPath, Mode: 0o600, Size: int64(len(c.data)), Map: &ref})
	if c.last, err = w.Commit(ctx, contents); err != nil {
		c.Fatal(err)
	}
	return c.last
}

// overlay lays the frames of a new backup over the last one.
func (c *chain) overlay(to *repo.Contents, pages uint32, frames []repo.Frame) (repo.PageMap, [][]repo.PackRef) {
	c.Helper()
	ctx := c.Context()
	m, err := c.repo.OpenManifest(ctx, c.last.ID)
	if err != nil {
		c.Fatal(err)
	}
	var base []repo.Entry
	for e, err := range m.Entries(ctx) {
		if err != nil {
			c.Fatal(err)
		}
		if e.Path == chainPath {
			base = append(base, e)
		}
	}
	maps, err := m.ReadMaps(ctx, base)
	if err != nil {
		c.Fatal(err)
	}
	pm, err := maps[0].Overlay(to.Backup.ID, pages, frames)
	if err != nil {
		c.Fatal(err)
	}
	kept, err := m.Kept(ctx, base, maps, []repo.PageMap{pm})
	if err != nil {
		c.Fatal(err)
	}
	to.Backup.Parent, to.Generations, to.Packs = c.last.ID, m.Generations, m.Packs
	return pm, kept
}

func chainEntries(e repo.Entry) iter.Seq2[repo.Entry, error] {
	return func(yield func(repo.Entry, error) bool) {
		for _, name := range []string{"base", "base/1"} {
			if !yield(repo.Entry{Path: name, Dir: true, Mode: 0o700}, nil) {
				return
			}
		}
		yield(e, nil)
	}
}

// What many backups have stored page by page comes back in the order of the
// file, so that it is written in large pieces.
func TestTheLastOfManyIncrementalsIsWrittenInOrder(t *testing.T) {
	r, _ := repotest.New(t)
	c := newChain(t, r, 8<<10) // 64 MiB
	c.full()
	for range 12 {
		c.incremental(800)
	}
	run := fetching(t, r, c.last, filepath.Join(t.TempDir(), "data"))
	defer run.lock.release()
	defer run.tree.close()
	w := newWriter(run.tree, chainPage, run.opts.Workers)
	var writes, count atomic.Int64
	w.wrote = func(n int) { writes.Add(1); count.Add(int64(n)) }
	w.done = func(*output) error { return nil }
	wants := func(yield func(repo.Want, error) bool) {
		for e, err := range run.manifest.Entries(t.Context()) {
			if err == nil && e.Dir {
				err = run.tree.mkdir(e.Path, e.Mode)
			} else if err == nil {
				err = w.add(e)
			}
			if (err != nil || !e.Dir) && !yield(repo.Want{Tag: int64(e.File), Entry: e}, err) {
				return
			}
		}
	}
	err := w.run(t.Context(), func(ctx context.Context) error {
		return run.manifest.Fetch(ctx, run.manifest.Locate(ctx, wants), repo.FetchOptions{Workers: 2}, w.write)
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := run.tree.open(chainPath, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, c.data) {
		t.Fatalf("%d bytes were restored that are not those backed up, %v", len(got), err)
	}
	if want := int64(len(c.data) / chunkSize); writes.Load() != want || count.Load() != int64(len(c.data)) {
		t.Errorf("%d writes of %d bytes, want %d of %d", writes.Load(), count.Load(), want, len(c.data))
	}
}
