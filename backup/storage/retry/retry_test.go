package retry_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/retry"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
)

func TestStore(t *testing.T) {
	storagetest.Run(t, func(testing.TB) storage.Store { return retry.New(mem.New(), retry.Options{}) })
}

var errReset = errors.New("connection reset")

// failing is a store whose first n calls fail with err, applied or not.
func failing(inner storage.Store, n int, apply bool, err error) (storage.Store, *int) {
	calls := new(int)
	return storagetest.Faulty(inner, func(storagetest.Call) (bool, error) {
		*calls++
		if *calls <= n {
			return apply, err
		}
		return true, nil
	}), calls
}

func TestCallsAreRepeated(t *testing.T) {
	ifAbsent := storage.PutOptions{IfAbsent: true}
	verbs := map[string]func(context.Context, storage.Store) error{
		"put": func(ctx context.Context, s storage.Store) error {
			return storage.PutBytes(ctx, s, "new", nil, ifAbsent)
		},
		"get": func(ctx context.Context, s storage.Store) error {
			r, err := s.Get(ctx, "old", 0, -1)
			if err == nil {
				r.Close()
			}
			return err
		},
		"delete": func(ctx context.Context, s storage.Store) error { return s.Delete(ctx, "old") },
		"list": func(ctx context.Context, s storage.Store) error {
			n := 0
			for _, err := range s.List(ctx, "", "") {
				if err != nil {
					return err
				}
				n++
			}
			if n != 1 {
				return fmt.Errorf("%d objects listed, want 1", n)
			}
			return nil
		},
	}
	tests := []struct {
		name     string
		failures int
		err      error
		calls    int
		want     error
	}{
		{"a passing fault is mended", 3, errReset, 4, nil},
		{"a lasting fault ends the attempts", 100, errReset, 5, errReset},
		{"a permanent fault is not repeated", 100, storage.ErrForbidden, 1, storage.ErrForbidden},
		{"a full disk is not repeated", 1, &storage.Error{Op: "put", Err: errReset, Permanent: true}, 1, errReset},
	}
	for _, tt := range tests {
		for verb, do := range verbs {
			t.Run(verb+": "+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					inner := mem.New()
					if err := storage.PutBytes(t.Context(), inner, "old", nil, storage.PutOptions{}); err != nil {
						t.Fatal(err)
					}
					faulty, calls := failing(inner, tt.failures, false, tt.err)
					err := do(t.Context(), retry.New(faulty, retry.Options{Attempts: 5}))
					if !errors.Is(err, tt.want) || *calls != tt.calls {
						t.Errorf("%d calls, %v; want %d calls, %v", *calls, err, tt.calls, tt.want)
					}
				})
			})
		}
	}
}

func TestLostAnswerOfAConditionalPutIsLeftToPutExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty, _ := failing(mem.New(), 1, true, errReset)
		s := retry.New(faulty, retry.Options{})
		err := storage.PutBytes(t.Context(), s, "k", []byte("x"), storage.PutOptions{IfAbsent: true})
		if !errors.Is(err, storage.ErrExists) {
			t.Errorf("put: %v, want ErrExists", err)
		}
		faulty, _ = failing(mem.New(), 1, true, errReset)
		if err := storage.PutExact(t.Context(), retry.New(faulty, retry.Options{}), "k", []byte("x")); err != nil {
			t.Errorf("PutExact: %v", err)
		}
	})
}

func TestBudgetOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty, calls := failing(mem.New(), 1000, false, errReset)
		s := retry.New(faulty, retry.Options{Attempts: 1000, Backoff: time.Second, MaxBackoff: 8 * time.Second, Budget: time.Minute})
		began := time.Now()
		err := s.Delete(t.Context(), "k")
		if took := time.Since(began); !errors.Is(err, errReset) || took < 40*time.Second || took > time.Minute || *calls < 8 {
			t.Errorf("%v after %v and %d calls", err, took, *calls)
		}
	})
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty, calls := failing(mem.New(), 1000, false, errReset)
		ctx, cancel := context.WithCancelCause(t.Context())
		lost := errors.New("lease lost")
		time.AfterFunc(time.Second, func() { cancel(lost) })
		began := time.Now()
		s := retry.New(faulty, retry.Options{Backoff: time.Hour, MaxBackoff: time.Hour, Budget: 24 * time.Hour})
		err := s.Delete(ctx, "k")
		if !errors.Is(err, lost) || time.Since(began) != time.Second || *calls != 1 {
			t.Errorf("%v after %v and %d calls", err, time.Since(began), *calls)
		}
	})
}

// TestListResumes breaks every listing halfway, so that only going on after
// the last key ever comes to the end.
func TestListResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := mem.New()
		var want []string
		for i := range 100 {
			key := fmt.Sprintf("k/%02d", i)
			want = append(want, key)
			if err := storage.PutBytes(t.Context(), inner, key, nil, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		faulty, _ := failing(inner, 8, true, errReset)
		var got []string
		for o, err := range retry.New(faulty, retry.Options{Attempts: 3}).List(t.Context(), "k/", "") {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, o.Key)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
	})
}

func TestRepetitionsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		faulty, _ := failing(mem.New(), 2, false, errReset)
		s := retry.New(faulty, retry.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err := s.Delete(t.Context(), "the/key"); err != nil {
			t.Fatal(err)
		}
		if got := log.String(); strings.Count(got, "level=WARN") != 2 || strings.Count(got, "the/key") != 2 {
			t.Errorf("log:\n%s", got)
		}
	})
}
