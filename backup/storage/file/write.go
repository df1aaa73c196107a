package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"github.com/pgtender/pgtender/backup/storage"
)

const (
	// chunk is how much is written at once, and the memory one Put of a large
	// object takes.
	chunk = 4 << 20
	// directFrom is the size from which O_DIRECT pays.
	directFrom = 1 << 20
	// alignment of memory, offset and length for O_DIRECT. No disk has larger
	// sectors; a file system that wants more answers EINVAL.
	alignment = 4096
)

// buffers are aligned and of chunk bytes.
var buffers = sync.Pool{New: func() any {
	raw := make([]byte, chunk+alignment)
	skip := -int(uintptr(unsafe.Pointer(&raw[0]))) & (alignment - 1)
	buf := raw[skip : skip+chunk : skip+chunk]
	return &buf
}}

// write copies src into the new file f.
func (s *Store) write(ctx context.Context, f *os.File, key string, src io.ReaderAt, size int64) error {
	if size < directFrom {
		return writeSmall(ctx, f, key, src, size)
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	direct := !s.opts.Buffered && setDirect(f, true) == nil
	for off := int64(0); off < size; {
		if err := storage.ContextError(ctx); err != nil {
			return fmt.Errorf("put %s: %w", key, err)
		}
		data := (*buf)[:min(chunk, size-off)]
		if n, err := src.ReadAt(data, off); n < len(data) {
			return storage.SourceError(key, off+int64(n), size, err)
		}
		if direct {
			// Only the last piece is no whole number of blocks.
			padded := (*buf)[:(len(data)+alignment-1)&^(alignment-1)]
			clear(padded[len(data):])
			data = padded
		}
		var err error
		if direct, err = writeAt(f, data, off, direct); err != nil {
			return failed("put", key, err)
		}
		off += int64(len(data))
	}
	if size%alignment != 0 {
		if err := f.Truncate(size); err != nil { // cuts the padding off
			return failed("put", key, err)
		}
	}
	return nil
}

// writeAt writes data, and gives up O_DIRECT where the file system refuses it
// no earlier than now.
func writeAt(f *os.File, data []byte, off int64, direct bool) (stillDirect bool, err error) {
	_, err = f.WriteAt(data, off)
	if direct && errors.Is(err, syscall.EINVAL) {
		direct = false
		if err = setDirect(f, false); err == nil {
			_, err = f.WriteAt(data, off)
		}
	}
	return direct, err
}

func writeSmall(ctx context.Context, f *os.File, key string, src io.ReaderAt, size int64) error {
	data := make([]byte, size)
	if n, err := src.ReadAt(data, 0); int64(n) < size {
		return storage.SourceError(key, int64(n), size, err)
	}
	if err := storage.ContextError(ctx); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return failed("put", key, err)
	}
	return nil
}
