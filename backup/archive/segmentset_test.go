package archive_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

func TestASegmentSetKeepsItsRangesApart(t *testing.T) {
	i := repo.IncarnationOf(pg.FirstTimeline())
	set := make(archive.SegmentSet)
	for _, r := range []archive.SegmentRange{{20, 31}, {5, 6}, {7, 7}, {40, 40}, {30, 33}} {
		set.Add(i, r)
	}
	want := []archive.SegmentRange{{5, 7}, {20, 33}, {40, 40}}
	if diff := cmp.Diff(want, set[i]); diff != "" {
		t.Error(diff)
	}
	data := set.Data()
	if got := data[i.String()]; got != "5-7,14-21,28-28" {
		t.Errorf("as data of an event: %q", got)
	}
	if diff := cmp.Diff(want, archive.SegmentRanges(data, i)); diff != "" {
		t.Errorf("read back: %s", diff)
	}
}

func TestWhatIsNoRangeNamesNoSegment(t *testing.T) {
	i := repo.IncarnationOf(pg.FirstTimeline())
	for _, text := range []string{"", "5", "5-", "-5", "9-5", "5-x", "5-1FFFFFFFFFFFFFFFF", "5 - 6"} {
		if got := archive.SegmentRanges(map[string]string{i.String(): text}, i); len(got) != 0 {
			t.Errorf("%q: %v", text, got)
		}
	}
	if got := archive.SegmentRanges(map[string]string{i.String(): "nonsense,A-B"}, i); len(got) != 1 || got[0] != (archive.SegmentRange{First: 10, Last: 11}) {
		t.Errorf("a good range beside nonsense: %v", got)
	}
}
