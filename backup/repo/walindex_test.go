package repo_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

// walIndex makes the index of group 0 from segment first on.
func walIndex(t testing.TB, first pg.SegmentNumber) repo.WALIndex {
	t.Helper()
	r := repo.Open(nil, repotest.Cluster, repo.Options{})
	x := repo.WALIndex{BlockMap: bytes.Repeat([]byte("the block map"), 9), Carry: []byte("carry")}
	for n := first; n < repo.GroupSegments; n++ {
		h := walHeader()
		h.Segment = n
		h.FirstRecord, h.FirstPrev, h.LastRecord, h.LastComplete, h.End = 0, 0, 0, 0, h.Start()+bs
		d, err := r.EncodeWAL(h, []byte("map"), nil, bytes.NewReader(pages(uint64(n), 1, 0)))
		if err != nil {
			t.Fatal(err)
		}
		x.Headers = append(x.Headers, d.Header)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func TestAnIndexReadsBack(t *testing.T) {
	for name, first := range map[string]pg.SegmentNumber{"a whole group": 0, "a timeline's first segments": 100, "one segment": 255} {
		for _, level := range []int{0, repo.NoCompression} {
			t.Run(name, func(t *testing.T) {
				_, store := repotest.New(t)
				r := repo.Open(store, repotest.Cluster, repo.Options{Level: level})
				want := walIndex(t, first)
				for range 2 {
					if err := r.PutWALIndex(t.Context(), want); err != nil {
						t.Fatal(err)
					}
				}
				other := want
				other.BlockMap = []byte("another's, who was slower")
				if err := r.PutWALIndex(t.Context(), other); err != nil {
					t.Fatal(err)
				}
				got, err := r.ReadWALIndex(t.Context(), want.Headers[0].Incarnation, 0)
				if err != nil {
					t.Fatal(err)
				}
				if got.First() != first || len(got.Headers) != len(want.Headers) || !slices.Equal(got.Headers, want.Headers) {
					t.Error("headers differ")
				}
				if diff := cmp.Diff(want.BlockMap, got.BlockMap) + cmp.Diff(want.Carry, got.Carry); diff != "" {
					t.Error(diff)
				}
				if _, err := r.ReadWALIndex(t.Context(), want.Headers[0].Incarnation, 1); !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("of another group: %v", err)
				}
			})
		}
	}
}

func TestAnIndexOfTheWrongSegmentsIsRefused(t *testing.T) {
	r, _ := repotest.New(t)
	for name, change := range map[string]func(x *repo.WALIndex){
		"no segment":        func(x *repo.WALIndex) { x.Headers = nil },
		"not the last":      func(x *repo.WALIndex) { x.Headers = x.Headers[:5] },
		"a hole":            func(x *repo.WALIndex) { x.Headers = slices.Delete(x.Headers, 3, 4) },
		"another timeline":  func(x *repo.WALIndex) { x.Headers[2].Incarnation.Ancestry[0]++ },
		"another size":      func(x *repo.WALIndex) { x.Headers[2].SegmentSize *= 2 },
		"a partial segment": func(x *repo.WALIndex) { x.Headers[2].Flags |= repo.WALPartial },
		"a break":           func(x *repo.WALIndex) { x.Headers[2].Flags |= repo.WALChainBreak },
		"one nobody read":   func(x *repo.WALIndex) { x.Headers[2].BlockSize = 0 },
		"another cluster's": func(x *repo.WALIndex) {
			for i := range x.Headers {
				x.Headers[i].SystemID++
			}
		},
		"a map out of sense": func(x *repo.WALIndex) { x.BlockMap = make([]byte, 64<<20+1) },
	} {
		x := walIndex(t, 240)
		change(&x)
		if err := r.PutWALIndex(t.Context(), x); err == nil || errors.Is(err, repo.ErrCorrupt) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestAnIndexIsComparedWithAListing: it counts only for the objects it was made
// from.
func TestAnIndexIsComparedWithAListing(t *testing.T) {
	r, _ := repotest.New(t)
	h := walHeader()
	h.Segment = 255
	h.FirstRecord, h.FirstPrev, h.LastRecord, h.LastComplete, h.End = 0, 0, 0, 0, h.Start()+bs
	d, err := r.EncodeWAL(h, nil, nil, bytes.NewReader(pages(1, 1, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := r.PutWAL(t.Context(), r.WALKey(&d.Header), d); err != nil {
		t.Fatal(err)
	}
	if err := putWAL(t.Context(), r, h, r.WALConflictKey, nil, nil, pages(2, 1, 0)); err != nil {
		t.Fatal(err)
	}
	x := repo.WALIndex{Headers: []repo.WALHeader{d.Header}}
	files, err := r.SegmentFiles(t.Context(), h.Incarnation, h.SegmentSize, h.Segment)
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	if !x.Describes(files[0]) || x.Describes(files[1]) {
		t.Error("the index is that of the plain segment, not of the one beside it")
	}
	other := files[0]
	if other.Object.Size++; x.Describes(other) {
		t.Error("an object of another size is described")
	}
	other = files[0]
	if other.Segment.Number--; x.Describes(other) {
		t.Error("a segment is described that is not in the index")
	}
}
