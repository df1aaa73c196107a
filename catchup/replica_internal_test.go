package catchup

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// attempts runs persist with attempts that fail as told, each after some work,
// and gives their number, the time it took, and the last error.
func attempts(t *testing.T, ctx context.Context, first DirState, files func(n int) int64, fail func(n int) error) (n int, took time.Duration, err error) {
	t.Helper()
	start := time.Now()
	err = persist(ctx, slog.New(slog.DiscardHandler), func(context.Context) (Facts, Result, error) {
		n++
		time.Sleep(time.Second)
		return Facts{Dir: DirFacts{State: first}}, Result{Files: files(n)}, fail(n)
	})
	return n, time.Since(start), err
}

func never(int) int64 { return 0 }

func TestAttemptsGoOnUntilTheNextMethodMustGetItsTurn(t *testing.T) {
	outage := errors.New("connection refused")
	always := func(int) error { return outage }
	t.Run("ten minutes where the directory was empty", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n, took, err := attempts(t, t.Context(), DirEmpty, never, always)
			if !errors.Is(err, outage) || took < patience || took > patience+time.Minute || n < 20 || n > 100 {
				t.Errorf("%d attempts in %s: %v", n, took, err)
			}
		})
	})
	t.Run("ten minutes after the last gain", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			// Every attempt but the last brings some files, for an hour.
			began := time.Now()
			gain := func(int) int64 {
				if time.Since(began) < time.Hour {
					return 5
				}
				return 0
			}
			_, took, err := attempts(t, t.Context(), DirEmpty, gain, always)
			if !errors.Is(err, outage) || took < time.Hour+patience || took > time.Hour+patience+2*time.Minute {
				t.Errorf("took %s: %v", took, err)
			}
		})
	})
	t.Run("as long as it takes where old data is", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n, took, err := attempts(t, t.Context(), DirData, never, func(n int) error {
				if n == 1000 {
					return nil
				}
				return outage
			})
			if err != nil || n != 1000 || took < 8*time.Hour {
				t.Errorf("%d attempts in %s: %v", n, took, err)
			}
		})
	})
	t.Run("at once where no retry mends it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n, _, err := attempts(t, t.Context(), DirData, never, func(int) error { return refuse(true, "", "it runs") })
			if n != 1 || err == nil {
				t.Errorf("%d attempts: %v", n, err)
			}
		})
	})
	t.Run("until Patroni ends it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			stop := errors.New("terminated")
			time.AfterFunc(time.Minute, func() { cancel(stop) })
			_, took, err := attempts(t, ctx, DirData, never, always)
			if !errors.Is(err, stop) || !strings.Contains(err.Error(), "connection refused") || took > time.Minute+2*time.Second {
				t.Errorf("took %s: %v", took, err)
			}
		})
	})
}
