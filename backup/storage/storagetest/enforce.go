package storagetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"iter"
	"sync"
	"testing"

	"github.com/pgtender/pgtender/backup/storage"
)

// Enforce is inner under watch. It fails t when a caller stores other content
// under a key that it stored before and did not delete (keys for which mutable
// is true excepted; nil: none), when two Puts with IfAbsent of one key both
// succeed, and when an object that was stored and not deleted is not there.
// Only what goes through this wrapper is known to it.
func Enforce(t testing.TB, inner storage.Store, mutable func(key string) bool) storage.Store {
	if mutable == nil {
		mutable = func(string) bool { return false }
	}
	return &enforcer{t: t, inner: inner, mutable: mutable, stored: map[string][sha256.Size]byte{}}
}

type enforcer struct {
	t       testing.TB
	inner   storage.Store
	mutable func(string) bool

	mu     sync.Mutex
	stored map[string][sha256.Size]byte // content of each key known to be there
}

var _ storage.Wrapper = (*enforcer)(nil)

func (e *enforcer) Unwrap() storage.Store { return e.inner }
func (e *enforcer) String() string        { return e.inner.String() }

func (e *enforcer) Put(ctx context.Context, key string, src io.ReaderAt, size int64, opts storage.PutOptions) error {
	h := sha256.New()
	if n, err := io.Copy(h, io.NewSectionReader(src, 0, size)); err != nil {
		return storage.SourceError(key, n, size, err)
	}
	sum := [sha256.Size]byte(h.Sum(nil))
	before, known := e.look(key)
	if known && before != sum && !opts.IfAbsent && !e.mutable(key) {
		e.t.Errorf("the immutable object %s is about to be replaced by other content", key)
	}
	if err := e.inner.Put(ctx, key, src, size, opts); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, taken := e.stored[key]; taken && opts.IfAbsent {
		e.t.Errorf("put of %s with IfAbsent succeeded although the key was taken", key)
	}
	e.stored[key] = sum
	return nil
}

func (e *enforcer) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	_, before := e.look(key)
	r, err := e.inner.Get(ctx, key, off, n)
	if errors.Is(err, storage.ErrNotExist) {
		if _, after := e.look(key); before && after {
			e.t.Errorf("get %s: %v, although it was stored and not deleted", key, err)
		}
	}
	return r, err
}

func (e *enforcer) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return e.inner.List(ctx, prefix, after)
}

func (e *enforcer) Delete(ctx context.Context, key string) error {
	e.mu.Lock()
	delete(e.stored, key) // before the call: it may have effect although it fails
	e.mu.Unlock()
	return e.inner.Delete(ctx, key)
}

func (e *enforcer) look(key string) (sum [sha256.Size]byte, known bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sum, known = e.stored[key]
	return sum, known
}
