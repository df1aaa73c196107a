package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

const testPage = 8192

// soundPage makes a page that verifies as block of its fork.
func soundPage(block uint32, lsn pg.LSN) []byte {
	p := make([]byte, testPage)
	le := binary.LittleEndian
	le.PutUint32(p, uint32(lsn>>32))
	le.PutUint32(p[4:], uint32(lsn))
	le.PutUint16(p[12:], 100)      // lower
	le.PutUint16(p[14:], 4000)     // upper
	le.PutUint16(p[16:], testPage) // special
	le.PutUint16(p[18:], testPage|4)
	// Repeated, for byte by byte takes its time under the race detector.
	for i := 4000; i < 4256; i++ {
		p[i] = byte(i * int(block+3))
	}
	for have := 256; 4000+have < testPage; have *= 2 {
		copy(p[4000+have:], p[4000:4000+have])
	}
	le.PutUint16(p[8:], pg.PageChecksum(p, block))
	return p
}

// tornPage has half of its content from another moment.
func tornPage(block uint32, lsn pg.LSN) []byte {
	p := soundPage(block, lsn)
	for i := testPage / 2; i < testPage; i++ {
		p[i] ^= 0x55
	}
	return p
}

// healing is a file that reads as first, and after some reads as then.
type healing struct {
	first, then []byte
	after       int64
	reads       int64
}

func (h *healing) ReadAt(p []byte, off int64) (int, error) {
	from := h.first
	if h.reads++; h.reads > h.after {
		from = h.then
	}
	if off >= int64(len(from)) {
		return 0, io.EOF
	}
	n := copy(p, from[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func testPages(accept bool) *pages {
	return &pages{
		verifier: pg.PageVerifier{PageSize: testPage, Checksums: true}, start: 0x2000, segment: 16, accept: accept,
		log: slog.New(slog.DiscardHandler),
	}
}

// second is the second segment of a relation with segments of 16 blocks.
func second() *file {
	return &file{entry: repo.Entry{Path: "base/5/9.1"}, class: pg.Class{Kind: pg.KindRelation, Rel: pg.RelFile{Segment: 1}}}
}

func TestPagesAreReadAgainBeforeTheyCountAsDamaged(t *testing.T) {
	const old, recent = 0x1000, 0x3000
	sound := slices.Concat(soundPage(16, old), soundPage(17, old), soundPage(18, old))
	torn := slices.Concat(soundPage(16, old), tornPage(17, old), tornPage(18, old))
	tornRecent := slices.Concat(soundPage(16, old), soundPage(17, old), tornPage(18, recent))
	for _, c := range []struct {
		name        string
		file        healing
		accept      bool
		blocks      []uint32 // of the error
		noted       []repo.DamagedPage
		wantContent []byte
	}{
		{name: "a sound file", file: healing{first: sound, then: sound}, wantContent: sound},
		{name: "torn pages that come right", file: healing{first: torn, then: sound, after: 7}, wantContent: sound},
		{name: "pages that stay wrong, by their number in the file", file: healing{first: torn, then: torn}, blocks: []uint32{1, 2}},
		{
			name: "accepted damage", file: healing{first: torn, then: torn}, accept: true, wantContent: torn,
			noted: []repo.DamagedPage{{File: "base/5/9.1", Block: 1}, {File: "base/5/9.1", Block: 2}},
		},
		{name: "a page newer than the start is replayed", file: healing{first: tornRecent, then: tornRecent}, wantContent: tornRecent},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := testPages(c.accept)
				buf := make([]byte, 3*testPage)
				if err := readFull(&c.file, buf, 0); err != nil {
					t.Fatal(err)
				}
				err := p.check(t.Context(), second(), &c.file, buf, 0)
				var damage *DamageError
				if errors.As(err, &damage) != (c.blocks != nil) || damage != nil && !slices.Equal(damage.Blocks, c.blocks) {
					t.Fatalf("got %v", err)
				}
				if c.wantContent != nil && !slices.Equal(buf, c.wantContent) {
					t.Error("the buffer does not hold what was read last")
				}
				n, noted := p.accepted()
				if diff := cmp.Diff(c.noted, noted); diff != "" || n != int64(len(c.noted)) {
					t.Errorf("%d noted: %s", n, diff)
				}
				if err := p.settle(recent); err != nil {
					t.Errorf("settle at the page's own LSN: %v", err)
				}
			})
		})
	}
}

func TestAPageNewerThanTheStopIsDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPages(false)
		f := healing{first: tornPage(16, 0x3000), then: tornPage(16, 0x3000)}
		if err := p.check(t.Context(), second(), &f, slices.Clone(f.first), 0); err != nil {
			t.Fatal(err)
		}
		var damage *DamageError
		if err := p.settle(0x2FFF); !errors.As(err, &damage) || !slices.Equal(damage.Blocks, []uint32{0}) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAFileOfNoiseIsDamagedHoweverNewItClaimsToBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPages(false)
		noise := make([]byte, (recentKept+1)*testPage)
		for i := range recentKept + 1 {
			copy(noise[i*testPage:], tornPage(uint32(16+i), 0x3000))
		}
		f := healing{first: noise, then: noise}
		if err := p.check(t.Context(), second(), &f, slices.Clone(noise), 0); err == nil {
			t.Error("accepted")
		}
	})
}

func TestRereadingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("lease lost")
	cancel(why)
	p := testPages(false)
	f := healing{first: tornPage(16, 1), then: tornPage(16, 1)}
	if err := p.check(ctx, second(), &f, slices.Clone(f.first), 0); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}
