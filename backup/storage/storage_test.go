package storage_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
)

func TestRetryable(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want bool
	}{
		{"no error", nil, false},
		{"an unknown error", errors.New("?"), true},
		{"a reset connection", &fs.PathError{Op: "read", Err: syscall.ECONNRESET}, true},
		{"a stale NFS handle", syscall.ESTALE, true},
		{"a deadline, perhaps one of the network's", context.DeadlineExceeded, true},
		{"cancellation", fmt.Errorf("put: %w", context.Canceled), false},
		{"absence", &fs.PathError{Op: "open", Err: syscall.ENOENT}, false},
		{"a refusal", &fs.PathError{Op: "open", Err: syscall.EACCES}, false},
		{"a full disk", &fs.PathError{Op: "write", Err: syscall.ENOSPC}, false},
		{"an existing object", fmt.Errorf("put: %w", storage.ErrExists), false},
		{"no store", &storage.Error{Op: "get", Err: storage.ErrNoStore}, false},
		{"an error that may pass", &storage.Error{Op: "get", Err: errors.New("503")}, true},
		{"an error that its store calls permanent", fmt.Errorf("x: %w", &storage.Error{Op: "get", Err: errors.New("501"), Permanent: true}), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := storage.Retryable(tt.err); got != tt.want {
				t.Errorf("Retryable(%v) = %v", tt.err, got)
			}
		})
	}
}

func TestContextErrorTellsTheCause(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := storage.ContextError(ctx); err != nil {
		t.Fatal(err)
	}
	lost := errors.New("lease lost")
	cancel(lost)
	if err := storage.ContextError(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
	plain, stop := context.WithCancel(t.Context())
	stop()
	if err := storage.ContextError(plain); err != context.Canceled {
		t.Errorf("without a cause: %v", err)
	}
}

func TestNotAbsence(t *testing.T) {
	hidden := storage.NotAbsence(&fs.PathError{Op: "open", Path: "/token", Err: syscall.ENOENT})
	if errors.Is(hidden, storage.ErrNotExist) || !strings.Contains(hidden.Error(), "/token") {
		t.Errorf("got %v", hidden)
	}
	if err := storage.NotAbsence(syscall.EIO); err != syscall.EIO {
		t.Errorf("another error became %v", err)
	}
	if storage.NotAbsence(nil) != nil {
		t.Error("nil became an error")
	}
}

func TestReadAllIsBounded(t *testing.T) {
	s := mem.New()
	if err := storage.PutBytes(t.Context(), s, "k", []byte("12345"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if data, err := storage.ReadAll(t.Context(), s, "k", 5); err != nil || string(data) != "12345" {
		t.Errorf("at the limit: %q, %v", data, err)
	}
	if data, err := storage.ReadAll(t.Context(), s, "k", 4); !errors.Is(err, storage.ErrTooLarge) || data != nil {
		t.Errorf("above the limit: %q, %v", data, err)
	}
}

// TestPutExactAfterALostAnswer is the case PutExact exists for: the Put took
// effect, its answer was lost, and a repetition finds the key taken.
func TestPutExactAfterALostAnswer(t *testing.T) {
	lost := errors.New("connection reset")
	for _, applied := range []bool{false, true} {
		first := true
		s := storagetest.Faulty(mem.New(), func(c storagetest.Call) (bool, error) {
			if c.Verb == storagetest.Put && first {
				first = false
				return applied, lost
			}
			return true, nil
		})
		if err := storage.PutExact(t.Context(), s, "k", []byte("x")); !errors.Is(err, lost) {
			t.Fatalf("first: %v", err)
		}
		if err := storage.PutExact(t.Context(), s, "k", []byte("x")); err != nil {
			t.Errorf("second, applied %v: %v", applied, err)
		}
	}
}

func TestPutExactDoesNotTrustWhatItCannotRead(t *testing.T) {
	broken := errors.New("connection reset")
	for _, apply := range []bool{false, true} {
		s := storagetest.Faulty(mem.New(), func(c storagetest.Call) (bool, error) {
			if c.Verb == storagetest.Get {
				return apply, broken
			}
			return true, nil
		})
		if err := storage.PutExact(t.Context(), s, "k", []byte("12")); err != nil {
			t.Fatal(err)
		}
		err := storage.PutExact(t.Context(), s, "k", []byte("12"))
		if !errors.Is(err, broken) || errors.Is(err, storage.ErrConflict) {
			t.Errorf("got %v", err)
		}
	}
}

// capable is a store with both capabilities.
type capable struct{ *mem.Store }

func (capable) ConditionalPut(context.Context) (bool, error)      { return false, nil }
func (capable) Sweep(context.Context, time.Duration) (int, error) { return 7, nil }

func TestCapabilitiesAreFoundBelowWrappers(t *testing.T) {
	happen := func(storagetest.Call) (bool, error) { return true, nil }
	wrap := func(s storage.Store) storage.Store {
		return storagetest.Enforce(t, storagetest.Faulty(s, happen), nil)
	}
	if atomic, err := storage.ConditionalPut(t.Context(), wrap(mem.New())); !atomic || err != nil {
		t.Errorf("a store without the method: %v, %v", atomic, err)
	}
	if atomic, err := storage.ConditionalPut(t.Context(), wrap(capable{mem.New()})); atomic || err != nil {
		t.Errorf("a store that denies: %v, %v", atomic, err)
	}
	if n, err := storage.Sweep(t.Context(), wrap(mem.New()), time.Hour); n != 0 || err != nil {
		t.Errorf("nothing to sweep: %d, %v", n, err)
	}
	if n, err := storage.Sweep(t.Context(), wrap(capable{mem.New()}), time.Hour); n != 7 || err != nil {
		t.Errorf("sweep: %d, %v", n, err)
	}
}

func FuzzValidKey(f *testing.F) {
	for _, seed := range []string{"a", "a/b", "", "/", "a//b", "..", "a/.b", strings.Repeat("x", 256)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		err := storage.ValidKey(key)
		if err != nil && !errors.Is(err, storage.ErrInvalidKey) {
			t.Fatalf("%v is not ErrInvalidKey", err)
		}
		// What is valid here is a valid, clean path inside a folder as well.
		if err == nil && (!fs.ValidPath(key) || key == ".") {
			t.Fatalf("%q is accepted", key)
		}
	})
}
