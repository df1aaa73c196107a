package storagetest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/storage"
)

// awkward are keys whose byte order differs from that of a walk through
// folders: "-", "+" and "." sort before "/", digits and letters after it.
var awkward = []string{
	"a+b", "a-b/c", "a-b/d/e", "a.b", "a/b", "a/b-c", "a/b.c/d", "a/c/d", "a/c/e", "a/c=", "a/c~/f",
	"a0", "aa/b", "b/.xx/y", "b/A", "b/_", "b/a", "b/~", "z",
}

func putAll(t *testing.T, s storage.Store, keys []string) {
	t.Helper()
	errs := parallel(len(keys), func(i int) error {
		return storage.PutBytes(t.Context(), s, keys[i], []byte(keys[i]), storage.PutOptions{})
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func listOrder(t *testing.T, s storage.Store) {
	if got := list(t, s, "", ""); len(got) != 0 {
		t.Fatalf("a new store lists %q", got)
	}
	if !slices.IsSorted(awkward) {
		t.Fatal("the test's own keys are out of order")
	}
	putAll(t, s, awkward)
	for _, prefix := range []string{
		"", "a", "a/", "a-", "a/b", "a/c", "a/c/", "a/c/d", "b/", "b/.x", "b/.xx/", "z", "zz", "x/", "c", "a//", "/", "../", "a/../b", "a b",
		strings.Repeat("y/", 400),
	} {
		if diff := cmp.Diff(matching(awkward, prefix, ""), list(t, s, prefix, "")); diff != "" {
			t.Errorf("list %q (-want +got):\n%s", prefix, diff)
		}
	}
}

func listAfter(t *testing.T, s storage.Store) {
	putAll(t, s, awkward)
	afters := append([]string{"a", "a-b", "a-b/", "a/", "a/b/", "a/c", "a/c/", "b", "b/", "0", "zz", "~"}, awkward...)
	for _, after := range afters {
		for _, prefix := range []string{"", "a/", "a/c", "b/"} {
			if diff := cmp.Diff(matching(awkward, prefix, after), list(t, s, prefix, after)); diff != "" {
				t.Errorf("list %q after %q (-want +got):\n%s", prefix, after, diff)
			}
		}
	}
}

// matching is what List must yield of the sorted keys.
func matching(keys []string, prefix, after string) []string {
	var out []string
	for _, k := range keys {
		if strings.HasPrefix(k, prefix) && k > after {
			out = append(out, k)
		}
	}
	return out
}

// many is more than one page of a listing has anywhere. Under -short there is
// no server that has pages.
func many() int {
	if testing.Short() {
		return 103
	}
	return 1203
}

// putMany stores that many objects of few bytes, by few writers.
func putMany(t *testing.T, s storage.Store) []string {
	t.Helper()
	const writers = 16
	errs := parallel(writers, func(w int) error {
		for i := w; i < many(); i += writers {
			if err := storage.PutBytes(t.Context(), s, key(i), []byte{byte(i)}, storage.PutOptions{}); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	keys := make([]string, many())
	for i := range keys {
		keys[i] = key(i)
	}
	return keys
}

func listPages(t *testing.T, s storage.Store) {
	keys := putMany(t, s)
	for _, after := range []string{"", keys[0], keys[len(keys)/9], keys[len(keys)*5/6], keys[len(keys)-1]} {
		if diff := cmp.Diff(matching(keys, "many/", after), list(t, s, "many/", after)); diff != "" {
			t.Errorf("after %q (-want +got):\n%s", after, diff)
		}
	}
}

func cancelledList(t *testing.T, s storage.Store) {
	putAll(t, s, awkward)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	seen, last := 0, error(nil)
	for _, err := range s.List(ctx, "", "") {
		if last != nil {
			t.Fatalf("the sequence goes on after its error %v", last)
		}
		last = err
		seen++
		cancel(errLease)
	}
	if seen > len(awkward) {
		t.Error("all objects came although the context had ended at the first")
	}
	wantCancelled(t, "list", last)
}

func listBreak(t *testing.T, s storage.Store) {
	putAll(t, s, awkward)
	for o, err := range s.List(t.Context(), "a/", "") {
		if err != nil {
			t.Fatal(err)
		}
		if o.Key != "a/b" {
			t.Fatalf("first is %s", o.Key)
		}
		break
	}
	var twice []string
	seq := s.List(t.Context(), "b/", "")
	for range 2 {
		for o, err := range seq {
			if err != nil {
				t.Fatal(err)
			}
			twice = append(twice, o.Key)
		}
	}
	if once := matching(awkward, "b/", ""); !slices.Equal(twice, append(once, once...)) {
		t.Errorf("the same sequence run twice gives %q", twice)
	}
}

func listAttributes(t *testing.T, s storage.Store) {
	for _, size := range []int{0, 1, 12_345} {
		put(t, s, "k", random(10, size))
		for o, err := range s.List(t.Context(), "k", "") {
			if err != nil {
				t.Fatal(err)
			}
			// The store's clock is its own; a day tells a wrong field or unit.
			if age := time.Since(o.Modified).Abs(); o.Size != int64(size) || age > 24*time.Hour {
				t.Errorf("an object of %d bytes put now is listed as %+v", size, o)
			}
		}
	}
}
