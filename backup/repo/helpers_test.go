package repo_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
)

const bs = 8192

// tree is a data directory: content by path; a path ending in a slash is a
// directory.
type tree map[string][]byte

// pages makes n pages that compress as PostgreSQL's do, the last one cut to
// tail bytes if tail is not 0.
func pages(seed uint64, n, tail int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n*bs)
	for p := range n {
		page := b[p*bs : (p+1)*bs]
		for off := bs; off > 1500; off -= 120 {
			copy(page[off-120:], fmt.Sprintf("%08x|customer %05d|%016x|aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|2026-01-01|", r.Uint32(), r.IntN(10000), r.Uint64()))
		}
		for off := 24; off < 300; off += 4 {
			page[off] = byte(r.UintN(256))
		}
	}
	if tail > 0 {
		b = b[:len(b)-bs+tail]
	}
	return b
}

func sampleTree() tree {
	return tree{
		"base/":                nil,
		"base/1/":              nil,
		"base/1/1259":          pages(1, 20, 0),
		"base/1/2619":          pages(2, 9, 0),
		"base/1/PG_VERSION":    []byte("17\n"),
		"base/1/big":           pages(3, 70, 0),
		"base/1/empty":         {},
		"base/1/name \xff":     []byte("not UTF-8"),
		"base/1/odd\u2028\n\"": []byte("odd name"),
		"global/pg_control":    pages(4, 1, 0),
		"pg_xact/0000":         pages(5, 12, 100), // short last page
		"postgresql.conf":      []byte(strings.Repeat("port = 5432\n", 30)),
	}
}

// whole says which files get a digest of the whole content though they have a
// page map.
func whole(path string) bool { return !strings.HasPrefix(path, "base/") }

// written is a backup as a test made it.
type written struct {
	backup  repo.Backup
	entries []repo.Entry
}

func smallPacks() repo.WriteOptions { return repo.WriteOptions{PackSize: 40 << 10, Uploads: 2} }

// writeFull stores a tree with two concurrent pack writers. The error is the
// first of anything.
func writeFull(ctx context.Context, r *repo.Repo, id repo.BackupID, t tree, opts repo.WriteOptions) (written, error) {
	w, err := r.Create(ctx, id, opts)
	if err != nil {
		return written{}, err
	}
	defer w.Close()
	entries, err := writeFiles(ctx, w, t)
	if err != nil {
		return written{}, err
	}
	b, err := w.Commit(ctx, repo.Contents{Backup: repotest.Backup(id), Entries: repo.Values(entries)})
	return written{b, entries}, err
}

func writeFiles(ctx context.Context, w *repo.Writer, t tree) ([]repo.Entry, error) {
	var entries []repo.Entry
	var small []*repo.Entry
	packs := []*repo.PackWriter{w.Pack(), w.Pack()}
	paths := slices.Sorted(maps.Keys(t))
	for i, path := range paths {
		e := repo.Entry{Path: strings.TrimSuffix(path, "/"), Mode: 0o600, Modified: repotest.ID(i).Time()}
		if strings.HasSuffix(path, "/") {
			e.Dir, e.Mode = true, 0o700
		} else {
			e.File, e.Size = uint32(len(paths)-i), int64(len(t[path])) // numbers in no order
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b repo.Entry) int { return strings.Compare(a.Path, b.Path) })
	for i := range entries {
		e := &entries[i]
		data := t[e.Path]
		switch {
		case e.Dir || e.Size == 0:
		case e.Size <= 4096:
			e.Digest = repo.DigestOf(data)
			small = append(small, e)
		default:
			frames, err := writePages(ctx, packs, e.File, data)
			if err != nil {
				return nil, err
			}
			ref, err := w.WriteMap(ctx, e.File, frames, repo.NewPageMap(w.ID(), uint32((len(data)+bs-1)/bs)), nil)
			if err != nil {
				return nil, err
			}
			e.Map = &ref
			if whole(e.Path) {
				e.Digest = repo.DigestOf(data)
			}
		}
	}
	for chunk := range slices.Chunk(small, 3) {
		var members []repo.Member
		for _, e := range chunk {
			members = append(members, repo.Member{File: e.File, Data: t[e.Path]})
		}
		f, err := packs[0].WriteBundle(ctx, members)
		if err != nil {
			return nil, err
		}
		for i, e := range chunk {
			e.Bundle = &repo.BundleRef{Place: f.Place, Member: uint32(i)}
		}
	}
	for _, p := range packs {
		if err := p.Close(ctx); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// frameSize is how much the frames of these tests hold, in raw bytes.
const frameSize = 64 << 10

// writePages splits a file among the pack writers, frame by frame.
func writePages(ctx context.Context, packs []*repo.PackWriter, file uint32, data []byte) ([]repo.Frame, error) {
	var mu sync.Mutex
	var frames []repo.Frame
	var wg sync.WaitGroup
	errs := make([]error, len(packs))
	for n, p := range packs {
		wg.Go(func() {
			for off := n * frameSize; off < len(data); off += len(packs) * frameSize {
				f, err := p.WriteRun(ctx, file, uint32(off/bs), data[off:min(off+frameSize, len(data))])
				if err != nil {
					errs[n] = err
					return
				}
				mu.Lock()
				frames = append(frames, f)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return frames, nil
}

// writeIncremental stores next as an incremental on parent: of files with a
// page map only the pages that differ from before, everything else anew.
func writeIncremental(ctx context.Context, r *repo.Repo, id repo.BackupID, parent repo.BackupID, before, next tree) (written, error) {
	m, err := r.OpenManifest(ctx, parent)
	if err != nil {
		return written{}, err
	}
	old := map[string]repo.Entry{}
	for e, err := range m.Entries(ctx) {
		if err != nil {
			return written{}, err
		}
		old[e.Path] = e
	}
	w, err := r.Create(ctx, id, smallPacks())
	if err != nil {
		return written{}, err
	}
	defer w.Close()
	fresh, same := tree{}, []repo.Entry{}
	p := w.Pack()
	file := uint32(1000)
	for path, data := range next {
		e, ok := old[path]
		if !ok || e.Map == nil || whole(path) || len(data) == 0 {
			fresh[path] = data
			continue
		}
		file++
		e.File, e.Size = file, int64(len(data))
		if bytes.Equal(before[path], data) { // the map itself is used again
			ref := *e.Map
			ref.Generation++
			e.Map = &ref
			same = append(same, e)
			continue
		}
		frames, err := writeChanged(ctx, p, file, before[path], data)
		if err != nil {
			return written{}, err
		}
		maps, err := m.ReadMaps(ctx, []repo.Entry{old[path]})
		if err != nil {
			return written{}, err
		}
		pm, err := maps[0].Overlay(id, uint32(len(data)/bs), frames)
		if err != nil {
			return written{}, err
		}
		kept, err := m.Kept(ctx, []repo.Entry{old[path]}, maps, []repo.PageMap{pm})
		if err != nil {
			return written{}, err
		}
		ref, err := w.WriteMap(ctx, file, frames, pm, kept[0])
		if err != nil {
			return written{}, err
		}
		e.Map = &ref
		same = append(same, e)
	}
	if err := p.Close(ctx); err != nil {
		return written{}, err
	}
	entries, err := writeFiles(ctx, w, fresh)
	if err != nil {
		return written{}, err
	}
	entries = append(entries, same...)
	slices.SortFunc(entries, func(a, b repo.Entry) int { return strings.Compare(a.Path, b.Path) })
	b := repotest.Backup(id)
	b.Kind, b.Parent = repo.Incremental, parent
	b, err = w.Commit(ctx, repo.Contents{Backup: b, Generations: m.Generations, Packs: m.Packs, Entries: repo.Values(entries)})
	return written{b, entries}, err
}

// writeChanged stores the pages that differ, in list frames of up to 8 pages.
func writeChanged(ctx context.Context, p *repo.PackWriter, file uint32, before, next []byte) ([]repo.Frame, error) {
	var frames []repo.Frame
	var list []uint32
	var raw []byte
	flush := func() error {
		if len(list) == 0 {
			return nil
		}
		f, err := p.WriteList(ctx, file, list, raw)
		frames = append(frames, f)
		list, raw = nil, nil
		return err
	}
	for off := 0; off < len(next); off += bs {
		if off < len(before) && bytes.Equal(before[off:off+bs], next[off:off+bs]) {
			continue
		}
		list, raw = append(list, uint32(off/bs)), append(raw, next[off:off+bs]...)
		if len(list) == 8 {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	return frames, flush()
}

// readBack restores a backup into memory the way a restore does.
func readBack(ctx context.Context, r *repo.Repo, id repo.BackupID) (tree, error) {
	m, err := r.OpenManifest(ctx, id)
	if err != nil {
		return nil, err
	}
	out := tree{}
	var wants []repo.Want
	var content [][]byte
	for e, err := range m.Entries(ctx) {
		if err != nil {
			return nil, err
		}
		if e.Dir {
			out[e.Path+"/"] = nil
			continue
		}
		data := make([]byte, e.Size)
		out[e.Path] = data
		wants = append(wants, repo.Want{Tag: int64(len(wants)), Entry: e})
		content = append(content, data)
	}
	var mu sync.Mutex
	err = m.Fetch(ctx, m.Locate(ctx, repo.Values(wants)), repo.FetchOptions{}, func(_ context.Context, rd repo.Read, raw []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if rd.Kind == repo.FrameBundle {
			copy(content[rd.Tag], raw)
			return nil
		}
		for first, b := range rd.Runs(raw, bs) {
			copy(content[rd.Tag][int(first)*bs:], b)
		}
		return nil
	})
	return out, err
}

func sameTree(t testing.TB, got, want tree) {
	t.Helper()
	for path, data := range want {
		if g, ok := got[path]; !ok {
			t.Errorf("%q is missing", path)
		} else if !bytes.Equal(g, data) {
			t.Errorf("%q differs", path)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%q is too much", path)
		}
	}
}

// keys lists all keys in a store.
func keys(t testing.TB, s storage.Store) []string {
	t.Helper()
	var out []string
	for o, err := range s.List(context.Background(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o.Key)
	}
	return out
}

func object(t testing.TB, s storage.Store, key string) []byte {
	t.Helper()
	b, err := storage.ReadAll(context.Background(), s, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// counting counts what is read.
type counting struct {
	storage.Store
	mu    sync.Mutex
	gets  int
	bytes int64
	keys  map[string]int
	lists int
}

func (c *counting) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	c.mu.Lock()
	c.gets++
	c.bytes += n
	if c.keys == nil {
		c.keys = map[string]int{}
	}
	c.keys[key]++
	c.mu.Unlock()
	return c.Store.Get(ctx, key, off, n)
}

func (c *counting) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	c.mu.Lock()
	c.lists++
	c.mu.Unlock()
	return c.Store.List(ctx, prefix, after)
}
