package catchup_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
)

// TestWhatAFollowerAloneHasIsSaved: a standby says of all it has received that it is
// archived. Of what nobody has archived, and the leader has removed, it may have the
// only copy.
func TestWhatAFollowerAloneHasIsSaved(t *testing.T) {
	t.Parallel()
	const size = pg.DefaultSegmentSize
	x := newBranched(t, branch{major: 15, stop: "lagging, clean", taken: "after the fork", protect: "checksums", seed: 21})
	marks, err := filepath.Glob(filepath.Join(x.old.DataDir, "pg_wal", "archive_status", "????????????????????????.done"))
	if err != nil || len(marks) == 0 {
		t.Fatalf("no segment is marked: %v", err)
	}
	name := filepath.Base(marks[0][:len(marks[0])-len(".done")])
	objects, err := filepath.Glob(filepath.Join(x.store, "*", "*", "wal", "*", "*", name))
	if err != nil || len(objects) != 1 {
		t.Fatalf("%s is archived as %q: %v", name, objects, err)
	}
	if err := os.Remove(objects[0]); err != nil {
		t.Fatal(err)
	}
	segment, err := pg.ParseSegment(name, size)
	if err != nil {
		t.Fatal(err)
	}
	for where, test := range map[string]struct {
		oldest pg.LSN
		saved  bool
	}{
		"and the leader begins after it":        {size.Start(segment.Number + 1), true},
		"and what the leader has is not known":  {0, true},
		"or not, since the leader has it still": {size.Start(segment.Number), false},
	} {
		t.Run(where, func(t *testing.T) {
			y := x.copied(t)
			o := y.gatherOptions(t)
			leader := o.Leader
			o.Rung = catchup.ByHashes
			o.Leader = func(ctx context.Context) (*catchup.LeaderFacts, error) {
				l, err := leader(ctx)
				l.Oldest = test.oldest
				return l, err
			}
			var pushed []string
			_, err := catchup.Run(t.Context(), y.plan(t, o), catchup.RunOptions{Repo: y.repo, Log: testLog(t, "unarchived WAL"),
				Archive: func(_ context.Context, path string) error {
					pushed = append(pushed, filepath.Base(path))
					return errors.New("refused")
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			_, err = os.Stat(filepath.Join(catchup.SavedWAL(y.old.DataDir), name))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if saved := err == nil; saved != test.saved || saved != (len(pushed) == 1) {
				t.Errorf("saved %t, pushed %q", saved, pushed)
			}
		})
	}
}
