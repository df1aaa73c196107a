// Package mem keeps objects in memory: for tests, and as the shortest reading
// of what a [storage.Store] promises. It is as strict as the strictest real
// store: like a file system it refuses a key below another key.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
)

// Store is a storage.Store in memory. Its zero value is empty and ready.
type Store struct {
	mu      sync.RWMutex
	keys    []string          // sorted; guarded by mu
	objects map[string]object // guarded by mu
}

// object is never modified once it is in the map, so readers need no lock.
type object struct {
	data     []byte
	modified time.Time
}

var _ storage.Store = (*Store)(nil)

// New gives an empty store.
func New() *Store { return &Store{} }

// String says that this is memory.
func (s *Store) String() string { return "memory" }

// Put reads src whole before it stores anything.
func (s *Store) Put(ctx context.Context, key string, src io.ReaderAt, size int64, opts storage.PutOptions) error {
	if err := storage.CheckPut(ctx, key, size); err != nil {
		return err
	}
	// With room for what is read to find the end: a buffer that grows is copied.
	buf := bytes.NewBuffer(make([]byte, 0, min(size, 64<<20)+bytes.MinRead))
	n, err := io.Copy(buf, contextReader{ctx, io.NewSectionReader(src, 0, size)})
	if err != nil || n != size {
		return storage.SourceError(key, n, size, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := storage.CheckCall(ctx, "put", key); err != nil {
		return err
	}
	if err := s.insert(key, opts); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	if s.objects == nil {
		s.objects = map[string]object{}
	}
	s.objects[key] = object{data: buf.Bytes(), modified: time.Now()}
	return nil
}

// insert makes room for key in s.keys.
func (s *Store) insert(key string, opts storage.PutOptions) error {
	at, taken := slices.BinarySearch(s.keys, key)
	if taken {
		if opts.IfAbsent {
			return storage.ErrExists
		}
		return nil
	}
	if below, _ := slices.BinarySearch(s.keys, key+"/"); below < len(s.keys) && strings.HasPrefix(s.keys[below], key+"/") {
		return fmt.Errorf("%w: %s lies below it", storage.ErrInvalidKey, s.keys[below])
	}
	for i, c := range key {
		if _, ok := s.objects[key[:i]]; c == '/' && ok {
			return fmt.Errorf("%w: it lies below %s", storage.ErrInvalidKey, key[:i])
		}
	}
	s.keys = slices.Insert(s.keys, at, key)
	return nil
}

// Get gives a reader of the object as it is now.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := storage.CheckGet(ctx, key, off); err != nil {
		return nil, err
	}
	s.mu.RLock()
	o, ok := s.objects[key]
	s.mu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("get %s: %w", key, storage.ErrNotExist)
	}
	size := int64(len(o.data))
	switch {
	case off > size || n > size-off:
		return nil, fmt.Errorf("get %s: %w: %d bytes from %d of %d", key, storage.ErrShort, n, off, size)
	case n < 0:
		n = size - off
	}
	return reader{contextReader{ctx, bytes.NewReader(o.data[off : off+n])}, size}, nil
}

// List yields the keys that were there when it began.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		s.mu.RLock()
		at, _ := slices.BinarySearch(s.keys, max(prefix, after))
		keys := slices.Clone(s.keys[at:])
		s.mu.RUnlock()
		if err := storage.ContextError(ctx); err != nil {
			yield(storage.Object{}, fmt.Errorf("list %s: %w", prefix, err))
			return
		}
		for _, key := range keys {
			if !strings.HasPrefix(key, prefix) {
				return
			}
			if err := storage.ContextError(ctx); err != nil {
				yield(storage.Object{}, fmt.Errorf("list %s: %w", prefix, err))
				return
			}
			s.mu.RLock()
			o, ok := s.objects[key]
			s.mu.RUnlock()
			if !ok || key <= after {
				continue
			}
			if !yield(storage.Object{Key: key, Size: int64(len(o.data)), Modified: o.modified}, nil) {
				return
			}
		}
	}
}

// Delete forgets the object.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := storage.CheckCall(ctx, "delete", key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := slices.BinarySearch(s.keys, key); ok {
		s.keys = slices.Delete(s.keys, at, at+1)
		delete(s.objects, key)
	}
	return nil
}

// reader yields a range of an object.
type reader struct {
	contextReader
	size int64 // of the object
}

func (r reader) ObjectSize() int64 { return r.size }
func (r reader) Close() error      { return nil }

// contextReader ends with the context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := storage.ContextError(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
