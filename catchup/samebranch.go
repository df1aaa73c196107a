package catchup

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// confirm makes sure that the WAL that the directory is to share with the leader
// is one. Histories do not tell: of two standbys that were promoted at the same
// place while neither could see the other's history file, each has a timeline of
// the same number that began there.
//
// The last WAL that both have is compared; records are linked, so that what was
// different before is different there. Where the archive has nothing of it yet, no
// backup serves either that the directory could be converged to.
func (l *LocalFacts) confirm(ctx context.Context, r *repo.Repo, dir string, leader *LeaderFacts) error {
	size, from := l.control.SegmentSize, min(l.Redo, l.Fork)
	cover, err := archive.Coverage(ctx, r, leader.History, size, from)
	if err != nil {
		return fmt.Errorf("see what the archive holds from %s on: %w", from, err)
	}
	end := min(l.End, l.Fork, cover.Until)
	for start := size.Start(size.SegmentBefore(end)); start < end && start+pg.LSN(size) > from; start -= pg.LSN(size) {
		same, known, err := l.shares(ctx, r, dir, leader, start, end)
		if err != nil {
			return err
		}
		if known && !same {
			l.Unknown = fmt.Sprintf("its WAL before %s is not the leader's, although their histories are the same there: two servers have gone on from one place", min(end, start+pg.LSN(size)))
		}
		if known || start == 0 {
			return nil
		}
	}
	return nil
}

// shares compares the records of one segment in pg_wal, as far as end, with those
// in the archive. known is false where either has none that can be read.
func (l *LocalFacts) shares(ctx context.Context, r *repo.Repo, dir string, leader *LeaderFacts, start, end pg.LSN) (same, known bool, err error) {
	size := l.control.SegmentSize
	own := wal.Dir{Path: filepath.Join(dir, "pg_wal"), History: l.History, SegmentSize: size}
	end, err = lastEnd(ctx, own, start, min(end, start+pg.LSN(size)))
	if end == 0 || err != nil {
		return false, false, err
	}
	n := size.SegmentOf(start)
	mine, _, err := own.Open(ctx, n)
	if err != nil {
		return false, false, fmt.Errorf("look at pg_wal: %w", err)
	}
	defer mine.Close() // opened for reading
	theirs, _, err := (&archive.Source{Repo: r, History: leader.History, SegmentSize: size}).Open(ctx, n)
	if unreadable(err) {
		return false, false, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("compare WAL with the archive: %w", err)
	}
	defer theirs.Close()
	same, err = equalTo(int64(end-start), mine, theirs)
	if err != nil {
		return false, false, fmt.Errorf("compare WAL with the archive: %w", err)
	}
	return same, true, nil
}

// lastEnd gives where the last record ends that lies in a part of a segment, 0 if
// there is none. What an XLOG_SWITCH leaves behind it means nothing, so that one
// does not count.
func lastEnd(ctx context.Context, own wal.Dir, from, to pg.LSN) (last pg.LSN, err error) {
	in := wal.NewReader(own, from, wal.ReaderOptions{History: own.History, SegmentSize: own.SegmentSize})
	defer in.Close() // opened for reading
	for {
		rec, err := in.Next(ctx)
		switch {
		case err == io.EOF || unreadable(err) && ctx.Err() == nil:
			return last, nil
		case err != nil:
			return 0, fmt.Errorf("look at pg_wal: %w", err)
		case rec.End > to || rec.IsSwitch():
			return last, nil
		}
		last = rec.End
	}
}

// equalTo reports whether two files begin with the same bytes.
func equalTo(n int64, a, b io.ReaderAt) (bool, error) {
	x, y := make([]byte, 1<<18), make([]byte, 1<<18)
	for off := int64(0); off < n; off += int64(len(x)) {
		k := min(n-off, int64(len(x)))
		if _, err := io.ReadFull(io.NewSectionReader(a, off, k), x[:k]); err != nil {
			return false, err
		}
		if _, err := io.ReadFull(io.NewSectionReader(b, off, k), y[:k]); err != nil {
			return false, err
		}
		if !bytes.Equal(x[:k], y[:k]) {
			return false, nil
		}
	}
	return true, nil
}

// goesOn says what is wrong with the end of a crashed server's WAL: pg_wal has WAL
// from after it. To recovery WAL ends at the first record that cannot be read, be it
// one that was never finished or one that a disk has spoilt; but past the latter the
// server went on, and changed pages.
func (w *walReader) goesOn(ctx context.Context, end pg.LSN) (string, error) {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return "", fmt.Errorf("look at pg_wal: %w", err)
	}
	last := w.size.SegmentOf(end)
	for _, e := range entries {
		seg, err := pg.ParseSegment(e.Name(), w.size)
		if err != nil || seg.Number < last || !archive.Serves(w.history, w.size, seg) {
			continue
		}
		path := filepath.Join(w.dir, e.Name())
		own, err := holdsOwnWAL(path)
		at := w.size.Start(seg.Number)
		if err == nil && own && seg.Number == last {
			at, err = w.recordAfter(ctx, path, end)
			own = at != 0
		}
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("look at pg_wal: %w", err)
		case err == nil && own:
			return fmt.Sprintf("its WAL cannot be read at %s, and goes on at %s", end, at), nil
		}
	}
	return "", nil
}

// recordAfter finds a record on one of the pages of a segment that begin past a
// position, 0 if there is none. A record that was being written when the server
// died may have left pages, but none on which another one begins.
func (w *walReader) recordAfter(ctx context.Context, path string, after pg.LSN) (pg.LSN, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close() // opened for reading
	block := pg.LSN(w.block)
	head := make([]byte, 16)
	start := w.size.Start(w.size.SegmentOf(after))
	for at := after - after%block + block; at < start+pg.LSN(w.size); at += block {
		if _, err := f.ReadAt(head, int64(at-start)); err != nil {
			return 0, err
		}
		if pg.LSN(binary.LittleEndian.Uint64(head[8:])) != at { // xlp_pageaddr
			continue
		}
		in := wal.NewReader(wal.Dir{Path: w.dir, History: w.history, SegmentSize: w.size}, at,
			wal.ReaderOptions{History: w.history, SegmentSize: w.size, SystemID: w.system})
		rec, err := in.Next(ctx)
		if err == nil {
			at = rec.Start
		}
		in.Close() // opened for reading
		if err == nil {
			return at, nil
		}
		if err != io.EOF && !unreadable(err) {
			return 0, err
		}
	}
	return 0, nil
}
