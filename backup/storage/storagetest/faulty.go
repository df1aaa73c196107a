package storagetest

import (
	"context"
	"io"
	"iter"

	"github.com/pgtender/pgtender/backup/storage"
)

// Verb is a method of storage.Store.
type Verb string

// The verbs, as a [Fault] sees them.
const (
	Put    Verb = "put"
	Get    Verb = "get"
	List   Verb = "list"
	Delete Verb = "delete"
)

// Call is one operation about to happen.
type Call struct {
	Verb     Verb
	Key      string // the prefix, for List
	IfAbsent bool   // of a Put
}

// Fault decides what becomes of a call:
//
//	true, nil   it happens
//	false, err  it fails and has no effect
//	true, err   it happens and fails all the same: a Put or Delete is carried
//	            out and its answer lost; a Get breaks after half of its bytes;
//	            a List ends with err after it yielded half of its objects
//	false, nil  the store lies: a Put or Delete succeeds without effect, a List
//	            is empty, and a Get finds nothing (storage.ErrNotExist)
//
// It is called before the operation, from several goroutines at once.
type Fault func(Call) (apply bool, err error)

// Faulty is inner with its calls subject to fault. It keeps the promises of a
// storage.Store as far as fault lets it.
func Faulty(inner storage.Store, fault Fault) storage.Store { return &faulty{inner, fault} }

type faulty struct {
	inner storage.Store
	fault Fault
}

var _ storage.Wrapper = (*faulty)(nil)

func (f *faulty) Unwrap() storage.Store { return f.inner }
func (f *faulty) String() string        { return f.inner.String() }

func (f *faulty) Put(ctx context.Context, key string, src io.ReaderAt, size int64, opts storage.PutOptions) error {
	apply, err := f.fault(Call{Put, key, opts.IfAbsent})
	if apply {
		if inner := f.inner.Put(ctx, key, src, size, opts); inner != nil {
			return inner
		}
	}
	return err
}

func (f *faulty) Delete(ctx context.Context, key string) error {
	apply, err := f.fault(Call{Verb: Delete, Key: key})
	if apply {
		if inner := f.inner.Delete(ctx, key); inner != nil {
			return inner
		}
	}
	return err
}

func (f *faulty) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	apply, err := f.fault(Call{Verb: Get, Key: key})
	switch {
	case !apply && err == nil:
		return nil, storage.ErrNotExist
	case !apply:
		return nil, err
	}
	r, inner := f.inner.Get(ctx, key, off, n)
	if inner != nil || err == nil {
		return r, inner
	}
	defer r.Close()
	data, inner := io.ReadAll(r)
	if inner != nil {
		return nil, inner
	}
	return io.NopCloser(&broken{data[:len(data)/2], err}), nil
}

// broken yields its data and then its error.
type broken struct {
	data []byte
	err  error
}

func (b *broken) Read(p []byte) (int, error) {
	if len(b.data) == 0 {
		return 0, b.err
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}

func (f *faulty) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		apply, err := f.fault(Call{Verb: List, Key: prefix})
		if err == nil {
			if apply {
				f.inner.List(ctx, prefix, after)(yield)
			}
			return
		}
		var objects []storage.Object
		if apply {
			for o, inner := range f.inner.List(ctx, prefix, after) {
				if inner != nil {
					yield(o, inner)
					return
				}
				objects = append(objects, o)
			}
		}
		for _, o := range objects[:len(objects)/2] {
			if !yield(o, nil) {
				return
			}
		}
		yield(storage.Object{}, err)
	}
}
