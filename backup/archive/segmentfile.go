package archive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// segmentFile is a segment opened for reading.
type segmentFile struct {
	*os.File
	path   string
	info   os.FileInfo
	length int64
	size   pg.SegmentSize // as the first page says, else the file's length
	magic  uint16
}

// openSegment opens a segment and reads its segment size from the first page
// (XLogLongPageHeaderData, xlog_internal.h).
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
	var head [pageHeader]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return err
	}
	f.magic = binary.LittleEndian.Uint16(head[:])
	if said, ok := segmentSizeIn(head[:]); ok {
		f.size = said
	}
	return nil
}

const (
	pageHeader = 40     // bytes of a segment's first page header
	longHeader = 0x0002 // XLP_LONG_HEADER
)

// segmentSizeIn gives the segment size that the first page of a segment names.
func segmentSizeIn(head []byte) (pg.SegmentSize, bool) {
	size := pg.SegmentSize(binary.LittleEndian.Uint32(head[32:]))
	return size, binary.LittleEndian.Uint16(head[2:])&longHeader != 0 && size.Valid()
}

// header gives the header of the whole file as it is.
func (f *segmentFile) header(r *repo.Repo, seg pg.Segment, own pg.History, flags repo.WALFlags) repo.WALHeader {
	return repo.WALHeader{
		Flags: flags, SystemID: r.Cluster().SystemID, Incarnation: repo.IncarnationOf(own), Segment: seg.Number,
		SegmentSize: f.size, PageMagic: f.magic, End: f.size.Start(seg.Number + 1),
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
// proves that what was read is what was there.
func (f *segmentFile) unchanged() error {
	now, err := os.Stat(f.path)
	if err != nil {
		return fmt.Errorf("look whether the segment is still in place: %w", err)
	}
	if !os.SameFile(f.info, now) || now.Size() != f.length {
		return fmt.Errorf("%s was removed or recycled while it was read", f.path)
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
	var head [pageHeader]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return false
	}
	return pg.LSN(binary.LittleEndian.Uint64(head[8:])) == size.Start(next.Number) && pg.Timeline(binary.LittleEndian.Uint32(head[4:])) == seg.Timeline
}
