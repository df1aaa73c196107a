package storagetest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup/storage"
)

// large is the size of more than two parts of a multipart upload, medium of
// more than one; both are no multiple of anything. Under -short there is no
// server that knows parts.
func large() int {
	if testing.Short() {
		return 5<<20 + 4097
	}
	return 20<<20 + 4097
}

func medium() int {
	if testing.Short() {
		return 1<<20 + 1
	}
	return 8<<20 + 1
}

func roundTrip(t *testing.T, s storage.Store) {
	for _, key := range []string{
		"a", "b/c", "b/d/e/f/g/h", "b/.hidden", "c/A-Z_a~z=0+9.x",
		strings.Repeat("long", 63), strings.Repeat("p/", 255) + "x",
	} {
		data := random(1, 1000+len(key))
		put(t, s, key, data)
		want(t, s, key, data)
	}
}

func emptyObject(t *testing.T, s storage.Store) {
	put(t, s, "empty", nil)
	want(t, s, "empty", nil)
	for _, n := range []int64{0, -1} {
		r, err := s.Get(t.Context(), "empty", 0, n)
		if err != nil {
			t.Fatalf("get %d bytes of an empty object: %v", n, err)
		}
		if data, err := io.ReadAll(r); err != nil || len(data) != 0 {
			t.Fatalf("an empty object yields %d bytes, %v", len(data), err)
		}
		r.Close()
	}
	if got := list(t, s, "", ""); !slices.Equal(got, []string{"empty"}) {
		t.Fatalf("list: %q", got)
	}
}

func largeObject(t *testing.T, s storage.Store) {
	data := random(2, large())
	put(t, s, "x/large", data)
	r, err := s.Get(t.Context(), "x/large", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if digest(t, r) != sha256.Sum256(data) {
		t.Fatal("the object differs from what was put")
	}
	off, n := len(data)/3, len(data)/2
	part, err := storage.ReadRange(t.Context(), s, "x/large", int64(off), int64(n))
	if err != nil || !bytes.Equal(part, data[off:off+n]) {
		t.Fatalf("a range across parts differs (%v)", err)
	}
}

func replace(t *testing.T, s storage.Store) {
	for _, data := range [][]byte{[]byte("first"), []byte("the second"), nil, []byte("4")} {
		put(t, s, "dir/key", data)
		want(t, s, "dir/key", data)
	}
}

func ifAbsent(t *testing.T, s storage.Store) {
	for _, size := range []int{0, 10, medium()} {
		key, first := fmt.Sprintf("absent/%d", size), random(3, size)
		if err := storage.PutBytes(t.Context(), s, key, first, storage.PutOptions{IfAbsent: true}); err != nil {
			t.Fatalf("put of an absent key: %v", err)
		}
		for _, data := range [][]byte{first, random(4, size+1)} {
			err := storage.PutBytes(t.Context(), s, key, data, storage.PutOptions{IfAbsent: true})
			if !errors.Is(err, storage.ErrExists) || errors.Is(err, storage.ErrNotExist) {
				t.Fatalf("put of an existing key: %v, want ErrExists", err)
			}
		}
		want(t, s, key, first)
	}
}

func ifAbsentRace(t *testing.T, s storage.Store) {
	for round := range 10 {
		race(t, s, fmt.Sprintf("race/%d", round), 24, 100)
	}
}

func ifAbsentRaceLarge(t *testing.T, s storage.Store) { race(t, s, "race/large", 4, medium()) }

// race lets writers with different contents create the same key, once.
func race(t *testing.T, s storage.Store, key string, writers, size int) {
	t.Helper()
	atomic, err := storage.ConditionalPut(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if !atomic {
		t.Skip("the store says that it has no atomic IfAbsent")
	}
	errs := parallel(writers, func(i int) error {
		data := random(byte(i), size+i)
		return storage.PutBytes(t.Context(), s, key, data, storage.PutOptions{IfAbsent: true})
	})
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("writers %d and %d both created %s", winner, i, key)
		case err == nil:
			winner = i
		case !errors.Is(err, storage.ErrExists):
			t.Fatalf("writer %d: %v, want ErrExists", i, err)
		}
	}
	if winner < 0 {
		t.Fatalf("nobody created %s", key)
	}
	want(t, s, key, random(byte(winner), size+winner))
}

func shortSource(t *testing.T, s storage.Store) {
	for _, have := range []int{0, 10, medium()} {
		src := bytes.NewReader(random(5, have))
		if err := s.Put(t.Context(), "short", src, int64(have)+1, storage.PutOptions{}); err == nil || storage.Retryable(err) {
			t.Fatalf("put of %d bytes from a source of %d: %v, want a permanent error", have+1, have, err)
		}
		wantAbsent(t, s, "short")
	}
	if err := s.Put(t.Context(), "short", bytes.NewReader(nil), -1, storage.PutOptions{}); err == nil {
		t.Fatal("put of a negative size succeeded")
	}
}

func failingSource(t *testing.T, s storage.Store) {
	broken := &fs.PathError{Op: "read", Path: "base/1/2", Err: fs.ErrNotExist}
	for _, size := range []int64{100, int64(medium())} {
		src := sourceFunc(func(p []byte, off int64) (int, error) {
			if off+int64(len(p)) >= size {
				return 0, broken
			}
			return len(p), nil
		})
		err := s.Put(t.Context(), "broken", src, size, storage.PutOptions{})
		if err == nil || storage.Retryable(err) {
			t.Fatalf("put from a source that fails: %v, want a permanent error", err)
		}
		if errors.Is(err, storage.ErrNotExist) {
			t.Errorf("the source's own absence looks like the object's: %v", err)
		}
		wantAbsent(t, s, "broken")
	}
}

func longSource(t *testing.T, s storage.Store) {
	data := random(6, 5000)
	if err := s.Put(t.Context(), "head", bytes.NewReader(data), 4096, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	want(t, s, "head", data[:4096])
}

func putExact(t *testing.T, s storage.Store) {
	for _, size := range []int{0, 1, 64 << 10, 200_000} {
		key, data := fmt.Sprintf("exact/%d", size), random(7, size)
		for range 2 {
			if err := storage.PutExact(t.Context(), s, key, data); err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
		}
		others := [][]byte{append(slices.Clone(data), 1)}
		if size > 0 {
			flipped := slices.Clone(data)
			flipped[size-1] ^= 1
			others = append(others, flipped, data[:size-1])
		}
		for _, other := range others {
			if err := storage.PutExact(t.Context(), s, key, other); !errors.Is(err, storage.ErrConflict) {
				t.Errorf("%d other bytes over %d: %v, want ErrConflict", len(other), size, err)
			}
		}
		want(t, s, key, data)
	}
}

func deleteTwice(t *testing.T, s storage.Store) {
	put(t, s, "d/e/f", []byte("x"))
	put(t, s, "d/e/g", []byte("y"))
	for range 2 {
		if err := s.Delete(t.Context(), "d/e/f"); err != nil {
			t.Fatal(err)
		}
		wantAbsent(t, s, "d/e/f")
	}
	if err := s.Delete(t.Context(), "never/was/there"); err != nil {
		t.Fatalf("delete of what never was: %v", err)
	}
	want(t, s, "d/e/g", []byte("y"))
	put(t, s, "d/e/f", []byte("again"))
	want(t, s, "d/e/f", []byte("again"))
}

func invalidKeys(t *testing.T, s storage.Store) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/./b", "a b", "a\x00b", "ä", "a\nb", "a@b", "a:b", "a\\b",
		strings.Repeat("x", 513), strings.Repeat("x", 256),
	} {
		if err := storage.PutBytes(t.Context(), s, key, []byte("x"), storage.PutOptions{}); !errors.Is(err, storage.ErrInvalidKey) {
			t.Errorf("put %q: %v, want ErrInvalidKey", key, err)
		}
		r, err := s.Get(t.Context(), key, 0, -1)
		if err == nil {
			r.Close()
		}
		if !errors.Is(err, storage.ErrInvalidKey) || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("get %q: %v, want ErrInvalidKey", key, err)
		}
		if err := s.Delete(t.Context(), key); !errors.Is(err, storage.ErrInvalidKey) {
			t.Errorf("delete %q: %v, want ErrInvalidKey", key, err)
		}
	}
	if got := list(t, s, "", ""); len(got) != 0 {
		t.Errorf("a refused put left %q", got)
	}
}
