package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/internal/pg"
)

func TestASegmentReadsBackWithZerosBehindItsSemanticEnd(t *testing.T) {
	noise := make([]byte, 16<<20)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(noise)
	for name, test := range map[string]struct {
		size    pg.SegmentSize
		content []byte
		opts    repo.Options
	}{
		"a page of a small segment":        {1 << 20, pages(1, 1, 0), repo.Options{}},
		"a full segment, compressible":     {16 << 20, pages(2, 2048, 0), repo.Options{}},
		"a full segment of noise":          {16 << 20, noise, repo.Options{}},
		"an end that is on no boundary":    {16 << 20, pages(3, 700, 1234), repo.Options{}},
		"no compression":                   {16 << 20, pages(4, 300, 0), repo.Options{Level: repo.NoCompression}},
		"one byte":                         {16 << 20, []byte{7}, repo.Options{}},
		"a segment larger than the memory": {128 << 20, bytes.Repeat(noise, 5), repo.Options{Level: repo.NoCompression}},
	} {
		t.Run(name, func(t *testing.T) {
			if test.size > 16<<20 && testing.Short() {
				t.Skip("large")
			}
			_, store := repotest.New(t)
			r := repo.Open(store, repotest.Cluster, test.opts)
			h := walHeader()
			h.SegmentSize = test.size
			h.FirstRecord, h.FirstPrev, h.LastRecord, h.LastComplete = 0, 0, 0, 0
			h.Flags = repo.WALNoRecordStart | repo.WALStartsInside
			h.End = h.Start() + pg.LSN(len(test.content))
			d, err := r.EncodeWAL(h, []byte("map"), nil, bytes.NewReader(test.content))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			key := r.WALKey(&d.Header)
			if err := r.PutWAL(t.Context(), key, d); err != nil {
				t.Fatal(err)
			}
			if err := r.PutWAL(t.Context(), key, d); err != nil {
				t.Errorf("put again: %v", err)
			}
			var got inParts
			read, err := r.ReadWAL(t.Context(), key, &got)
			if err != nil {
				t.Fatal(err)
			}
			if got.largest > 256<<10 {
				t.Errorf("%d bytes are written at once", got.largest)
			}
			want := append(bytes.Clone(test.content), make([]byte, int(test.size)-len(test.content))...)
			if !bytes.Equal(got.Bytes(), want) {
				t.Error("content differs")
			}
			if read != d.Header || read.Flags != h.Flags|repo.WALBlockMap || read.Digest != repo.DigestOf(test.content) {
				t.Errorf("header %+v, want %+v", read, d.Header)
			}
			for _, size := range []int64{0, d.Size()} {
				meta, err := r.ReadWALMeta(t.Context(), key, size)
				if err != nil || string(meta.BlockMap) != "map" || meta.Carry != nil || meta.Header != read {
					t.Errorf("meta %+v, %v", meta, err)
				}
			}
		})
	}
}

// TestMemoryIsLentToOneSegmentAtATime has several encoded at once, over and over.
func TestMemoryIsLentToOneSegmentAtATime(t *testing.T) {
	r, _ := repotest.New(t)
	var g errgroup.Group
	for i := range 4 {
		content := pages(uint64(10+i), 200+60*i, 50*i)
		g.Go(func() error {
			var first []byte
			for range 3 {
				h := walHeader()
				h.SegmentSize = 16 << 20
				h.FirstRecord, h.FirstPrev, h.LastRecord, h.LastComplete = 0, 0, 0, 0
				h.Flags = repo.WALNoRecordStart | repo.WALStartsInside
				h.End = h.Start() + pg.LSN(len(content))
				d, err := r.EncodeWAL(h, nil, nil, bytes.NewReader(content))
				if err != nil {
					return err
				}
				runtime.Gosched()
				got := make([]byte, d.Size())
				if _, err := d.ReadAt(got, 0); err != nil {
					return err
				}
				if first == nil {
					first = got
				}
				if !bytes.Equal(got, first) || d.Header.Digest != repo.DigestOf(content) {
					return fmt.Errorf("segment %d is encoded otherwise than before", i)
				}
				if err := d.Close(); err != nil {
					return err
				}
				if n, err := d.ReadAt(got[:1], 0); !errors.Is(err, fs.ErrClosed) {
					return fmt.Errorf("read after Close: %d bytes, %v", n, err)
				}
				if err := d.Close(); err != nil {
					return fmt.Errorf("close again: %w", err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func TestASegmentThatCannotBeReadIsNotEncoded(t *testing.T) {
	r, _ := repotest.New(t)
	content := pages(2, 400, 0)
	for _, at := range []int64{0, 2 << 20, int64(len(content)) - 1} {
		h := walHeader()
		h.SegmentSize = 16 << 20
		h.FirstRecord, h.FirstPrev, h.LastRecord, h.LastComplete = 0, 0, 0, 0
		h.Flags = repo.WALNoRecordStart | repo.WALStartsInside
		h.End = h.Start() + pg.LSN(len(content))
		if d, err := r.EncodeWAL(h, nil, nil, unreadable{bytes.NewReader(content), at}); err == nil || !errors.Is(err, errUnreadable) {
			t.Errorf("at %d: %v, %v", at, d, err)
		}
	}
}

var errUnreadable = errors.New("the disk does not answer")

// unreadable fails to read the byte at an offset.
type unreadable struct {
	io.ReaderAt
	at int64
}

func (u unreadable) ReadAt(p []byte, off int64) (int, error) {
	if off <= u.at && u.at < off+int64(len(p)) {
		return 0, errUnreadable
	}
	return u.ReaderAt.ReadAt(p, off)
}

func TestALargeBlockMapIsReadInTwoRequests(t *testing.T) {
	r, _ := repotest.New(t)
	noise := make([]byte, 300<<10)
	rand.NewChaCha8([32]byte{2}).Read(noise)
	h := walHeader()
	if err := putWAL(t.Context(), r, h, r.WALKey, noise, noise[:1000], pages(1, 1, 0)); err != nil {
		t.Fatal(err)
	}
	meta, err := r.ReadWALMeta(t.Context(), r.WALKey(&h), 0)
	if err != nil || !bytes.Equal(meta.BlockMap, noise) || !bytes.Equal(meta.Carry, noise[:1000]) {
		t.Errorf("meta differs: %v", err)
	}
}

func TestSegmentsThatDifferConflictWhateverTheirTail(t *testing.T) {
	r, store := repotest.New(t)
	h := walHeader()
	ctx := t.Context()
	content := append(pages(1, 1, 0), make([]byte, 1<<20-bs)...)
	if err := putWAL(ctx, r, h, r.WALKey, nil, nil, content); err != nil {
		t.Fatal(err)
	}
	tail := bytes.Clone(content)
	copy(tail[bs:], "left over from a recycled segment")
	other := h
	other.Flags |= repo.WALEndsInside // the reader's remarks do not count
	if err := putWAL(ctx, r, other, r.WALKey, []byte("map"), []byte("carry"), tail); err != nil {
		t.Errorf("equal up to the semantic end: %v", err)
	}
	differs := bytes.Clone(content)
	differs[100] ^= 1
	err := putWAL(ctx, r, h, r.WALKey, nil, nil, differs)
	var conflict *repo.WALConflictError
	if !errors.As(err, &conflict) || !errors.Is(err, repo.ErrConflict) || conflict.Existing.Digest != repo.DigestOf(content[:bs]) {
		t.Errorf("error %v, want the conflict with what is there", err)
	}
	longer := h
	longer.End += 8
	if err := putWAL(ctx, r, longer, r.WALKey, nil, nil, content); !errors.Is(err, repo.ErrConflict) {
		t.Errorf("another semantic end: %v", err)
	}
	for _, key := range []func(*repo.WALHeader) string{r.WALConflictKey, r.WALQuarantineKey} {
		for range 2 {
			if err := putWAL(ctx, r, h, key, nil, nil, differs); err != nil {
				t.Error(err)
			}
		}
	}
	partial := h
	partial.Flags |= repo.WALPartial | repo.WALUnchecked
	if err := putWAL(ctx, r, partial, r.WALKey, nil, nil, differs); err != nil {
		t.Errorf("partial: %v", err)
	}
	if n := len(keys(t, store)); n != 4 {
		t.Errorf("%d objects, want segment, conflict, partial, quarantine", n)
	}
	if err := putWAL(ctx, r, h, func(*repo.WALHeader) string { return r.WALKey(&partial) }, nil, nil, content); err == nil || errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("a segment under the key of another: %v", err)
	}
}

func TestEncodeWALRefuses(t *testing.T) {
	r, _ := repotest.New(t)
	for name, change := range map[string]func(*repo.WALHeader){
		"another cluster":             func(h *repo.WALHeader) { h.SystemID++ },
		"no timeline":                 func(h *repo.WALHeader) { h.Incarnation.Timeline = 0 },
		"an odd segment size":         func(h *repo.WALHeader) { h.SegmentSize = 3 << 20 },
		"an end before the start":     func(h *repo.WALHeader) { h.End = h.Start() },
		"an end behind the segment":   func(h *repo.WALHeader) { h.End = h.Start() + 1<<20 + 1 },
		"a record in another segment": func(h *repo.WALHeader) { h.LastRecord += 1 << 20 },
		"records in the wrong order":  func(h *repo.WALHeader) { h.FirstRecord, h.LastRecord = h.LastRecord, h.FirstRecord },
		"a complete record past last": func(h *repo.WALHeader) { h.LastComplete = h.LastRecord + 8 },
		"a complete record before":    func(h *repo.WALHeader) { h.LastComplete = h.FirstRecord - 8 },
		"odd page size":               func(h *repo.WALHeader) { h.BlockSize = 8000 },
		"tiny pages":                  func(h *repo.WALHeader) { h.BlockSize = 512 },
		"timelines of unread content": func(h *repo.WALHeader) { h.BlockSize = 0 },
		"a page of no timeline":       func(h *repo.WALHeader) { h.LastTimeline = 0 },
		"pages of a later timeline":   func(h *repo.WALHeader) { h.LastTimeline = 2 },
		"timelines in wrong order":    func(h *repo.WALHeader) { h.FirstTimeline, h.Incarnation.Timeline = 2, 2 },
		"unknown flags":               func(h *repo.WALHeader) { h.Flags |= 1 << 20 },
		"not checked and not partial": func(h *repo.WALHeader) { h.Flags |= repo.WALUnchecked },
		"more than is there":          func(h *repo.WALHeader) { h.End += bs },
	} {
		h := walHeader()
		change(&h)
		if _, err := r.EncodeWAL(h, nil, nil, bytes.NewReader(pages(1, 1, 0))); err == nil || errors.Is(err, repo.ErrCorrupt) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestTheArchiveIsListedByNames(t *testing.T) {
	_, store := repotest.New(t)
	count := &counting{Store: store}
	r := repo.Open(count, repotest.Cluster, repo.Options{})
	ctx := t.Context()
	forked := func(at pg.LSN) repo.Incarnation {
		return repo.IncarnationOf(pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: at}}})
	}
	incarnations := []repo.Incarnation{repo.IncarnationOf(pg.FirstTimeline()), forked(0x5000000), forked(0x6000000)}
	for _, i := range incarnations {
		for n := range pg.SegmentNumber(20) {
			h := walHeader()
			h.Incarnation, h.Segment = i, 240+n*2
			h.FirstRecord, h.LastRecord, h.LastComplete, h.End = 0, 0, 0, h.Start()+bs
			if err := putWAL(ctx, r, h, r.WALKey, nil, nil, pages(uint64(n), 1, 0)); err != nil {
				t.Fatal(err)
			}
			if n == 8 {
				h.Flags |= repo.WALPartial
				if err := putWAL(ctx, r, h, r.WALKey, nil, nil, pages(uint64(n), 1, 0)); err != nil {
					t.Fatal(err)
				}
				key, err := r.BackupHistoryKey(i, repo.WALName{Segment: h.Name().Segment, Backup: true, Offset: 0x60}, h.SegmentSize)
				if err != nil {
					t.Fatal(err)
				}
				for range 2 {
					if err := r.PutBackupHistory(ctx, key, []byte("START WAL")); err != nil {
						t.Fatal(err)
					}
				}
				if b, err := r.BackupHistory(ctx, key); err != nil || string(b) != "START WAL" {
					t.Errorf("backup history %q, %v", b, err)
				}
				if err := r.PutBackupHistory(ctx, key, []byte("other")); !errors.Is(err, repo.ErrConflict) {
					t.Errorf("another backup history: %v", err)
				}
				if err := r.QuarantineBackupHistory(ctx, key, []byte("other")); err != nil {
					t.Error(err)
				}
			}
		}
	}
	count.lists = 0
	got, err := r.Incarnations(ctx)
	if err != nil || count.lists > 4 {
		t.Errorf("%d listings, %v", count.lists, err)
	}
	if diff := cmp.Diff(incarnations, got, cmpopts.SortSlices(func(a, b repo.Incarnation) bool { return a.String() < b.String() })); diff != "" {
		t.Errorf("incarnations (-want +got):\n%s", diff)
	}
	var numbers []pg.SegmentNumber
	var plain int
	for w, err := range r.Segments(ctx, incarnations[1], 1<<20, 255) {
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, w.Segment.Number)
		if w.Plain() {
			plain++
		}
	}
	want := []pg.SegmentNumber{256, 256, 256, 258, 260, 262, 264, 266, 268, 270, 272, 274, 276, 278}
	if diff := cmp.Diff(want, numbers); diff != "" || plain != 12 {
		t.Errorf("%d plain; segments (-want +got):\n%s", plain, diff)
	}
	var wrong error
	for _, err := range r.Segments(ctx, incarnations[1], 16<<20, 0) {
		wrong = err
	}
	if !errors.Is(wrong, repo.ErrCorrupt) {
		t.Errorf("listed with the wrong segment size: %v", wrong)
	}
}

func TestHistoriesAreKeptByAncestry(t *testing.T) {
	r, _ := repotest.New(t)
	ctx := t.Context()
	text := []byte("1\t0/3000000\tno recovery target specified\n")
	i, err := r.PutHistory(ctx, 2, text)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.PutHistory(ctx, 2, []byte("1 0/3000000 another remark\n\n# a comment\n")); err != nil || again != i {
		t.Errorf("same ancestry, other remark: %v, %v", again, err)
	}
	other, err := r.PutHistory(ctx, 2, []byte("1\t0/3000001\tx\n"))
	if err != nil || other == i {
		t.Errorf("other ancestry: %v, %v", other, err)
	}
	h, content, err := r.History(ctx, i)
	if err != nil || !bytes.Equal(content, text) || len(h.Forks) != 1 || h.Forks[0].Switch != 0x3000000 {
		t.Errorf("history %+v %q, %v", h, content, err)
	}
	for range 2 {
		if _, err := r.QuarantineHistory(ctx, 2, text); err != nil {
			t.Error(err)
		}
	}
	list, err := r.Histories(ctx)
	if err != nil || len(list) != 2 {
		t.Errorf("histories %v, %v", list, err)
	}
	for name, f := range map[string]func() error{
		"timeline 1": func() error { _, err := r.PutHistory(ctx, 1, nil); return err },
		"nonsense":   func() error { _, err := r.PutHistory(ctx, 3, []byte("?\n")); return err },
		"too long":   func() error { _, err := r.PutHistory(ctx, 3, make([]byte, 2<<20)); return err },
	} {
		if f() == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestAFailedWriterOfASegmentIsReported(t *testing.T) {
	r, _ := repotest.New(t)
	h := walHeader()
	if err := putWAL(context.Background(), r, h, r.WALKey, nil, nil, pages(1, 1, 0)); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left")
	for _, room := range []int{0, bs, bs + 70000} {
		if _, err := r.ReadWAL(t.Context(), r.WALKey(&h), &narrow{room, full}); !errors.Is(err, full) || errors.Is(err, repo.ErrCorrupt) {
			t.Errorf("room for %d bytes: %v", room, err)
		}
	}
}

// inParts keeps what is written, and how much of it at once at most.
type inParts struct {
	bytes.Buffer
	largest int
}

func (p *inParts) Write(b []byte) (int, error) {
	p.largest = max(p.largest, len(b))
	return p.Buffer.Write(b)
}

// narrow takes room bytes and then fails.
type narrow struct {
	room int
	err  error
}

func (n *narrow) Write(b []byte) (int, error) {
	if len(b) > n.room {
		return 0, n.err
	}
	n.room -= len(b)
	return len(b), nil
}
