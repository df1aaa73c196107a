package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
)

// sparse is a line whose largest file is longer than a range, with few changes
// since its full backup.
func sparse(t *testing.T) *line {
	t.Helper()
	l := newLine(t, 5)
	l.grow(16384, 1500)
	l.grow(16385, 300)
	l.backUp(t)
	for range 3 {
		l.update(16384, 8)
		l.backUp(t)
	}
	return l
}

// framesOf gives the frames of one backup's packs by codec, and how often each
// run of a file was stored.
func framesOf(t *testing.T, r *repo.Repo, packs []repo.Pack) (codecs map[repo.Codec]int, runs map[[2]uint32]int) {
	t.Helper()
	codecs, runs = map[repo.Codec]int{}, map[[2]uint32]int{}
	for _, p := range packs {
		index, err := r.ReadPackIndex(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range index.Frames {
			if f.Kind == repo.FrameRun {
				codecs[f.Codec]++
				runs[[2]uint32{f.File, f.First}]++
			}
		}
	}
	return codecs, runs
}

func (l *line) sameAs(t *testing.T, id repo.BackupID) {
	t.Helper()
	for name, got := range content(t, l.repo, id) {
		if strings.HasSuffix(name, "/") {
			continue
		}
		want, err := os.ReadFile(filepath.Join(l.dir.Root, name))
		if err != nil || !bytes.Equal(want, got) {
			t.Errorf("%s differs (%v)", name, err)
		}
	}
}

func TestASyntheticBackupKeepsFramesThatAreLiveAsAWhole(t *testing.T) {
	l := sparse(t)
	// What is made anew is not compressed, and so told apart.
	plain := repo.Open(l.meter, repotest.Cluster, repo.Options{Level: repo.NoCompression})
	b, err := Synthesize(t.Context(), SynthesizeOptions{Repo: plain, ToolVersion: "test", Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	m, err := l.repo.OpenManifest(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	codecs, _ := framesOf(t, l.repo, m.Packs)
	if kept, made := codecs[repo.CodecZstd], codecs[repo.CodecNone]; kept == 0 || made == 0 {
		t.Errorf("%d frames were kept and %d made anew; both were to be expected", kept, made)
	}
	l.sameAs(t, b.ID)
	repotest.Check(t, l.meter)
}

// killing is a store in which the first packs are put before the process dies:
// those whose numbers are the lowest. Several are put at the same time, in no
// order.
type killing struct {
	storage.Store
	last   uint32 // number of the last pack that is stored
	kill   func()
	stored sync.WaitGroup
}

func newKilling(s storage.Store, packs uint32, kill func()) *killing {
	k := &killing{Store: s, last: packs, kill: kill}
	k.stored.Add(int(packs))
	return k
}

func (k *killing) Put(ctx context.Context, key string, src io.ReaderAt, size int64, o storage.PutOptions) error {
	p, err := repo.ParseKey(key)
	switch {
	case err != nil || p.Kind != repo.KeyPack:
		return k.Store.Put(ctx, key, src, size, o)
	case p.Number > k.last:
		k.stored.Wait()
		k.kill()
		return context.Cause(ctx)
	}
	defer k.stored.Done()
	return k.Store.Put(ctx, key, src, size, o)
}

func TestAKilledSynthesisIsGoneOnWith(t *testing.T) {
	l := sparse(t)
	o := SynthesizeOptions{Repo: l.repo, ToolVersion: "test", Workers: 1, packSize: 256 << 10, gone: func(repo.Running) bool { return true }}
	ctx, kill := context.WithCancelCause(t.Context())
	dead := errors.New("killed")
	first := o
	packs := func() []repo.Pack {
		stored, err := l.repo.StoredPacks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for id, packs := range stored {
			if id > l.id() {
				return packs
			}
		}
		return nil
	}
	first.Repo = repo.Open(newKilling(l.meter, 4, func() { kill(dead) }), repotest.Cluster, repo.Options{})
	if _, err := Synthesize(ctx, first); !errors.Is(err, dead) {
		t.Fatalf("got %v", err)
	}
	before := packs()
	if len(before) != 4 {
		t.Fatalf("%d packs are left", len(before))
	}
	_, had := framesOf(t, l.repo, before)
	b, err := Synthesize(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if b.ID != before[0].Backup {
		t.Fatalf("made %s, not what was begun as %s", b.ID, before[0].Backup)
	}
	m, err := l.repo.OpenManifest(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Packs) <= len(before) || b.Packs != int64(len(m.Packs)) {
		t.Errorf("%d packs in the end, %d counted, %d were there before", len(m.Packs), b.Packs, len(before))
	}
	_, runs := framesOf(t, l.repo, m.Packs)
	again := 0
	for run := range had {
		again += runs[run] - 1
	}
	if again > len(had)/2 {
		t.Errorf("of %d frames that were there %d were made again", len(had), again)
	}
	l.sameAs(t, b.ID)
	repotest.Check(t, l.meter)
}

func TestASynthesisThatWasGivenUpIsBegunAnew(t *testing.T) {
	l := sparse(t)
	o := SynthesizeOptions{Repo: l.repo, ToolVersion: "test", Workers: 1, gone: func(repo.Running) bool { return true }}
	ctx, kill := context.WithCancel(t.Context())
	first := o
	first.Progress = func(Progress) { kill() }
	if _, err := Synthesize(ctx, first); err == nil {
		t.Fatal("it was not stopped")
	}
	marked, err := l.repo.RunningBackups(t.Context())
	if err != nil || len(marked) != 1 {
		t.Fatalf("markers %v, %v", marked, err)
	}
	begun := marked[0].ID
	if _, err := l.repo.Fence(t.Context(), begun); err != nil {
		t.Fatal(err)
	}
	b, err := Synthesize(t.Context(), o)
	if err != nil || b.ID == begun {
		t.Fatalf("made %s (given up: %s), %v", b.ID, begun, err)
	}
	l.sameAs(t, b.ID)
	repotest.Check(t, l.meter)
}

// begun leaves a synthetic backup behind that was killed, and gives its id.
func begun(t *testing.T, l *line, o SynthesizeOptions) repo.BackupID {
	t.Helper()
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	o.Repo = repo.Open(newKilling(l.meter, 2, kill), repotest.Cluster, repo.Options{})
	if _, err := Synthesize(ctx, o); err == nil {
		t.Fatal("it was not killed")
	}
	marked, err := l.repo.RunningBackups(t.Context())
	if err != nil || len(marked) != 1 {
		t.Fatalf("markers %v, %v", marked, err)
	}
	return marked[0].ID
}

func TestASynthesisThatMayBeAliveIsLeftAlone(t *testing.T) {
	l := sparse(t)
	o := SynthesizeOptions{Repo: l.repo, ToolVersion: "test", Workers: 1, packSize: 256 << 10, gone: func(repo.Running) bool { return false }}
	id := begun(t, l, o)
	b, err := Synthesize(t.Context(), o)
	if err != nil || b.ID == id {
		t.Fatalf("made %s beside %s, %v", b.ID, id, err)
	}
	marked, err := l.repo.RunningBackups(t.Context())
	if err != nil || len(marked) != 1 || marked[0].ID != id {
		t.Errorf("markers %v, %v; the other's was to be left", marked, err)
	}
	repotest.Check(t, l.meter)
}

func TestASynthesisWithoutASignOfLifeIsGoneOnWithElsewhere(t *testing.T) {
	l := sparse(t)
	o := SynthesizeOptions{Repo: l.repo, Member: "pg1", Host: "h1", ToolVersion: "test", Workers: 1, packSize: 256 << 10, gone: func(repo.Running) bool { return false }}
	id := begun(t, l, o)
	o.Member, o.Host, o.Grace = "pg2", "h2", time.Nanosecond
	if b, err := Synthesize(t.Context(), o); err != nil || b.ID != id {
		t.Fatalf("made %s, not %s, %v", b.ID, id, err)
	}
	l.sameAs(t, id)
	repotest.Check(t, l.meter)
}

// Whoever seemed to be dead may wake up, and write under the id that another has
// gone on with.
func TestPacksOfAWriterThatWakesUpDoNotStay(t *testing.T) {
	l := sparse(t)
	o := SynthesizeOptions{Repo: l.repo, ToolVersion: "test", Workers: 1, packSize: 256 << 10, gone: func(repo.Running) bool { return true }}
	id := begun(t, l, o)
	late, err := l.repo.Create(t.Context(), id, repo.WriteOptions{PackSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	var p *repo.PackWriter
	for range 100 { // the last has a number that the other does not come to
		p = late.Pack()
		if _, err := p.WriteRun(t.Context(), 1, 0, []byte("late")); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := Synthesize(t.Context(), o); err != nil || b.ID != id {
		t.Fatalf("made %s, not %s, %v", b.ID, id, err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	strays := func() (n int) {
		m, err := l.repo.OpenManifest(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := l.repo.StoredPacks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(stored[id]) - len(m.Packs)
	}
	for deadline := time.Now().Add(time.Minute); strays() == 0; { // it is put in the background
		if time.Now().After(deadline) {
			t.Fatal("the late pack does not come")
		}
	}
	x, err := Expire(t.Context(), ExpireOptions{Repo: l.repo, Policy: Policy{Grace: -1, MarkerGrace: -1}})
	if err != nil || strays() != 0 {
		t.Errorf("%d packs are left that the manifest does not name (%v): %+v", strays(), err, x.Items)
	}
	l.sameAs(t, id)
	repotest.Check(t, l.meter)
}

func TestARestOfAFileIsNoSmallFrame(t *testing.T) {
	const page = 8192
	for name, test := range map[string]struct {
		size, n int
		all     bool
		want    int
	}{
		"a frame and more to come":           {128 << 10, 130 << 10, false, 128 << 10},
		"all that is left":                   {128 << 10, 100 << 10, true, 100 << 10},
		"a frame and another":                {128 << 10, 192 << 10, true, 128 << 10},
		"a page too many":                    {128 << 10, 136 << 10, true, 136 << 10},
		"a page too many for one frame":      {repo.MaxFrame, repo.MaxFrame + page, true, repo.MaxFrame / 2},
		"a few bytes too many for one frame": {repo.MaxFrame, repo.MaxFrame + 100, true, repo.MaxFrame / 2},
		"the smallest frame and a page":      {minFrame, minFrame + page, true, minFrame + page},
	} {
		c := newCutter(page)
		c.size = test.size
		if got := c.next(test.n, test.all); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}
