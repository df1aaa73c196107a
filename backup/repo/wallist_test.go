package repo_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
)

func TestTheFilesOfOneSegmentAreListedAlone(t *testing.T) {
	_, store := repotest.New(t)
	count := &counting{Store: store}
	r := repo.Open(count, repotest.Cluster, repo.Options{})
	ctx, h := t.Context(), walHeader()
	for n := h.Segment - 1; n <= h.Segment+1; n++ {
		other := walHeader()
		other.Segment = n
		other.FirstRecord, other.FirstPrev, other.LastRecord, other.LastComplete, other.End = 0, 0, 0, 0, other.Start()+bs
		if err := putWAL(ctx, r, other, r.WALKey, nil, nil, pages(1, 1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := putWAL(ctx, r, h, r.WALConflictKey, nil, nil, pages(2, 1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := putWAL(ctx, r, h, r.WALQuarantineKey, nil, nil, pages(3, 1, 0)); err != nil {
		t.Fatal(err)
	}
	partial := h
	partial.Flags |= repo.WALPartial
	if err := putWAL(ctx, r, partial, r.WALKey, nil, nil, pages(1, 1, 0)); err != nil {
		t.Fatal(err)
	}
	files, err := r.SegmentFiles(ctx, h.Incarnation, h.SegmentSize, h.Segment)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range files {
		got = append(got, o.Key.Name())
		if o.Segment.Number != h.Segment || o.Object.Size == 0 {
			t.Errorf("%+v", o)
		}
	}
	name := "wal/" + h.Incarnation.String() + "/00000000000000/" + h.Name().String()
	want := []string{name, name + ".partial", name + "~" + repo.DigestOf(pages(2, 1, 0)).String()}
	if diff := cmp.Diff(want, got); diff != "" || count.lists != 1 {
		t.Errorf("%d listings (-want +got):\n%s", count.lists, diff)
	}
	none, err := r.SegmentFiles(ctx, h.Incarnation, h.SegmentSize, h.Segment+7)
	if err != nil || len(none) != 0 {
		t.Errorf("of a segment that is not there: %v, %v", none, err)
	}
	in, err := r.Quarantine(ctx)
	if err != nil || len(in) != 1 || in[0].Key.WAL != h.Name() || in[0].Key.Conflict != repo.DigestOf(pages(3, 1, 0)) {
		t.Errorf("quarantine: %+v, %v", in, err)
	}
}

func TestAPutSaysWhetherItCreatedTheObject(t *testing.T) {
	_, store := repotest.New(t)
	count := &counting{Store: store}
	r := repo.Open(count, repotest.Cluster, repo.Options{})
	d, err := r.EncodeWAL(walHeader(), nil, nil, bytes.NewReader(pages(1, 1, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i, want := range []bool{true, false} {
		created, err := r.CreateWAL(t.Context(), r.WALKey(&d.Header), d)
		if err != nil || created != want || count.gets != i {
			t.Errorf("put %d: created %v after %d reads, %v", i+1, created, count.gets, err)
		}
	}
}
