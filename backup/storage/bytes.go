package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// ReadAll reads a whole object of at most limit bytes into memory; a larger
// one is [ErrTooLarge].
func ReadAll(ctx context.Context, s Store, key string, limit int64) ([]byte, error) {
	return untilWhole(func() ([]byte, error) { return readAll(ctx, s, key, limit) })
}

// untilWhole reads again what was replaced while it was read.
func untilWhole(read func() ([]byte, error)) (data []byte, err error) {
	for range 10 {
		if data, err = read(); !errors.Is(err, ErrReplaced) {
			break
		}
	}
	return data, err
}

func readAll(ctx context.Context, s Store, key string, limit int64) (data []byte, err error) {
	r, err := s.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data, err = io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: %w: limit %d bytes", key, ErrTooLarge, limit)
	}
	return data, nil
}

// ReadRange reads exactly n bytes from off on into memory. A range of which
// the object holds only a part is [ErrShort].
func ReadRange(ctx context.Context, s Store, key string, off, n int64) ([]byte, error) {
	data, _, err := ReadPart(ctx, s, key, off, n)
	return data, err
}

// ReadPart is [ReadRange] that also gives the size of the whole object, -1 where
// the store does not tell it along with the range.
func ReadPart(ctx context.Context, s Store, key string, off, n int64) (data []byte, size int64, err error) {
	data, err = untilWhole(func() (data []byte, err error) {
		data, size, err = readPart(ctx, s, key, off, n)
		return data, err
	})
	return data, size, err
}

func readPart(ctx context.Context, s Store, key string, off, n int64) (data []byte, size int64, err error) {
	if n < 0 {
		return nil, 0, fmt.Errorf("read %s: negative length %d", key, n)
	}
	r, err := s.Get(ctx, key, off, n)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data = make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", key, err)
	}
	return data, ObjectSize(r), nil
}

// PutBytes is Put of a byte slice, which must stay unchanged until it returns.
func PutBytes(ctx context.Context, s Store, key string, data []byte, opts PutOptions) error {
	return s.Put(ctx, key, bytes.NewReader(data), int64(len(data)), opts)
}

// PutExact stores data under key unless the key is taken, and succeeds as well
// if it is taken by the very same bytes: after a lost answer "exists" may speak
// of our own earlier attempt. Other bytes are [ErrConflict]; what is stored is
// never replaced. Repeating it is always safe.
func PutExact(ctx context.Context, s Store, key string, data []byte) error {
	err := PutBytes(ctx, s, key, data, PutOptions{IfAbsent: true})
	if !errors.Is(err, ErrExists) {
		return err
	}
	same, err := Same(ctx, s, key, bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return fmt.Errorf("compare with what is stored: %w", err)
	}
	if !same {
		return fmt.Errorf("put %s: %w", key, ErrConflict)
	}
	return nil
}

// Same reports whether the object's bytes are exactly the size bytes of src.
// It reads no further than the first difference, in bounded memory.
func Same(ctx context.Context, s Store, key string, src io.ReaderAt, size int64) (same bool, err error) {
	r, err := s.Get(ctx, key, 0, -1)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	const step = 64 << 10
	ours, theirs := make([]byte, step), make([]byte, step)
	for off := int64(0); ; off += step {
		n, err := io.ReadFull(r, theirs)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return false, fmt.Errorf("read %s: %w", key, err)
		}
		want := min(step, size-off)
		if int64(n) != want {
			return false, nil
		}
		if got, err := src.ReadAt(ours[:want], off); int64(got) < want {
			return false, fmt.Errorf("read source of %s: %w", key, NotAbsence(err))
		}
		if !bytes.Equal(ours[:want], theirs[:want]) {
			return false, nil
		}
		if want < step {
			return true, nil
		}
	}
}
