package archive_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/internal/pg"
)

func TestASegmentWithTwoContentsIsAmbiguous(t *testing.T) {
	r, _ := repotest.New(t)
	dir := t.TempDir()
	first, second := filled(1, 4, 6), newBuilder(1, 4)
	second.fill = 1
	second.until(segSize.Start(6))
	for n := pg.SegmentNumber(4); n <= 6; n++ {
		push(t, r, first.save(t, dir, n, ""))
	}
	opts := archive.PushOptions{Path: second.save(t, dir, 5, ""), Member: "pg2", Leadership: leads}
	if _, err := archive.Push(t.Context(), r, opts); err != nil {
		t.Fatal(err)
	}
	five := []pg.Segment{{Timeline: 1, Number: 5}}
	for _, c := range []struct {
		name     string
		from, to pg.LSN
		want     []pg.Segment
	}{
		{"before it", segSize.Start(4), segSize.Start(5), nil},
		{"up to its first page header", segSize.Start(4), segSize.Start(5) + 40, nil},
		{"into it", segSize.Start(4) + 100, segSize.Start(5) + 100, five},
		{"within it", segSize.Start(5) + 100, segSize.Start(5) + 200, five},
		{"behind it", segSize.Start(6), segSize.Start(7), nil},
		{"all", segSize.Start(4), segSize.Start(9), five},
	} {
		got, err := archive.Ambiguous(t.Context(), r, pg.FirstTimeline(), segSize, c.from, c.to)
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", c.name, err, diff)
		}
	}
}
