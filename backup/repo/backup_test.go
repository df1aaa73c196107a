package repo_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
)

func TestAFullBackupReadsBackAsItWas(t *testing.T) {
	for name, opts := range map[string]repo.Options{"zstd 1": {}, "zstd 7": {Level: 7}, "plain": {Level: repo.NoCompression}} {
		t.Run(name, func(t *testing.T) {
			_, store := repotest.New(t)
			r := repo.Open(store, repotest.Cluster, opts)
			want, id := sampleTree(), repotest.ID(1)
			w, err := writeFull(t.Context(), r, id, want, smallPacks())
			if err != nil {
				t.Fatal(err)
			}
			got, err := readBack(t.Context(), r, id)
			if err != nil {
				t.Fatal(err)
			}
			sameTree(t, got, want)

			m, err := r.OpenManifest(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(w.backup, m.Backup); diff != "" {
				t.Errorf("description (-written +read):\n%s", diff)
			}
			var entries []repo.Entry
			for e, err := range m.Entries(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				entries = append(entries, e)
			}
			if diff := cmp.Diff(w.entries, entries, cmpopts.IgnoreUnexported(repo.MapRef{}), cmpopts.SortSlices(func(a, b repo.PackRef) bool { return a.Number < b.Number })); diff != "" {
				t.Errorf("entries (-written +read):\n%s", diff)
			}
			if w.backup.Files != int64(len(want)) || w.backup.Packs < 3 || w.backup.Frames == 0 || w.backup.RawBytes == 0 {
				t.Errorf("counts: %+v", w.backup)
			}
		})
	}
}

func TestIncrementalsMapEveryPageToItsLastGeneration(t *testing.T) {
	r, _ := repotest.New(t)
	ctx := t.Context()
	first := sampleTree()
	if _, err := writeFull(ctx, r, repotest.ID(1), first, smallPacks()); err != nil {
		t.Fatal(err)
	}
	states := []tree{first}
	change := func(f func(tree)) {
		next := tree{}
		for path, data := range states[len(states)-1] {
			next[path] = slices.Clone(data)
		}
		f(next)
		n := len(states)
		if _, err := writeIncremental(ctx, r, repotest.ID(n+1), repotest.ID(n), states[n-1], next); err != nil {
			t.Fatal(err)
		}
		states = append(states, next)
	}
	big := "base/1/big"
	change(func(t tree) { // scattered pages
		for _, p := range []int{0, 3, 17, 18, 40, 41, 42, 43, 44, 69} {
			copy(t[big][p*bs:], pages(uint64(100+p), 1, 0))
		}
	})
	change(func(t tree) { t[big] = append(t[big][:50*bs], pages(200, 5, 0)...) }) // shrinks, with other pages at the end
	change(func(t tree) { t[big] = append(t[big], pages(300, 30, 0)...) })        // grows over what an older one held
	change(func(t tree) { copy(t[big], pages(400, 85, 0)) })                      // nothing of the older ones is left
	change(func(t tree) { delete(t, "base/1/2619"); t["base/1/new"] = pages(5, 40, 0) })
	for i, want := range states {
		got, err := readBack(ctx, r, repotest.ID(i+1))
		if err != nil {
			t.Fatalf("backup %d: %v", i+1, err)
		}
		sameTree(t, got, want)
	}
	for _, limit := range []int{1, 100} { // the tables of one file, and of a few
		defer repo.LimitTables(limit)()
		got, err := readBack(ctx, r, repotest.ID(4))
		if err != nil {
			t.Fatalf("with %d bytes of frame tables at a time: %v", limit, err)
		}
		sameTree(t, got, states[3])
	}

	m, err := r.OpenManifest(ctx, repotest.ID(5))
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range m.Entries(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Path == big {
			maps, err := m.ReadMaps(ctx, []repo.Entry{e})
			if err != nil {
				t.Fatal(err)
			}
			if g := maps[0].Generations; len(g) != 1 || g[0].Backup != repotest.ID(5) {
				t.Errorf("a file rewritten whole still has generations %v", g)
			}
		}
	}
}

func TestOnlyLivePagesAreFetched(t *testing.T) {
	_, store := repotest.New(t)
	count := &counting{Store: store}
	r := repo.Open(count, repotest.Cluster, repo.Options{})
	ctx := t.Context()
	before := tree{"base/1/big": pages(1, 512, 0)}
	if _, err := writeFull(ctx, r, repotest.ID(1), before, repo.WriteOptions{PackSize: 64 << 10}); err != nil {
		t.Fatal(err)
	}
	next := tree{"base/1/big": slices.Clone(before["base/1/big"])}
	copy(next["base/1/big"], pages(2, 480, 0)) // of 512 pages, 32 stay: the last four frames
	if _, err := writeIncremental(ctx, r, repotest.ID(2), repotest.ID(1), before, next); err != nil {
		t.Fatal(err)
	}
	m, err := r.OpenManifest(ctx, repotest.ID(2))
	if err != nil {
		t.Fatal(err)
	}
	entry := onlyEntry(t, m)

	reads := map[repo.BackupID]int{}
	for rd, err := range m.Locate(ctx, repo.Values([]repo.Want{{Entry: entry}})) {
		if err != nil {
			t.Fatal(err)
		}
		reads[rd.Backup]++
	}
	if want := map[repo.BackupID]int{repotest.ID(1): 4, repotest.ID(2): 60}; !maps.Equal(reads, want) {
		t.Errorf("reads per generation: %v, want %v", reads, want)
	}

	// A subset: two pages of the old generation, one of the new.
	wanted := func(p uint32) bool { return p == 5 || p == 500 || p == 511 }
	got := map[uint32]bool{}
	count.gets, count.bytes = 0, 0
	err = m.Fetch(ctx, m.Locate(ctx, repo.Values([]repo.Want{{Entry: entry, Pages: wanted}})), repo.FetchOptions{Workers: 1, Gap: -1}, func(_ context.Context, rd repo.Read, raw []byte) error {
		for first, b := range rd.Runs(raw, bs) {
			for i := range len(b) / bs {
				got[first+uint32(i)] = true
				if string(b[i*bs:(i+1)*bs]) != string(next["base/1/big"][(int(first)+i)*bs:][:bs]) {
					t.Errorf("page %d differs", first+uint32(i))
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := map[uint32]bool{5: true, 500: true, 511: true}; !maps.Equal(got, want) {
		t.Errorf("pages %v, want %v", got, want)
	}
	if count.gets > 6 || count.bytes > 100<<10 { // a map, two tables, three frames
		t.Errorf("%d requests for %d bytes", count.gets, count.bytes)
	}
}

// named gives how many packs of each generation a backup leans on.
func named(m *repo.Manifest) map[repo.BackupID]int {
	out := map[repo.BackupID]int{}
	for _, p := range m.Packs {
		out[p.Backup]++
	}
	return out
}

func TestABackupNamesOnlyThePacksThatAreStillNeeded(t *testing.T) {
	_, store := repotest.New(t)
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	ctx := t.Context()
	const path = "base/1/big"
	one, half := repo.WriteOptions{PackSize: 1}, repotest.ID(2) // each frame a pack
	states := []tree{{path: pages(1, 64, 0), "note": []byte("a")}}
	if _, err := writeFull(ctx, r, repotest.ID(1), states[0], one); err != nil {
		t.Fatal(err)
	}
	next := func(id, parent repo.BackupID, f func(b []byte)) *repo.Manifest {
		t.Helper()
		before := states[len(states)-1]
		after := tree{path: slices.Clone(before[path]), "note": before["note"]}
		f(after[path])
		if _, err := writeIncremental(ctx, r, id, parent, before, after); err != nil {
			t.Fatal(err)
		}
		states = append(states, after)
		m, err := r.OpenManifest(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	full := 8 + 1 + 2 // frames, the bundle, table and map
	m := next(half, repotest.ID(1), func(b []byte) { copy(b, pages(2, 31, 0)) })
	if got, want := named(m)[repotest.ID(1)], 5+1; got != want {
		t.Errorf("with one page left in the fourth of eight frames: %d packs of the full backup, want %d of %d (five and the table)", got, want, full)
	}
	m = next(repotest.ID(3), half, func(b []byte) { copy(b[31*bs:], pages(3, 1, 0)) })
	if got, want := named(m)[repotest.ID(1)], 4+1; got != want {
		t.Errorf("with four frames left: %d packs of the full backup, want %d", got, want)
	}
	m = next(repotest.ID(4), repotest.ID(3), func([]byte) {})
	if got, want := named(m), map[repo.BackupID]int{repotest.ID(1): 5, half: 2, repotest.ID(3): 2, repotest.ID(4): 1}; !maps.Equal(got, want) {
		t.Errorf("nothing changed: %v, want %v (and the map's pack)", got, want)
	}
	m = next(repotest.ID(5), repotest.ID(4), func(b []byte) { copy(b, pages(5, 64, 0)) })
	if got := named(m); len(got) != 1 || len(m.Generations) != 1 {
		t.Errorf("everything changed: %v, generations %v", got, m.Generations)
	}

	// What is not named is not needed.
	m, err := r.OpenManifest(ctx, repotest.ID(4))
	if err != nil {
		t.Fatal(err)
	}
	needed := map[string]bool{r.Key(repo.Key{Kind: repo.KeyManifest, ID: m.ID()}): true}
	for _, p := range m.Packs {
		needed[r.Key(repo.Key{Kind: repo.KeyPack, ID: p.Backup, Number: p.Number})] = true
	}
	for _, k := range keys(t, store) {
		if !needed[k] {
			if err := store.Delete(ctx, k); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := readBack(ctx, r, m.ID())
	if err != nil {
		t.Fatal(err)
	}
	sameTree(t, got, states[3])
}

func onlyEntry(t *testing.T, m *repo.Manifest) repo.Entry {
	t.Helper()
	var out []repo.Entry
	for e, err := range m.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	if len(out) != 1 {
		t.Fatalf("%d entries, want 1", len(out))
	}
	return out[0]
}

func TestAFetchMergesNeighboursAndDecodesABundleOnce(t *testing.T) {
	_, store := repotest.New(t)
	count := &counting{Store: store}
	r := repo.Open(count, repotest.Cluster, repo.Options{})
	small := tree{}
	for i := range 300 {
		small[strings.Repeat("d", i%7+1)+string(rune('a'+i%26))+"/f"+strings.Repeat("x", i)] = pages(uint64(i), 1, 100+i)
	}
	if _, err := writeFull(t.Context(), r, repotest.ID(1), small, repo.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	count.gets = 0
	got, err := readBack(t.Context(), r, repotest.ID(1))
	if err != nil {
		t.Fatal(err)
	}
	sameTree(t, got, small)
	if count.gets > 3 { // the manifest twice, one range of the only pack
		t.Errorf("%d requests for 300 small files in one pack: %v", count.gets, count.keys)
	}
}

func TestAListingReadsTheBeginningOnlyAndKeepsWhatIsDamaged(t *testing.T) {
	store := mem.New()
	count := &counting{Store: store}
	r := repo.Open(count, repotest.Cluster, repo.Options{})
	ctx := t.Context()
	big := repotest.Backup(repotest.ID(2))
	big.DamagedPages = repo.MaxDamage
	for i := range repo.MaxDamage { // a description beyond 64 KiB even when compressed
		big.Damage = append(big.Damage, repo.DamagedPage{File: repo.DigestOf(pages(uint64(i), 1, 0)).String() + strings.Repeat(repo.DigestOf([]byte{byte(i), byte(i >> 8)}).String(), 4), Block: uint32(i)})
	}
	if _, err := writeFull(ctx, r, repotest.ID(1), sampleTree(), smallPacks()); err != nil {
		t.Fatal(err)
	}
	w, err := r.Create(ctx, repotest.ID(2), repo.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(ctx, repo.Contents{Backup: big, Entries: repo.Values[repo.Entry](nil)}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	damaged := object(t, store, r.Key(repo.Key{Kind: repo.KeyManifest, ID: repotest.ID(1)}))
	damaged[150] ^= 1
	put(t, store, r.Key(repo.Key{Kind: repo.KeyManifest, ID: repotest.ID(3)}), damaged)
	put(t, store, r.Key(repo.Key{Kind: repo.KeyManifest, ID: repotest.ID(1)})+"x", []byte("?"))

	list, err := r.Backups(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 4 {
		t.Fatalf("%d backups listed, want 4", len(list))
	}
	if list[0].Err != nil || list[0].Backup.ID != repotest.ID(1) {
		t.Errorf("first: %+v", list[0])
	}
	if list[1].ID != 0 || !errors.Is(list[1].Err, repo.ErrCorrupt) {
		t.Errorf("a key that is no backup id: %+v", list[1])
	}
	if list[2].Err != nil || len(list[2].Backup.Damage) != repo.MaxDamage {
		t.Errorf("long description: %v", list[2].Err)
	}
	if list[3].ID != repotest.ID(3) || !errors.Is(list[3].Err, repo.ErrCorrupt) {
		t.Errorf("damaged: %+v", list[3])
	}

	store.Delete(ctx, r.Key(repo.Key{Kind: repo.KeyManifest, ID: repotest.ID(3)}))
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := r.Backups(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled listing: %v", err)
	}
}

func put(t testing.TB, s storage.Store, key string, b []byte) {
	t.Helper()
	if err := storage.PutBytes(context.Background(), s, key, b, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestCommitRefuses(t *testing.T) {
	good := func(w *repo.Writer, e repo.Entry) repo.Contents {
		return repo.Contents{Backup: repotest.Backup(w.ID()), Entries: repo.Values([]repo.Entry{e})}
	}
	other := repotest.ID(99)
	tests := map[string]struct {
		contents func(w *repo.Writer, e repo.Entry) repo.Contents
		want     string
	}{
		"a description of another backup": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			c := good(w, e)
			c.Backup.ID = other
			return c
		}, "not of what was written"},
		"another cluster": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			c := good(w, e)
			c.Backup.SystemID++
			return c
		}, "not of what was written"},
		"a description that is not whole": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			c := good(w, e)
			c.Backup.Stop.Timeline = 7
			return c
		}, "history of timeline 7"},
		"an incremental without a parent": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			c := good(w, e)
			c.Backup.Kind = repo.Incremental
			return c
		}, "names its parent"},
		"a start past the switch point": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			c := good(w, e)
			c.Backup.Start.Timeline = 1
			return c
		}, "not on the history"},
		"an older pack that is not there": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			e.Bundle = &repo.BundleRef{Generation: 1, Place: e.Bundle.Place}
			c := good(w, e)
			c.Generations = []repo.BackupID{other}
			c.Packs = []repo.Pack{{PackRef: repo.PackRef{Backup: other, Number: e.Bundle.Pack}, Size: 5000}}
			return c
		}, "backup leans"},
		"a page map that leads nowhere": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			e.Map, e.Bundle = &repo.MapRef{Place: e.Bundle.Place, File: e.File}, nil
			return good(w, e)
		}, "leads to no pack"},
		"a page map that leads to a pack that does not exist": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			e.Map, e.Bundle = &repo.MapRef{Place: e.Bundle.Place, File: e.File, Packs: []repo.PackRef{{Backup: w.ID(), Number: 77}}}, nil
			return good(w, e)
		}, "not in the manifest"},
		"an older pack of no generation": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			c := good(w, e)
			c.Packs = []repo.Pack{{PackRef: repo.PackRef{Backup: other, Number: 1}, Size: 5000}}
			return c
		}, "no generation"},
		"entries out of order": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			c, f := good(w, e), e
			f.File++
			c.Entries = repo.Values([]repo.Entry{e, f})
			return c
		}, "follows"},
		"a file number given twice": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			c, f := good(w, e), e
			f.Path += "2"
			c.Entries = repo.Values([]repo.Entry{e, f})
			return c
		}, "is taken"},
		"a path out of the directory": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			e.Path = "../" + e.Path
			return good(w, e)
		}, "clean relative path"},
		"content in a pack that does not exist": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			e.Bundle = &repo.BundleRef{Place: repo.Place{Pack: 77, Offset: 64, Length: 100}}
			return good(w, e)
		}, "not in the manifest"},
		"content outside of its pack": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			b := *e.Bundle
			b.Offset += 5000
			e.Bundle = &b
			return good(w, e)
		}, "outside of pack"},
		"a file without content": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			e.Bundle = nil
			return good(w, e)
		}, "in a bundle: false"},
		"an iterator that fails": {func(w *repo.Writer, e repo.Entry) repo.Contents {
			c := good(w, e)
			c.Entries = func(yield func(repo.Entry, error) bool) { yield(repo.Entry{}, errors.New("scan broke")) }
			return c
		}, "scan broke"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, store := repotest.New(t)
			w, err := r.Create(t.Context(), repotest.ID(1), repo.WriteOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			p := w.Pack()
			f, err := p.WriteBundle(t.Context(), []repo.Member{{File: 1, Data: []byte("content")}})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			e := repo.Entry{File: 1, Path: "a", Size: 7, Bundle: &repo.BundleRef{Place: f.Place}, Digest: repo.DigestOf([]byte("content"))}
			_, err = w.Commit(t.Context(), test.contents(w, e))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			if k := keys(t, store); len(k) != 1 || !strings.Contains(k[0], "/pack/") {
				t.Errorf("stored: %q, want the pack alone", k)
			}
		})
	}
}

func TestAWriterRefusesWhatNoReaderWouldTake(t *testing.T) {
	r, store := repotest.New(t)
	w, err := r.Create(t.Context(), repotest.ID(1), repo.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p, ctx := w.Pack(), t.Context()
	run := func(file, first uint32, n int) error {
		_, err := p.WriteRun(ctx, file, first, make([]byte, n))
		return err
	}
	list := func(n int, pages ...uint32) error { _, err := p.WriteList(ctx, 1, pages, make([]byte, n)); return err }
	bundle := func(m ...repo.Member) error { _, err := p.WriteBundle(ctx, m); return err }
	writeMap := func(frames []repo.Frame, m repo.PageMap) error {
		_, err := w.WriteMap(ctx, 1, frames, m, nil)
		return err
	}
	at := func(first, count uint32) repo.Frame {
		return repo.Frame{Place: repo.Place{Pack: 1, Offset: 64, Length: 100}, First: first, Count: count}
	}
	for name, err := range map[string]error{
		"file number 0":            run(0, 0, bs),
		"an empty run":             run(1, 0, 0),
		"more than a frame holds":  run(1, 0, repo.MaxFrame+1),
		"a page past 2^32":         run(1, 1<<32-1, 2*bs),
		"an empty list":            list(0),
		"a list out of order":      list(2*bs, 5, 4),
		"a list of another length": list(3*bs, 4, 5),
		"an empty bundle":          bundle(),
		"an empty member":          bundle(repo.Member{File: 1}),
		"a bundle too large":       bundle(repo.Member{File: 1, Data: make([]byte, repo.MaxFrame*5/8)}, repo.Member{File: 2, Data: make([]byte, repo.MaxFrame*5/8)}),
		"a map without its frames": writeMap(nil, repo.NewPageMap(repotest.ID(1), 1)),
		"a map with a hole":        writeMap([]repo.Frame{at(0, 3), at(4, 2)}, repo.NewPageMap(repotest.ID(1), 6)),
		"frames that overlap":      writeMap([]repo.Frame{at(0, 3), at(2, 4)}, repo.NewPageMap(repotest.ID(1), 6)),
		"frames of no generation":  writeMap([]repo.Frame{at(0, 3)}, repo.NewPageMap(repotest.ID(2), 3)),
	} {
		if err == nil {
			t.Errorf("%s was taken", name)
		} else if errors.Is(err, repo.ErrCorrupt) {
			t.Errorf("%s: %v: nothing is damaged", name, err)
		}
	}
	if _, err := w.Commit(ctx, repo.Contents{}); err == nil || !strings.Contains(err.Error(), "not closed") {
		t.Errorf("commit with an open pack writer: %v", err)
	}
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if k := keys(t, store); len(k) != 0 {
		t.Errorf("stored: %q", k)
	}
}

func TestAManifestOfManyFilesIsSpooledToAFile(t *testing.T) {
	_, store := repotest.New(t)
	r := repo.Open(store, repotest.Cluster, repo.Options{Level: repo.NoCompression})
	w, err := r.Create(t.Context(), repotest.ID(1), repo.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const n = 150000
	entries := func(yield func(repo.Entry, error) bool) {
		for i := range n {
			d := repo.DigestOf([]byte{byte(i), byte(i >> 8), byte(i >> 16)}).String()
			e := repo.Entry{Dir: true, Path: "base/" + string([]byte{'a' + byte(i>>15), 'a' + byte(i>>10&31), 'a' + byte(i>>5&31), 'a' + byte(i&31)}) + d}
			if !yield(e, nil) {
				return
			}
		}
	}
	b, err := w.Commit(t.Context(), repo.Contents{Backup: repotest.Backup(repotest.ID(1)), Entries: iter.Seq2[repo.Entry, error](entries)})
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.Backups(t.Context())
	if err != nil || len(list) != 1 || list[0].Object.Size < 4<<20 {
		t.Fatalf("%d listed, %v: want a manifest larger than what is kept in memory", len(list), err)
	}
	m, err := r.OpenManifest(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for _, err := range m.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got++
	}
	if got != n {
		t.Errorf("%d entries, want %d", got, n)
	}
}

func TestTheLargestFrames(t *testing.T) {
	for name, test := range map[string]struct{ blockSize, pages, tooMany int }{
		"64 pages of 4 KiB":  {4096, 64, 65},
		"64 pages of 1 KiB":  {1024, 64, 65},
		"64 pages of 8 KiB":  {8192, 64, 65},
		"16 pages of 32 KiB": {32768, 16, 17},
		"64 pages of 2 KiB":  {2048, 64, 65},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			r, _ := repotest.New(t)
			w, err := r.Create(ctx, repotest.ID(1), repo.WriteOptions{BlockSize: test.blockSize})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			want := pages(1, (test.tooMany*test.blockSize+bs-1)/bs, 0)[:test.tooMany*test.blockSize]
			p := w.Pack()
			if _, err := p.WriteRun(ctx, 1, 0, want); err == nil {
				t.Errorf("%d pages were taken", test.tooMany)
			}
			want = want[:test.pages*test.blockSize]
			f, err := p.WriteRun(ctx, 1, 0, want)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Close(ctx); err != nil {
				t.Fatal(err)
			}
			ref, err := w.WriteMap(ctx, 1, []repo.Frame{f}, repo.NewPageMap(w.ID(), uint32(test.pages)), nil)
			if err != nil {
				t.Fatal(err)
			}
			b := repotest.Backup(w.ID())
			b.BlockSize = test.blockSize
			e := repo.Entry{File: 1, Path: "base/1/1", Size: int64(len(want)), Map: &ref}
			if _, err := w.Commit(ctx, repo.Contents{Backup: b, Entries: repo.Values([]repo.Entry{e})}); err != nil {
				t.Fatal(err)
			}
			m, err := r.OpenManifest(ctx, w.ID())
			if err != nil {
				t.Fatal(err)
			}
			last := uint32(test.pages - 1)
			for name, wanted := range map[string]func(uint32) bool{"all": nil, "the last page": func(p uint32) bool { return p == last }} {
				got := make([]byte, len(want))
				err := m.Fetch(ctx, m.Locate(ctx, repo.Values([]repo.Want{{Entry: e, Pages: wanted}})), repo.FetchOptions{}, func(_ context.Context, rd repo.Read, raw []byte) error {
					for first, b := range rd.Runs(raw, test.blockSize) {
						copy(got[int(first)*test.blockSize:], b)
					}
					return nil
				})
				have := want
				if wanted != nil {
					have = append(make([]byte, int(last)*test.blockSize), want[int(last)*test.blockSize:]...)
				}
				if err != nil || !bytes.Equal(got, have) {
					t.Errorf("%s: %v, content the same: %t", name, err, bytes.Equal(got, have))
				}
			}
		})
	}
}
