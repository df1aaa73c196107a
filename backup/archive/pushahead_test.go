package archive_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/meter"
	"github.com/pgtender/pgtender/internal/pg"
)

// backlog writes segments first to last into a new pg_wal and marks all but
// those named as waiting for the archiver.
func backlog(t testing.TB, b *builder, first, last pg.SegmentNumber, except ...pg.SegmentNumber) (dir string) {
	t.Helper()
	dir = mkdir(t, t.TempDir(), "pg_wal")
	status := mkdir(t, dir, "archive_status")
	for n := first; n <= last; n++ {
		b.save(t, dir, n, "")
		if !slices.Contains(except, n) {
			save(t, filepath.Join(status, b.name(n)+".ready"), nil)
		}
	}
	return dir
}

var enough = archive.AheadOptions{Segments: 64, Bytes: 1 << 30, Workers: 3}

func TestSegmentsThatWaitAreArchivedAlong(t *testing.T) {
	b := filled(1, 4, 9)
	for _, c := range []struct {
		name  string
		most  archive.AheadOptions
		gap   []pg.SegmentNumber
		stays pg.SegmentNumber // the first that is not archived
	}{
		{"all of them", enough, nil, 10},
		{"up to the first that does not wait", enough, []pg.SegmentNumber{7}, 7},
		{"as many as allowed", archive.AheadOptions{Segments: 2, Bytes: 1 << 30, Workers: 2}, nil, 7},
		{"as many bytes as allowed", archive.AheadOptions{Segments: 64, Bytes: 3<<20 + 1, Workers: 2}, nil, 8},
		{"none", archive.AheadOptions{}, nil, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, store := repotest.New(t)
			dir := backlog(t, b, 4, 9, c.gap...)
			var asked atomic.Int32
			opts := archive.PushOptions{Path: filepath.Join(dir, b.name(4)), CheckOwner: func(context.Context) error { asked.Add(1); return nil }}
			result, err := archive.PushAhead(t.Context(), r, opts, c.most)
			if err != nil || result.Outcome != archive.Stored || result.Name != b.name(4) {
				t.Fatalf("%+v, %v", result, err)
			}
			if asked.Load() != 1 {
				t.Errorf("the owner was asked %d times", asked.Load())
			}
			for n := pg.SegmentNumber(4); n <= 9; n++ {
				there := slices.ContainsFunc(keys(t, store), func(k string) bool { return strings.HasSuffix(k, b.name(n)) })
				if there != (n < c.stays) {
					t.Errorf("segment %d: archived is %v", n, there)
				}
			}
		})
	}
}

// TestWhatIsNotedIsConfirmed: what was archived ahead costs a small request, and
// a note that lies costs one too.
func TestWhatIsNotedIsConfirmed(t *testing.T) {
	b := filled(1, 4, 7)
	_, store := repotest.New(t)
	dir := backlog(t, b, 4, 6)
	b.save(t, dir, 7, "")
	most := enough
	most.NotesFile = filepath.Join(dir, ".notes")
	count := meter.New(store)
	r := repo.Open(count, repotest.Cluster, repo.Options{})
	pushed := func(n pg.SegmentNumber) (archive.Outcome, meter.Counts) {
		t.Helper()
		before := count.Counts()
		result, err := archive.PushAhead(t.Context(), r, archive.PushOptions{Path: filepath.Join(dir, b.name(n))}, most)
		if err != nil {
			t.Fatal(err)
		}
		return result.Outcome, count.Counts().Sub(before)
	}
	if outcome, c := pushed(4); outcome != archive.Stored || c.Put != 3 {
		t.Errorf("the first: %q, %+v", outcome, c)
	}
	for n := pg.SegmentNumber(4); n <= 6; n++ {
		if outcome, c := pushed(n); outcome != archive.AlreadyArchived || c != (meter.Counts{Get: 1, BytesDown: 256}) {
			t.Errorf("segment %d, archived ahead: %q, %+v", n, outcome, c)
		}
	}
	save(t, most.NotesFile, []byte(b.name(7)+"\nnonsense \x00\n"))
	if outcome, c := pushed(7); outcome != archive.Stored || c.Put != 1 {
		t.Errorf("with notes that lie: %q, %+v", outcome, c)
	}
	// Notes can be neither read nor written, not even by root.
	if err := errors.Join(os.Remove(most.NotesFile), os.Mkdir(most.NotesFile, 0o700)); err != nil {
		t.Fatal(err)
	}
	if outcome, _ := pushed(7); outcome != archive.AlreadyArchived {
		t.Errorf("again: %q", outcome)
	}
}

// TestAFailureAheadIsNoFailure: only the file that was asked for counts, and
// what conflicts ahead is left to its own turn: no alarm, no quarantine.
func TestAFailureAheadIsNoFailure(t *testing.T) {
	r, store := repotest.New(t)
	b := filled(1, 4, 7)
	damage := slices.Clone(b.segments[6])
	foreign := newBuilder(1, 5)
	foreign.fill = 9
	foreign.until(segSize.Start(6))
	push(t, r, foreign.save(t, t.TempDir(), 5, "")) // another server's
	dir := backlog(t, b, 4, 7)
	damage[5000] ^= 1
	save(t, filepath.Join(dir, b.name(6)), damage)
	result, err := archive.PushAhead(t.Context(), r, archive.PushOptions{Path: filepath.Join(dir, b.name(4))}, enough)
	if err != nil || result.Outcome != archive.Stored {
		t.Errorf("%+v, %v", result, err)
	}
	if got := alarmKinds(t, r); len(got) != 0 {
		t.Errorf("alarms: %v", got)
	}
	if got := keys(t, store); slices.ContainsFunc(got, func(k string) bool { return strings.Contains(k, "quarantine") }) || len(got) != 3 {
		t.Errorf("keys: %v", got)
	}
	if _, err := archive.PushAhead(t.Context(), r, archive.PushOptions{Path: filepath.Join(dir, b.name(5))}, enough); !errors.Is(err, repo.ErrConflict) {
		t.Errorf("in its own turn: %v", err)
	}
}

// TestAFailedSegmentFailsWhateverWasArchivedAhead: the archiver hears "ok" for
// nothing but what is stored.
func TestAFailedSegmentFailsWhateverWasArchivedAhead(t *testing.T) {
	r, _ := repotest.New(t)
	b := filled(1, 4, 7)
	dir := backlog(t, b, 4, 7)
	damaged := slices.Clone(b.segments[4])
	damaged[5000] ^= 1
	save(t, filepath.Join(dir, b.name(4)), damaged)
	_, err := archive.PushAhead(t.Context(), r, archive.PushOptions{Path: filepath.Join(dir, b.name(4))}, enough)
	var d *archive.DamagedError
	if !errors.As(err, &d) {
		t.Errorf("error %v", err)
	}
}
