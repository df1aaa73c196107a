package repo_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/internal/pg"
)

// forgetful has other bytes in place of those that were read.
type forgetful []byte

func (f forgetful) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, f[off:])
	clear(f[off : off+int64(n)])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func judgedHeader(end int64) repo.WALHeader {
	h := walHeader()
	h.SegmentSize = 4 << 20
	h.FirstRecord, h.FirstPrev, h.LastRecord, h.LastComplete = 0, 0, 0, 0
	h.Flags = repo.WALNoRecordStart | repo.WALStartsInside
	h.End = h.Start() + pg.LSN(end)
	return h
}

// TestWhatIsStoredIsWhatWasJudged: a segment that is written to meanwhile could
// otherwise be judged by bytes that are not the stored ones.
func TestWhatIsStoredIsWhatWasJudged(t *testing.T) {
	segment := append(pages(7, 200, 300), bytes.Repeat(pages(8, 20, 3000), 15)...)
	segment = append(segment, make([]byte, 4<<20-len(segment))...)
	for _, processors := range []int{1, 4} {
		for name, c := range map[string]struct{ judged, end int64 }{
			"to its end":                            {4 << 20, 4 << 20},
			"to a switch":                           {1_500_000, 1_500_000},
			"to a switch at the end of a piece":     {2 << 20, 2 << 20},
			"not at all":                            {0, 4 << 20},
			"to somewhere, and all of it is wanted": {1 << 20, 4 << 20},
		} {
			t.Run(name, func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(processors))
				r, _ := repotest.New(t)
				in := r.TakeWAL(forgetful(bytes.Clone(segment)), int64(len(segment)))
				defer in.Close()
				var judged []byte
				for int64(len(judged)) < c.judged {
					p, err := in.Piece(int64(len(judged)))
					if err != nil {
						t.Fatal(err)
					}
					again, err := in.Piece(int64(len(judged)))
					if err != nil || !bytes.Equal(p, again) {
						t.Fatalf("a piece given again differs: %v", err)
					}
					judged = append(judged, p...)
				}
				if !bytes.Equal(judged, segment[:len(judged)]) {
					t.Error("what is judged is not what was first there")
				}
				d, err := in.Encode(judgedHeader(c.end), []byte("map"), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				want, err := r.EncodeWAL(judgedHeader(c.end), []byte("map"), nil, bytes.NewReader(segment))
				if err != nil {
					t.Fatal(err)
				}
				defer want.Close()
				if d.Header != want.Header || d.Header.Digest != repo.DigestOf(segment[:c.end]) || !bytes.Equal(encoded(t, d), encoded(t, want)) {
					t.Errorf("%d bytes with %+v, want %d with %+v", d.Size(), d.Header, want.Size(), want.Header)
				}
			})
		}
	}
}

// TestASegmentThatEndsBeforeWhatWasJudged, as one does behind whose end the judge
// looked for more, is read again.
func TestASegmentThatEndsBeforeWhatWasJudged(t *testing.T) {
	r, _ := repotest.New(t)
	segment := append(pages(9, 256, 0), make([]byte, 2<<20)...)
	in := r.TakeWAL(bytes.NewReader(segment), int64(len(segment)))
	defer in.Close()
	for off := int64(0); off < int64(len(segment)); {
		p, err := in.Piece(off)
		if err != nil {
			t.Fatal(err)
		}
		off += int64(len(p))
	}
	if p, err := in.Piece(4096); err != nil || len(p) == 0 || !bytes.Equal(p, segment[4096:4096+len(p)]) {
		t.Errorf("%d bytes from before, %v", len(p), err)
	}
	d, err := in.Encode(judgedHeader(1_500_000), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Header.Digest != repo.DigestOf(segment[:1_500_000]) {
		t.Error("the digest is not that of the content")
	}
}

func TestAnIntakeOfWhatCannotBeRead(t *testing.T) {
	r, _ := repotest.New(t)
	segment := pages(2, 512, 0)
	in := r.TakeWAL(unreadable{bytes.NewReader(segment), 3 << 20}, int64(len(segment)))
	defer in.Close()
	var err error
	for off := int64(0); err == nil; {
		var p []byte
		p, err = in.Piece(off)
		off += int64(len(p))
	}
	if !errors.Is(err, errUnreadable) {
		t.Error(err)
	}
	if d, err := in.Encode(judgedHeader(4<<20), nil, nil); !errors.Is(err, errUnreadable) {
		t.Errorf("%v, %v", d, err)
	}
	if p, err := in.Piece(4 << 20); err == nil {
		t.Errorf("%d bytes behind the end", len(p))
	}
}

// TestHasteCostsLittleRoom where content hardly shrinks: literals are most of it then.
func TestHasteCostsLittleRoom(t *testing.T) {
	if !repo.HasHaste {
		t.Skip("there is none in this build")
	}
	r, _ := repotest.New(t)
	rng := rand.New(rand.NewPCG(3, 1))
	var content []byte
	for len(content) < 4<<20 {
		content = fmt.Appendf(content, "%016x|%d|2026-11-23 10:00:00|", rng.Uint64(), rng.IntN(10000))
	}
	size := func(r *repo.Repo) int64 {
		d, err := r.EncodeWAL(judgedHeader(4<<20), nil, nil, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		return d.Size()
	}
	if usual, hasty := size(r), size(r.Hastily()); hasty > usual+usual/8 {
		t.Errorf("%d bytes, in haste %d", usual, hasty)
	}
}

func encoded(t *testing.T, d *repo.WALData) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	if _, err := d.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}
