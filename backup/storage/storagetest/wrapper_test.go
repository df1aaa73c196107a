package storagetest_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
)

func TestFaultyWithoutFaultsIsAStore(t *testing.T) {
	storagetest.Run(t, func(testing.TB) storage.Store {
		return storagetest.Faulty(mem.New(), func(storagetest.Call) (bool, error) { return true, nil })
	})
}

func TestEnforceIsAStore(t *testing.T) {
	storagetest.Run(t, func(t testing.TB) storage.Store {
		return storagetest.Enforce(t, mem.New(), func(string) bool { return true })
	})
}

var errLost = errors.New("connection reset")

func TestFaulty(t *testing.T) {
	ifAbsent := storage.PutOptions{IfAbsent: true}
	tests := []struct {
		name  string
		apply bool
		err   error
		there bool // the object, after a Put of it
	}{
		{"applied", true, nil, true},
		{"failed", false, errLost, false},
		{"failed but applied", true, errLost, true},
		{"lied about", false, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inner := mem.New()
			s := storagetest.Faulty(inner, func(c storagetest.Call) (bool, error) {
				if c != (storagetest.Call{Verb: storagetest.Put, Key: "k", IfAbsent: true}) {
					t.Errorf("call %+v", c)
				}
				return tt.apply, tt.err
			})
			if err := storage.PutBytes(t.Context(), s, "k", []byte("x"), ifAbsent); err != tt.err {
				t.Fatalf("put: %v, want %v", err, tt.err)
			}
			if _, err := storage.ReadAll(t.Context(), inner, "k", 1); (err == nil) != tt.there {
				t.Fatalf("read: %v", err)
			}
		})
	}
}

func TestFaultyBreaksReadsHalfway(t *testing.T) {
	inner := mem.New()
	for _, k := range []string{"a", "b", "c", "d"} {
		if err := storage.PutBytes(t.Context(), inner, k, []byte("12345678"), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s := storagetest.Faulty(inner, func(storagetest.Call) (bool, error) { return true, errLost })
	if _, err := storage.ReadAll(t.Context(), s, "a", 8); !errors.Is(err, errLost) {
		t.Errorf("get: %v", err)
	}
	var keys []string
	var last error
	for o, err := range s.List(t.Context(), "", "") {
		if last = err; err == nil {
			keys = append(keys, o.Key)
		}
	}
	if strings.Join(keys, "") != "ab" || last != errLost {
		t.Errorf("list: %q, %v", keys, last)
	}
}

// recorder takes the place of the test that Enforce fails.
type recorder struct {
	testing.TB
	mu     sync.Mutex
	errors []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func TestEnforce(t *testing.T) {
	type step func(testing.TB, storage.Store)
	put := func(key, data string, ifAbsent bool) step {
		return func(t testing.TB, s storage.Store) {
			storage.PutBytes(t.Context(), s, key, []byte(data), storage.PutOptions{IfAbsent: ifAbsent})
		}
	}
	get := func(key string) step {
		return func(t testing.TB, s storage.Store) { storage.ReadAll(t.Context(), s, key, 100) }
	}
	del := func(key string) step {
		return func(t testing.TB, s storage.Store) { s.Delete(t.Context(), key) }
	}
	lose := func(t testing.TB, s storage.Store) { s.(storage.Wrapper).Unwrap().Delete(t.Context(), "k") }
	tests := []struct {
		name  string
		steps []step
		want  string // part of the one error, "" for none
	}{
		{"the same content again is fine", []step{put("k", "a", false), put("k", "a", false), get("k")}, ""},
		{"other content is a fault", []step{put("k", "a", false), put("k", "b", false)}, "about to be replaced"},
		{"other content refused by IfAbsent is fine", []step{put("k", "a", true), put("k", "b", true)}, ""},
		{"a mutable key may change", []step{put("mutable", "a", false), put("mutable", "b", false)}, ""},
		{"other content after a delete is fine", []step{put("k", "a", false), del("k"), put("k", "b", true)}, ""},
		{"a lost object is a fault", []step{put("k", "a", false), lose, get("k")}, "not deleted"},
		{"a deleted object is not lost", []step{put("k", "a", false), del("k"), get("k")}, ""},
		{"an object never stored is not lost", []step{get("k")}, ""},
		{"a second winner is a fault", []step{put("k", "a", true), lose, put("k", "a", true)}, "although the key was taken"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &recorder{TB: t}
			s := storagetest.Enforce(r, mem.New(), func(key string) bool { return key == "mutable" })
			for _, do := range tt.steps {
				do(t, s)
			}
			switch {
			case tt.want == "" && len(r.errors) > 0:
				t.Errorf("unexpected: %q", r.errors)
			case tt.want != "" && (len(r.errors) != 1 || !strings.Contains(r.errors[0], tt.want)):
				t.Errorf("got %q, want one error with %q", r.errors, tt.want)
			}
		})
	}
}
