package repo

import (
	"bytes"
	"context"
	"io"
	"iter"

	"github.com/pgtender/pgtender/backup/storage"
)

// oneObject is a store in which every key holds the same bytes.
type oneObject struct{ data []byte }

func (o *oneObject) Put(context.Context, string, io.ReaderAt, int64, storage.PutOptions) error {
	return storage.ErrForbidden
}

func (o *oneObject) Get(_ context.Context, _ string, off, n int64) (io.ReadCloser, error) {
	if off > int64(len(o.data)) || n >= 0 && off+n > int64(len(o.data)) {
		return nil, storage.ErrShort
	}
	b := o.data[off:]
	if n >= 0 {
		b = b[:n]
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (o *oneObject) List(context.Context, string, string) iter.Seq2[storage.Object, error] {
	return func(func(storage.Object, error) bool) {}
}

func (o *oneObject) Delete(context.Context, string) error { return storage.ErrForbidden }
func (o *oneObject) String() string                       { return "one object" }
