package catchup

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// leaving is a runner on old data with some WAL, whose plan writes so many bytes.
func leaving(t *testing.T, write int64) (*runner, string) {
	t.Helper()
	dir := t.TempDir()
	wal := filepath.Join(dir, "pg_wal")
	for _, name := range []string{
		"000000010000000000000001", "000000010000000000000002", "00000002.history", ".pgtender-spool/asked",
		"archive_status/000000010000000000000001.done", "archive_status/000000010000000000000002.done", "summaries/x.summary",
	} {
		path := filepath.Join(wal, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := &Plan{Dir: DirFacts{Path: dir}, Choice: ByMaps, Rungs: []Rung{{Name: ByMaps, Write: write}}}
	return &runner{plan: p, log: slog.New(slog.DiscardHandler)}, wal
}

func below(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if path != dir {
			names = append(names, path[len(dir)+1:])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestOldWALIsRemovedWhileFilesArrive(t *testing.T) {
	r, wal := leaving(t, 1)
	began := make(chan struct{})
	r.opts.step = func(name string) {
		if name != "saved" {
			return
		}
		select {
		case <-began:
		case <-time.After(time.Minute):
			t.Error("no file arrives while WAL is saved and removed")
		}
	}
	if err := r.besideWAL(t.Context(), func(context.Context) error { close(began); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"archive_status", "summaries"}, below(t, wal)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestOldWALIsRemovedFirstWhereItsRoomIsNeeded(t *testing.T) {
	free, _ := room(t.TempDir())
	for name, write := range map[string]int64{"more is written than is free": 2 * free, "it is not known how much is written": 0} {
		t.Run(name, func(t *testing.T) {
			r, wal := leaving(t, write)
			err := r.besideWAL(t.Context(), func(context.Context) error {
				if left := below(t, wal); len(left) != 2 {
					t.Errorf("files arrive while %q are there", left)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestWhatAKilledRunHalfSavedIsRemoved(t *testing.T) {
	r, _ := leaving(t, 1)
	for _, dir := range []string{SavedWAL(r.dir()), workPath(r.dir(), savedName)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"000000010000000000000001", ".000000010000000000000002.1.pgtender-tmp"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.sweep(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{SavedWAL(r.dir()), workPath(r.dir(), savedName)} {
		if diff := cmp.Diff([]string{"000000010000000000000001"}, below(t, dir)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", dir, diff)
		}
	}
}

// A segment without a mark would seem to be what was being written.
func TestMarksStayUntilTheirSegmentsAreGone(t *testing.T) {
	r, wal := leaving(t, 1)
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := errors.New("ended")
	r.opts.step = func(string) { cancel(ended) }
	if err := r.leaveWAL(ctx); !errors.Is(err, ended) {
		t.Fatalf("it goes on: %v", err)
	}
	left := below(t, filepath.Join(wal, "archive_status"))
	if diff := cmp.Diff([]string{"000000010000000000000001.done", "000000010000000000000002.done"}, left); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
