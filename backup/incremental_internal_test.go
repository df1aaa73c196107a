package backup

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/meter"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// line is a directory that changes and is backed up again and again. Its WAL is
// a block map; LSNs count up.
type line struct {
	*source
	repo  *repo.Repo
	meter *meter.Store
	rng   *rand.Rand
	wal   *wal.BlockMap // since the last backup
	lsn   pg.LSN
	n     int // backups so far
	byLSN bool
	quiet bool  // backups are not compared
	read  int64 // by the last backup
}

func newLine(t *testing.T, seed uint64) *line {
	t.Helper()
	inner := mem.New()
	m := meter.New(inner)
	l := &line{source: newSource(t), repo: repo.Open(m, repotest.Cluster, repo.Options{}), meter: m, rng: rand.New(rand.NewPCG(seed, 2)), wal: new(wal.BlockMap), lsn: 0x10000}
	old := time.Unix(1e9, 0)
	l.write("base/5/PG_VERSION", []byte("17\n"))
	if err := os.Chtimes(filepath.Join(l.dir.Root, "base/5/PG_VERSION"), old, old); err != nil {
		t.Fatal(err)
	}
	l.write("pg_xact/0000", noise(100<<10))
	l.write("postgresql.conf", []byte("port = 1"))
	l.write("base/5/16384_vm", relation(1))
	return l
}

// page gives a page that changed now.
func (l *line) page(block uint32) []byte {
	l.lsn += 8
	p := soundPage(block, l.lsn)
	for i := 4000; i < testPage; i += 8 { // does not compress
		binary.LittleEndian.PutUint64(p[i:], l.rng.Uint64())
	}
	clear(p[8:10])
	binary.LittleEndian.PutUint16(p[8:], pg.PageChecksum(p, block))
	return p
}

func rel(number uint32) wal.Relation {
	return wal.Relation{Tablespace: pg.DefaultTablespace, Database: 5, Number: number}
}

func path5(number uint32) string { return fmt.Sprintf("base/5/%d", number) }

// edit changes a relation's file and lets WAL know.
func (l *line) edit(number uint32, change func(pages [][]byte) [][]byte) {
	l.t.Helper()
	name := filepath.Join(l.dir.Root, path5(number))
	old, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		l.t.Fatal(err)
	}
	var pages [][]byte
	for i := 0; i < len(old); i += testPage {
		pages = append(pages, old[i:i+testPage])
	}
	l.write(path5(number), bytes.Join(change(pages), nil))
}

// update changes n random pages.
func (l *line) update(number uint32, n int) {
	l.t.Helper()
	info, err := os.Stat(filepath.Join(l.dir.Root, path5(number)))
	if err != nil {
		l.t.Fatal(err)
	}
	for range n {
		l.change(number, uint32(l.rng.IntN(int(info.Size()/testPage))))
	}
}

// change changes one page in place.
func (l *line) change(number, block uint32) {
	l.t.Helper()
	f, err := os.OpenFile(filepath.Join(l.dir.Root, path5(number)), os.O_WRONLY, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(l.page(block), int64(block)*testPage); err != nil {
		l.t.Fatal(err)
	}
	l.wal.Mark(rel(number), wal.Main, block)
}

// grow adds n pages, some of them empty and without a record.
func (l *line) grow(number uint32, n int) {
	l.edit(number, func(pages [][]byte) [][]byte {
		for range n {
			block := uint32(len(pages))
			if l.rng.IntN(4) == 0 {
				pages = append(pages, make([]byte, testPage))
				continue
			}
			pages = append(pages, l.page(block))
			l.wal.Mark(rel(number), wal.Main, block)
		}
		return pages
	})
}

// cut leaves n pages.
func (l *line) cut(number uint32, n int) {
	l.edit(number, func(pages [][]byte) [][]byte {
		n = min(n, len(pages))
		l.wal.Truncate(rel(number), wal.Main, uint32(n))
		return pages[:n]
	})
}

// drop removes a relation, or makes it anew with n pages.
func (l *line) drop(number uint32, n int) {
	l.wal.Truncate(rel(number), wal.Main, 0)
	if err := os.Remove(filepath.Join(l.dir.Root, path5(number))); err != nil && !os.IsNotExist(err) {
		l.t.Fatal(err)
	}
	if n > 0 {
		l.grow(number, n)
	}
}

func (l *line) id() repo.BackupID { return repotest.ID(l.n) }

// backUp takes a backup on the last one, and compares what it holds with the
// directory.
func (l *line) backUp(t *testing.T) {
	t.Helper()
	files, err := scan(t.Context(), l.dir, testPage, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	parentID := l.id()
	l.n++
	w, err := l.repo.Create(t.Context(), l.id(), repo.WriteOptions{PackSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p := testPages(false)
	p.segment = relseg
	c := &copier{root: l.dir.Root, blockSize: testPage, writer: w, pages: p, rate: &rate{}}
	description := repotest.Backup(l.id())
	description.Start.LSN, description.Stop.LSN = l.lsn, l.lsn+1
	contents := repo.Contents{Backup: description}
	if l.n > 1 {
		parent, err := l.repo.OpenManifest(t.Context(), parentID)
		if err != nil {
			t.Fatal(err)
		}
		if err := attach(t.Context(), parent, files); err != nil {
			t.Fatal(err)
		}
		c.selector = &selector{parent: &parent.Backup, blocks: l.wal, block: testPage, segment: relseg}
		if l.byLSN {
			c.selector.blocks, c.selector.fresh = nil, freshDatabases(&parent.Backup, files)
		}
		c.overlays = overlaysOn(parent)
		expected := c.selector.distribute(files)
		defer func() {
			// What is read twice is what turned out to be new.
			if l.read = c.bytes.Load(); l.read < expected && expected > 0 {
				t.Errorf("backup %d read %d bytes, %d were expected", l.n, l.read, expected)
			}
		}()
		contents.Backup.Kind, contents.Backup.Parent = repo.Incremental, parentID
		contents.Generations, contents.Packs = parent.Generations, parent.Packs
	}
	if err := c.run(t.Context(), files, 2); err != nil {
		t.Fatal(err)
	}
	contents.Entries = (&image{files: files}).entries()
	if _, err := w.Commit(t.Context(), contents); err != nil {
		t.Fatal(err)
	}
	l.wal = new(wal.BlockMap)
	l.lsn += 8
	if l.quiet {
		return
	}
	l.compare(t)
}

func (l *line) compare(t *testing.T) {
	t.Helper()
	for name, got := range content(t, l.repo, l.id()) {
		if strings.HasSuffix(name, "/") {
			continue
		}
		want, err := os.ReadFile(filepath.Join(l.dir.Root, name))
		if err != nil {
			t.Fatal(err)
		}
		if len(want) != len(got) {
			t.Fatalf("backup %d: %s has %d bytes, not %d", l.n, name, len(got), len(want))
		}
		for at := 0; at < len(want); at += testPage {
			if end := min(at+testPage, len(want)); !bytes.Equal(want[at:end], got[at:end]) {
				t.Fatalf("backup %d: %s differs in page %d", l.n, name, at/testPage)
			}
		}
	}
}

func TestEachOfManyIncrementalsIsACompleteImage(t *testing.T) {
	for _, byLSN := range []bool{false, true} {
		t.Run(fmt.Sprintf("by LSN %t", byLSN), func(t *testing.T) {
			for seed := range uint64(3) {
				l := newLine(t, seed)
				l.byLSN = byLSN
				defer repotest.Check(t, l.meter)
				for i := range uint32(6) {
					l.grow(16384+i, 1+l.rng.IntN(60))
				}
				l.backUp(t)
				for range 12 {
					for range 1 + l.rng.IntN(6) {
						n := 16384 + uint32(l.rng.IntN(6))
						if _, err := os.Stat(filepath.Join(l.dir.Root, path5(n))); err != nil {
							l.drop(n, 1+l.rng.IntN(40))
							continue
						}
						switch l.rng.IntN(8) {
						case 0, 1, 2:
							if info, _ := os.Stat(filepath.Join(l.dir.Root, path5(n))); info.Size() > 0 {
								l.update(n, 1+l.rng.IntN(5))
							}
						case 3:
							l.grow(n, 1+l.rng.IntN(30))
						case 4:
							l.cut(n, l.rng.IntN(40))
							l.grow(n, l.rng.IntN(20))
						case 5:
							l.cut(n, l.rng.IntN(60))
						case 6:
							l.drop(n, l.rng.IntN(30))
						case 7:
							l.write("base/5/16384_vm", relation(1+l.rng.IntN(20)))
							l.write("postgresql.conf", noise(l.rng.IntN(100)))
						}
					}
					l.backUp(t)
				}
			}
		})
	}
}

func TestAnIncrementalReadsWhatChangedAndRestoresEachPageOnce(t *testing.T) {
	l := newLine(t, 1)
	const pages = 1000
	l.edit(16384, func([][]byte) [][]byte {
		var out [][]byte
		for i := range uint32(pages) {
			out = append(out, l.page(i))
		}
		return out
	})
	l.backUp(t)
	one := l.meter.Counts()
	content(t, l.repo, l.id())
	one = l.meter.Counts().Sub(one)
	for i := range 60 {
		l.quiet = i < 59
		l.update(16384, 4)
		l.backUp(t)
		// Four pages, the commit log, and the small files.
		if most := int64(4*testPage + 100<<10 + 4*testPage); l.read > most {
			t.Fatalf("backup %d read %d bytes, more than %d", l.n, l.read, most)
		}
	}
	last := l.meter.Counts()
	content(t, l.repo, l.id())
	last = l.meter.Counts().Sub(last)
	if last.BytesDown > one.BytesDown*13/10 {
		t.Errorf("restoring backup %d fetched %d bytes, the full one %d", l.n, last.BytesDown, one.BytesDown)
	}
	if last.Get > one.Get+4*60 {
		t.Errorf("restoring backup %d took %d requests, the full one %d", l.n, last.Get, one.Get)
	}
}

func TestAFileScatteredOverTooManyBackupsIsStoredAnew(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 260 backups")
	}
	l := newLine(t, 1)
	l.grow(16384, 300)
	l.backUp(t)
	for i := range uint32(260) {
		l.change(16384, i)
		l.quiet = l.n < 250
		l.backUp(t)
	}
}

func TestADamagedPageMapOfTheParentCostsOneFile(t *testing.T) {
	l := newLine(t, 1)
	l.grow(16384, 100)
	l.grow(16385, 100)
	l.backUp(t)
	m, err := l.repo.OpenManifest(t.Context(), l.id())
	if err != nil {
		t.Fatal(err)
	}
	var bad repo.MapRef
	for e, err := range m.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Path == path5(16384) {
			bad = *e.Map
		}
	}
	inner := l.meter.Unwrap()
	key := l.repo.Key(repo.Key{Kind: repo.KeyPack, ID: m.ID(), Number: bad.Pack})
	broken := read(t, inner, key)
	broken[bad.Offset+uint64(bad.Length)-1] ^= 1
	if err := inner.Put(t.Context(), key, bytes.NewReader(broken), int64(len(broken)), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	l.update(16384, 3)
	l.update(16385, 3)
	l.backUp(t) // compares
	if l.read < 100*testPage {
		t.Errorf("read %d bytes: the file whose map is damaged was not read whole", l.read)
	}
}

func read(t *testing.T, s storage.Store, key string) []byte {
	t.Helper()
	src, err := s.Get(t.Context(), key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(src); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
