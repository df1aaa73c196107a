package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/pgtender/pgtender/backup/storage"
)

func ranges(t *testing.T, s storage.Store) {
	const size = 10_000
	data := random(8, size)
	put(t, s, "r/x", data)
	for _, c := range []struct {
		off, n int64
		want   []byte // nil: ErrShort
	}{
		{0, -1, data}, {0, size, data}, {0, 0, data[:0]}, {0, 1, data[:1]},
		{1, -1, data[1:]}, {1, size - 1, data[1:]}, {4096, 4096, data[4096:8192]},
		{size - 1, 1, data[size-1:]}, {size - 1, -1, data[size-1:]},
		{size, 0, data[:0]}, {size, -1, data[:0]}, {5000, 0, data[:0]},
		{0, size + 1, nil}, {1, size, nil}, {size - 1, 2, nil}, {size, 1, nil},
		{size + 1, 0, nil}, {size + 1, -1, nil}, {size + 1, 1, nil}, {1 << 40, 10, nil}, {1 << 40, -1, nil},
		{10, 1<<63 - 1, nil},
	} {
		got, err := read(t.Context(), s, "r/x", c.off, c.n)
		switch {
		case c.want == nil && (!errors.Is(err, storage.ErrShort) || errors.Is(err, storage.ErrNotExist)):
			t.Errorf("get off=%d n=%d: %d bytes, %v; want ErrShort", c.off, c.n, len(got), err)
		case c.want != nil && (err != nil || !bytes.Equal(got, c.want)):
			t.Errorf("get off=%d n=%d: %d bytes, %v; want %d bytes", c.off, c.n, len(got), err, len(c.want))
		}
	}
	if _, err := read(t.Context(), s, "r/x", -1, 10); err == nil || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("get from a negative offset: %v, want an error of its own", err)
	}
}

func sizes(t *testing.T, s storage.Store) {
	const size = 5000
	put(t, s, "sized", random(7, size))
	for _, r := range []struct{ off, n int64 }{{0, 1}, {0, 256}, {4000, 1000}, {0, size}} {
		data, got, err := storage.ReadPart(t.Context(), s, "sized", r.off, r.n)
		if err != nil || int64(len(data)) != r.n || got != size {
			t.Errorf("%d bytes from %d: %d bytes of an object of %d, %v; want %d", r.n, r.off, len(data), got, err, size)
		}
	}
}

// read is Get and all of its bytes.
func read(ctx context.Context, s storage.Store, key string, off, n int64) ([]byte, error) {
	r, err := s.Get(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

func absent(t *testing.T, s storage.Store) {
	put(t, s, "dir/key", []byte("x"))
	for _, key := range []string{"other", "dir", "dir/keyx", "dir/ke", "dir/key2/x", "a/b/c"} {
		for _, c := range [][2]int64{{0, -1}, {0, 0}, {0, 10}, {7, 10}, {7, 0}, {7, -1}} {
			if _, err := read(t.Context(), s, key, c[0], c[1]); !errors.Is(err, storage.ErrNotExist) {
				t.Errorf("get %s off=%d n=%d: %v, want ErrNotExist", key, c[0], c[1], err)
			}
		}
		wantAbsent(t, s, key)
	}
}

func cancelledBefore(t *testing.T, s storage.Store) {
	put(t, s, "k", []byte("old"))
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	cancel(errLease)

	wantCancelled(t, "put", storage.PutBytes(ctx, s, "k", []byte("new"), storage.PutOptions{}))
	wantCancelled(t, "put if absent", storage.PutBytes(ctx, s, "k2", []byte("new"), storage.PutOptions{IfAbsent: true}))
	_, err := read(ctx, s, "k", 0, -1)
	wantCancelled(t, "get", err)
	wantCancelled(t, "delete", s.Delete(ctx, "k"))
	err = nil
	for _, err = range s.List(ctx, "", "") {
	}
	wantCancelled(t, "list", err)

	want(t, s, "k", []byte("old"))
	wantAbsent(t, s, "k2")
}

func cancelledPut(t *testing.T, s storage.Store) {
	old := []byte("old")
	put(t, s, "k", old)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	src := sourceFunc(func(p []byte, _ int64) (int, error) {
		cancel(errLease)
		return len(p), nil
	})
	wantCancelled(t, "put", s.Put(ctx, "k", src, int64(large()), storage.PutOptions{}))
	want(t, s, "k", old)
}

func cancelledGet(t *testing.T, s storage.Store) {
	put(t, s, "k", random(9, medium()))
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	r, err := s.Get(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel(errLease)
	_, err = io.Copy(io.Discard, r)
	wantCancelled(t, "read", err)
}

func readersAndWriters(t *testing.T, s storage.Store) {
	const rounds, writers, readers = 12, 3, 3
	content := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 50_000+1000*i) }
	put(t, s, "shared/key", content(0))
	errs := parallel(writers+readers, func(i int) error {
		for range rounds {
			if i < writers {
				if err := storage.PutBytes(t.Context(), s, "shared/key", content(i), storage.PutOptions{}); err != nil {
					return err
				}
				continue
			}
			data, err := storage.ReadAll(t.Context(), s, "shared/key", 1<<20)
			if err != nil {
				return err
			}
			if len(data) == 0 || !bytes.Equal(data, content(int(data[0]-'a'))) {
				return fmt.Errorf("a mixture: %d bytes beginning %.10q", len(data), data)
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
