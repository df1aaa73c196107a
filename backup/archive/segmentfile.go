package archive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// segmentFile is a segment opened for reading.
type segmentFile struct {
	*os.File
	path   string
	info   os.FileInfo
	length int64
	size   pg.SegmentSize // as the first page says, else the file's length
	head   wal.SegmentHeader
}

// openSegment opens a segment and reads its first page header.
func openSegment(path string) (*segmentFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	f := &segmentFile{File: file, path: path}
	if err := f.look(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return f, nil
}

var errNoSegment = errors.New("no WAL segment has this size")

func (f *segmentFile) look() (err error) {
	if f.info, err = f.Stat(); err != nil {
		return err
	}
	f.length = f.info.Size()
	if !pg.SegmentSize(f.length).Valid() || f.length > 1<<30 || !f.info.Mode().IsRegular() {
		return fmt.Errorf("%s has %d bytes: %w", f.path, f.length, errNoSegment)
	}
	f.size = pg.SegmentSize(f.length)
	if f.head, err = wal.ReadSegmentHeader(f); err != nil {
		return err
	}
	if f.head.Plausible() {
		f.size = f.head.SegmentSize
	}
	return nil
}

// header gives the header of the whole file as it is.
func (f *segmentFile) header(r *repo.Repo, seg pg.Segment, own pg.History, flags repo.WALFlags) repo.WALHeader {
	return repo.WALHeader{
		Flags: flags, SystemID: r.Cluster().SystemID, Incarnation: repo.IncarnationOf(own), Segment: seg.Number,
		SegmentSize: f.size, PageMagic: f.head.Magic, End: f.size.Start(seg.Number + 1),
	}
}

// key gives the key under which the whole segment would lie if its name is right.
func (f *segmentFile) key(r *repo.Repo, own pg.History, name repo.WALName) (string, bool) {
	seg, err := pg.ParseSegment(name.Segment, f.size)
	if err != nil {
		return "", false
	}
	h := f.header(r, seg, own, 0)
	return r.WALKey(&h), true
}

// unchanged reports an error if the file is no longer the one of its name. A
// segment that is not kept for the archiver is renamed before it is written
// anew (InstallXLogFileSegment, xlog.c), so a name that still leads to the file
// proves that what was read is what was there. pg_rewind does write in place
// (open_target_file, file_ops.c), which the time of the last write tells.
func (f *segmentFile) unchanged() error {
	now, err := os.Stat(f.path)
	if err != nil {
		return fmt.Errorf("look whether the segment is still in place: %w", err)
	}
	if !os.SameFile(f.info, now) || now.Size() != f.length {
		return fmt.Errorf("%s was removed or recycled while it was read", f.path)
	}
	if !now.ModTime().Equal(f.info.ModTime()) {
		return fmt.Errorf("%s was written to while it was read", f.path)
	}
	return nil
}

// followed reports whether the next segment of the same timeline is in dir and
// has been written to; a recycled file still holds its old position.
func followed(dir string, size pg.SegmentSize, seg pg.Segment) bool {
	next := pg.Segment{Timeline: seg.Timeline, Number: seg.Number + 1}
	f, err := os.Open(filepath.Join(dir, next.Name(size)))
	if err != nil {
		return false
	}
	defer f.Close() // opened for reading
	head, err := wal.ReadSegmentHeader(f)
	return err == nil && head.Address == size.Start(next.Number) && head.Timeline == seg.Timeline
}
