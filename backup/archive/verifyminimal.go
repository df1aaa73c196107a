package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// lookWhy reads the WAL of a segment whose changes cannot be told, which is rare:
// its header does not say what broke the chain. If it was wal_level=minimal,
// recovery ends there (CheckRequiredParameterValues, xlogrecovery.c; PostgreSQL 13
// only warns), though no segment is missing. Such WAL comes into the archive where
// archiving is on again before a checkpoint removes it (XLogArchiveCheckDone,
// xlogarchive.c). first is the first record that starts in the segment, 0 if none
// does. An error means that it could not be judged.
func (f *Fault) lookWhy(ctx context.Context, w *walk, first pg.LSN) error {
	from, start := f.At, w.size.Start(f.Segment.Number)
	if from >= start {
		from = first // a record that goes on in the segment is not what broke it
	}
	if from == 0 {
		return nil
	}
	source := &Source{Repo: w.repo, History: w.history, SegmentSize: w.size}
	r := wal.NewReader(source, from, wal.ReaderOptions{History: w.history, SegmentSize: w.size, SystemID: w.repo.Cluster().SystemID})
	defer r.Close() // opened for reading
	for {
		rec, err := r.Next(ctx)
		switch {
		case err == io.EOF || errors.Is(err, repo.ErrCorrupt) || errors.Is(err, wal.ErrCorrupt) || errors.Is(err, fs.ErrNotExist):
			return nil // it stays what it is; what is wrong further on is a fault of its own
		case err != nil:
			return fmt.Errorf("read the WAL from %s on: %w", from, err)
		case rec.Start >= w.size.Start(f.Segment.Number+1):
			return nil
		}
		flags, err := new(wal.BlockMap).Record(rec)
		if err != nil || flags&wal.FlagWALLevelMinimal == 0 {
			continue
		}
		if f.Kind != FaultMinimal {
			f.Kind, f.At, f.Err = FaultMinimal, rec.Start, fmt.Errorf("record at %s: wal_level was minimal", rec.Start)
		}
		f.Through = rec.Start
	}
}
