// Package meter counts what passes through a [storage.Store]: calls, failures
// and bytes by verb. Tests assert on it how many requests a piece of work
// costs; commands show it.
package meter

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync/atomic"

	"github.com/pgtender/pgtender/backup/storage"
)

// Counts is what has passed so far. One call is one call of the Store; a store
// may make several requests of it (parts of a large object, pages of a list).
type Counts struct {
	Put, Get, List, Delete int64 // calls begun
	Failed                 int64 // calls that ended in an error, absence and ErrExists included
	Absent                 int64 // of these: storage.ErrNotExist
	Exists                 int64 // of these: storage.ErrExists
	BytesUp                int64 // size of the objects that Put stored
	BytesDown              int64 // bytes that callers read
	Listed                 int64 // objects that List yielded
}

// Sub gives what has passed since an earlier reading.
func (c Counts) Sub(earlier Counts) Counts {
	return Counts{
		Put: c.Put - earlier.Put, Get: c.Get - earlier.Get, List: c.List - earlier.List, Delete: c.Delete - earlier.Delete,
		Failed: c.Failed - earlier.Failed, Absent: c.Absent - earlier.Absent, Exists: c.Exists - earlier.Exists,
		BytesUp: c.BytesUp - earlier.BytesUp, BytesDown: c.BytesDown - earlier.BytesDown, Listed: c.Listed - earlier.Listed,
	}
}

// Store is a storage.Store that counts.
type Store struct {
	inner storage.Store

	put, get, list, del, failed, absent, exists, up, down, listed atomic.Int64
}

var _ storage.Wrapper = (*Store)(nil)

// New counts what passes through it to inner.
func New(inner storage.Store) *Store { return &Store{inner: inner} }

// Counts reads the counters. Under concurrent calls they are not all of one
// moment.
func (s *Store) Counts() Counts {
	return Counts{
		Put: s.put.Load(), Get: s.get.Load(), List: s.list.Load(), Delete: s.del.Load(),
		Failed: s.failed.Load(), Absent: s.absent.Load(), Exists: s.exists.Load(),
		BytesUp: s.up.Load(), BytesDown: s.down.Load(), Listed: s.listed.Load(),
	}
}

// Unwrap gives the store below.
func (s *Store) Unwrap() storage.Store { return s.inner }

// String is the name of the store below.
func (s *Store) String() string { return s.inner.String() }

// Put counts a call, and the bytes once they are stored.
func (s *Store) Put(ctx context.Context, key string, src io.ReaderAt, size int64, opts storage.PutOptions) error {
	s.put.Add(1)
	err := s.ended(s.inner.Put(ctx, key, src, size, opts))
	if err == nil {
		s.up.Add(size)
	}
	return err
}

// Get counts a call, and the bytes as they are read.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	s.get.Add(1)
	r, err := s.inner.Get(ctx, key, off, n)
	if s.ended(err) != nil {
		return nil, err
	}
	return &reader{r, s}, nil
}

// List counts a call, and the objects as they are yielded.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		s.list.Add(1)
		for o, err := range s.inner.List(ctx, prefix, after) {
			if s.ended(err) == nil {
				s.listed.Add(1)
			}
			if !yield(o, err) {
				return
			}
		}
	}
}

// Delete counts a call.
func (s *Store) Delete(ctx context.Context, key string) error {
	s.del.Add(1)
	return s.ended(s.inner.Delete(ctx, key))
}

func (s *Store) ended(err error) error {
	if err != nil {
		s.failed.Add(1)
	}
	if errors.Is(err, storage.ErrNotExist) {
		s.absent.Add(1)
	}
	if errors.Is(err, storage.ErrExists) {
		s.exists.Add(1)
	}
	return err
}

type reader struct {
	io.ReadCloser
	s *Store
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.s.down.Add(int64(n))
	if err != io.EOF {
		r.s.ended(err)
	}
	return n, err
}

// ObjectSize is that of the reader below.
func (r *reader) ObjectSize() int64 { return storage.ObjectSize(r.ReadCloser) }
