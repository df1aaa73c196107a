package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
)

// largeRead is the length from which a Get asks for read-ahead and leaves
// nothing behind in the page cache.
const largeRead = 4 << 20

// Get opens the file. What is read is the file of that moment, even if it is
// replaced or deleted meanwhile.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := storage.CheckGet(ctx, key, off); err != nil {
		return nil, err
	}
	r, err := s.root("get", key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, size, err := s.open(r, key)
	if err != nil {
		return nil, err
	}
	switch {
	case off > size || n > size-off:
		f.Close()
		return nil, fmt.Errorf("get %s: %w: %d bytes from %d of %d", key, storage.ErrShort, n, off, size)
	case n < 0:
		n = size - off
	}
	if n >= largeRead {
		adviseSequential(f, off, n)
	}
	return &reader{ctx: ctx, f: f, key: key, size: size, off: off, end: off + n, forget: n >= largeRead, forgotten: off}, nil
}

// Gap is that of a local disk. Restoring the 20th of 20 incremental backups of
// 10,000 random pages each of 1 GB, from memory: 1,149 requests for 365 MB at
// 64 KiB, 2,747 for 313 MB at 16 KiB and 6,082 for the 292 MB that are wanted
// without; 2.0, 2.0 and 2.4 s of processor time.
func (s *Store) Gap() int { return 16 << 10 }

// open opens an object whose name is durable.
func (s *Store) open(r *os.Root, key string) (f *os.File, size int64, err error) {
	f, err = r.Open(key)
	if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
		return nil, 0, fmt.Errorf("get %s: %w", key, storage.ErrNotExist)
	}
	if err != nil {
		return nil, 0, failed("get", key, err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = failed("get", key, err)
	case info.IsDir():
		err = fmt.Errorf("get %s: %w", key, storage.ErrNotExist)
	case !info.Mode().IsRegular():
		err = &storage.Error{Op: "get", Key: key, Err: fmt.Errorf("not a regular file: %v", info.Mode()), Permanent: true}
	case time.Since(changed(info)) < 5*time.Minute && !s.synced.has(info):
		serr := s.syncUp(r, path.Dir(key), young)
		switch {
		case serr == nil:
			s.synced.add(info)
		case !errors.Is(serr, fs.ErrNotExist): // a name that is gone again needs no sync
			err = failed("get", key, serr)
		}
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// changed is when the file got its name, at the latest (link and rename set
// the inode's change time).
func changed(info fs.FileInfo) time.Time {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return changeTime(st)
	}
	return time.Now()
}

// reader yields a range of an open file.
type reader struct {
	ctx      context.Context
	f        *os.File
	key      string
	size     int64 // of the object
	off, end int64

	forget    bool // drop what was read from the page cache
	forgotten int64
}

func (r *reader) Read(p []byte) (int, error) {
	if err := storage.ContextError(r.ctx); err != nil {
		return 0, fmt.Errorf("get %s: %w", r.key, err)
	}
	if r.off == r.end {
		return 0, io.EOF
	}
	n, err := r.f.ReadAt(p[:min(int64(len(p)), r.end-r.off, chunk)], r.off)
	r.off += int64(n)
	if r.forget && (r.off-r.forgotten >= largeRead || r.off == r.end) {
		adviseDone(r.f, r.forgotten, r.off-r.forgotten)
		r.forgotten = r.off
	}
	switch {
	case n > 0:
		return n, nil // an error comes again at the next Read
	case err == io.EOF:
		return 0, fmt.Errorf("get %s: %w: cut at %d while being read", r.key, storage.ErrShort, r.off)
	case err != nil:
		return 0, failed("get", r.key, err)
	}
	return 0, nil
}

// ObjectSize is that of the file when it was opened.
func (r *reader) ObjectSize() int64 { return r.size }

func (r *reader) Close() error { return r.f.Close() }
