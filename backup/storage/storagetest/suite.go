// Package storagetest checks implementations of [storage.Store]: one suite,
// run by each of them ([Run]), and two wrappers for the tests of their
// callers: [Faulty] makes single operations fail, with or without effect, and
// [Enforce] fails the test when a caller breaks the rule of immutability or a
// store loses an object.
package storagetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/pgtender/pgtender/backup/storage"
)

// Run checks everything that the contract of storage.Store promises. create
// is called once per subtest and gives an empty store.
func Run(t *testing.T, create func(t testing.TB) storage.Store) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, create(t)) })
	}
}

var cases = []struct {
	name string
	run  func(*testing.T, storage.Store)
}{
	{"an object comes back as it was put", roundTrip},
	{"an object of zero bytes is an object", emptyObject},
	{"a large object comes back with the same digest", largeObject},
	{"put without IfAbsent replaces", replace},
	{"put with IfAbsent leaves an existing object alone", ifAbsent},
	{"put with IfAbsent has exactly one winner", ifAbsentRace},
	{"put with IfAbsent of a large object has exactly one winner", ifAbsentRaceLarge},
	{"put of a source that is too short stores nothing", shortSource},
	{"put of a source that fails stores nothing", failingSource},
	{"put takes size bytes of a longer source", longSource},
	{"PutExact accepts its own bytes and no others", putExact},
	{"ranges are exact", ranges},
	{"a range comes with the size of the whole object", sizes},
	{"an absent object is ErrNotExist", absent},
	{"list is ordered by key and holds each object once", listOrder},
	{"list starts after a key", listAfter},
	{"list pages beyond a thousand keys", listPages},
	{"list can be left early", listBreak},
	{"list tells size and time", listAttributes},
	{"delete is idempotent", deleteTwice},
	{"invalid keys are refused by every verb", invalidKeys},
	{"nothing starts on a context that is done", cancelledBefore},
	{"put ends with its context", cancelledPut},
	{"get ends with its context", cancelledGet},
	{"list ends with its context", cancelledList},
	{"readers beside writers see whole objects", readersAndWriters},
}

// put stores data or ends the test.
func put(t testing.TB, s storage.Store, key string, data []byte) {
	t.Helper()
	if err := storage.PutBytes(t.Context(), s, key, data, storage.PutOptions{}); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

// want ends the test unless the object holds exactly data.
func want(t testing.TB, s storage.Store, key string, data []byte) {
	t.Helper()
	got, err := storage.ReadAll(t.Context(), s, key, int64(len(data))+1024)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	if !bytes.Equal(got, data) {
		t.Fatalf("%s holds %d bytes %.40q, want %d bytes %.40q", key, len(got), got, len(data), data)
	}
}

// wantAbsent ends the test if the object is there.
func wantAbsent(t testing.TB, s storage.Store, key string) {
	t.Helper()
	r, err := s.Get(t.Context(), key, 0, -1)
	if err == nil {
		r.Close()
		t.Fatalf("%s is there", key)
	}
	if !errors.Is(err, storage.ErrNotExist) {
		t.Fatalf("get of an absent object: %v, want ErrNotExist", err)
	}
	if keys := list(t, s, key, ""); slices.Contains(keys, key) {
		t.Fatalf("%s cannot be read and yet is listed", key)
	}
}

// list gives the keys that List yields.
func list(t testing.TB, s storage.Store, prefix, after string) []string {
	t.Helper()
	var keys []string
	for o, err := range s.List(t.Context(), prefix, after) {
		if err != nil {
			t.Fatalf("list %q after %q: %v", prefix, after, err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

// noise is random data, repeated with a period that no part size divides.
var noise = sync.OnceValue(func() []byte {
	block := make([]byte, 1<<20+13)
	rand.NewChaCha8([32]byte{}).Read(block)
	return bytes.Repeat(block, large()/len(block)+2)
})

// random gives n bytes that do not compress, other ones for each seed. They
// are shared: nobody modifies them.
func random(seed byte, n int) []byte {
	return noise()[seed : int(seed)+n : int(seed)+n]
}

// digest reads r to its end.
func digest(t testing.TB, r io.Reader) [sha256.Size]byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// parallel runs n calls at the same moment and gives their errors.
func parallel(n int, call func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = call(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// sourceFunc is an io.ReaderAt made of a function.
type sourceFunc func(p []byte, off int64) (int, error)

func (f sourceFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// errLease is the cause with which tests cancel.
var errLease = errors.New("lease lost")

// wantCancelled checks that err tells the end of the context and why.
func wantCancelled(t testing.TB, what string, err error) {
	t.Helper()
	if !errors.Is(err, context.Canceled) || !errors.Is(err, errLease) {
		t.Errorf("%s on a cancelled context: %v, want an error that matches context.Canceled and the cause", what, err)
	}
}

// key names the i-th of many objects.
func key(i int) string { return fmt.Sprintf("many/%05d", i) }
