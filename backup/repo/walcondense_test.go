package repo_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// segmentHeader is that of a segment that WAL was judged to be.
func segmentHeader(size pg.SegmentSize) repo.WALHeader {
	h := walHeader()
	h.SegmentSize, h.Segment = size, 6
	h.Flags = repo.WALEndsInside
	h.FirstRecord, h.FirstPrev = h.Start()+40, h.Start()-100
	h.LastRecord, h.LastComplete = h.FirstRecord+5000, h.FirstRecord
	h.End = h.Start() + pg.LSN(size)
	return h
}

// taken archives a segment as the archiver does, judged while it is read.
func taken(t *testing.T, r *repo.Repo, h repo.WALHeader, segment []byte) *repo.WALData {
	t.Helper()
	in := r.TakeWAL(bytes.NewReader(segment), int64(len(segment)))
	defer in.Close()
	if _, err := wal.InspectPieces(in, int64(len(segment)), wal.Expect{Unfinished: true}); err != nil && h.BlockSize != 0 {
		t.Fatal(err)
	}
	d, err := in.Encode(h, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.PutWAL(t.Context(), r.WALKey(&d.Header), d); err != nil {
		t.Fatal(err)
	}
	return d
}

// readsAs compares what is stored with a segment.
func readsAs(t *testing.T, r *repo.Repo, h *repo.WALHeader, segment []byte) {
	t.Helper()
	var got bytes.Buffer
	if _, err := r.ReadWAL(t.Context(), r.WALKey(h), &got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), segment) {
		t.Error("it is read back as another")
	}
}

// condensed counts the chunks that are condensed, by the chunk table.
func condensed(b []byte) (n, all int) {
	le := binary.LittleEndian
	table := b[256+le.Uint32(b[104:])+le.Uint32(b[112:]):]
	all = int(le.Uint32(b[120:]))
	for i := range all {
		if le.Uint32(table[12*i+4:]) < le.Uint32(b[136:]) {
			n++
		}
	}
	return n, all
}

func TestWALIsStoredCondensed(t *testing.T) {
	const size = 4 << 20
	segment := repotest.WAL(1, 6, size)
	r, _ := repotest.New(t)
	d := taken(t, r, segmentHeader(size), segment)
	defer d.Close()
	stored := encoded(t, d)
	if n, all := condensed(stored); n != all || all != 4 {
		t.Errorf("%d chunks of %d are condensed", n, all)
	}
	readsAs(t, r, &d.Header, segment)
	other, err := r.EncodeWAL(segmentHeader(size), nil, nil, bytes.NewReader(segment))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if !bytes.Equal(encoded(t, other), stored) {
		t.Error("it is stored otherwise where nobody judged it")
	}
}

// TestWhatIsDamagedIsStoredAsItIs, chunk by chunk: a CRC that is wrong could not be
// computed by a reader.
func TestWhatIsDamagedIsStoredAsItIs(t *testing.T) {
	const size = 4 << 20
	sound := repotest.WAL(2, 6, size)
	for name, c := range map[string]struct {
		damage func(segment []byte)
		want   int // condensed chunks of 4
	}{
		"a record of the second chunk":     {func(s []byte) { s[1<<20+5000] ^= 1 }, 3},
		"a byte of every chunk":            {func(s []byte) { s[5000] ^= 1; s[1<<20+5000] ^= 1; s[2<<20+5000] ^= 1; s[3<<20+5000] ^= 1 }, 0},
		"the first page's header":          {func(s []byte) { s[2] = 0 }, 0},
		"the size of pages":                {func(s []byte) { s[37] = 0x40 }, 0},
		"a page size that nobody can have": {func(s []byte) { s[36] = 3 }, 0},
		"zeros from the third chunk on":    {func(s []byte) { clear(s[2<<20:]) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			segment := bytes.Clone(sound)
			c.damage(segment)
			h := segmentHeader(size) // as archive-push --accept-damaged stores it
			h.Flags = repo.WALChainBreak | repo.WALNoRecordStart
			h.FirstRecord, h.FirstPrev, h.LastRecord, h.LastComplete = 0, 0, 0, 0
			h.BlockSize, h.FirstTimeline, h.LastTimeline = 0, 0, 0
			r, _ := repotest.New(t)
			d := taken(t, r, h, segment)
			defer d.Close()
			if n, all := condensed(encoded(t, d)); n != c.want || all != 4 {
				t.Errorf("%d chunks of %d are condensed, want %d", n, all, c.want)
			}
			readsAs(t, r, &d.Header, segment)
		})
	}
}

// TestUncompressedWALIsNotCondensed, so that it can be read without any program.
func TestUncompressedWALIsNotCondensed(t *testing.T) {
	const size = 1 << 20
	segment := repotest.WAL(3, 6, size)
	_, store := repotest.New(t)
	r := repo.Open(store, repotest.Cluster, repo.Options{Level: repo.NoCompression})
	d := taken(t, r, segmentHeader(size), segment)
	defer d.Close()
	if b := encoded(t, d); !bytes.HasSuffix(b, segment) {
		t.Error("the object does not end with the segment")
	}
	readsAs(t, r, &d.Header, segment)
}

// TestACondensedChunkThatIsNone, under checksums that are right, is damage.
func TestACondensedChunkThatIsNone(t *testing.T) {
	const size = 1 << 20
	store := mem.New()
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	d := taken(t, r, segmentHeader(size), repotest.WAL(4, 6, size))
	defer d.Close()
	key, le := r.WALKey(&d.Header), binary.LittleEndian
	for name, spoil := range map[string]func(b, entry []byte){
		"it has more bytes than the chunk": func(_, entry []byte) { le.PutUint32(entry[4:], 1<<20+1) },
		"it has one byte less":             func(_, entry []byte) { le.PutUint32(entry[4:], le.Uint32(entry[4:])-1) },
		"pages have no size":               func(b, _ []byte) { b[50] = 0 },
		"pages have another size":          func(b, _ []byte) { b[50] = 14 },
		"pages have a size of none":        func(b, _ []byte) { b[50] = 9 },
		"pages have a size beyond all":     func(b, _ []byte) { b[50] = 200 },
	} {
		b := encoded(t, d)
		entry := b[256 : 256+12]
		spoil(b, entry)
		le.PutUint32(b[124:], sum(entry))
		le.PutUint32(b[252:], sum(b[:252]))
		put(t, store, key, b)
		wantDamage(t, specimen{store, key, b}, "%s", name)
	}
}
