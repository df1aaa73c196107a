package ha_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/mem"
	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/internal/finding"
)

const prefix = "service/batman"

func TestOneBackupOfAClusterRunsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mem.NewServer()
		one, two := server.Open(mem.Options{}), server.Open(mem.Options{})
		held, release, err := ha.HoldBackup(t.Context(), one, prefix, "pg2 pid 1", nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // of a synctest bubble
		if held.Err() != nil {
			t.Fatalf("the lease was lost: %v", context.Cause(held))
		}
		_, none, err := ha.HoldBackup(t.Context(), two, prefix, "pg3 pid 2", nil)
		none()
		var taken *dcs.HeldError
		if !errors.As(err, &taken) || taken.Value != "pg2 pid 1" || taken.Key != "service/batman/pgtender/backup" {
			t.Errorf("error %v", err)
		}
		if got := err.Error(); got != "another backup of the cluster is running: lease service/batman/pgtender/backup is held by pg2 pid 1" {
			t.Error(got)
		}
		if got := finding.Hint(err); got != "wait for it; if its process is gone, the lease ends within 1m0s" {
			t.Error(got)
		}
		release()
		if held.Err() == nil {
			t.Error("the backup goes on without its lease")
		}
		_, release, err = ha.HoldBackup(t.Context(), two, prefix, "pg3 pid 2", nil)
		if err != nil {
			t.Fatal(err)
		}
		release()
	})
}

func TestABackupEndsWithItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		store := mem.NewServer().Open(mem.Options{Fault: func(context.Context, mem.Op, string) (bool, error) {
			if down.Load() {
				return false, dcs.ErrUnavailable
			}
			return false, nil
		}})
		held, release, err := ha.HoldBackup(t.Context(), store, prefix, "pg2", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		synctest.Wait()
		down.Store(true)
		<-held.Done()
		if cause := context.Cause(held); !errors.Is(cause, dcs.ErrLeaseLost) {
			t.Errorf("cause %v", cause)
		}
	})
}

func TestADCSThatIsDownGrantsNoLease(t *testing.T) {
	store := mem.NewServer().Open(mem.Options{Fault: func(context.Context, mem.Op, string) (bool, error) { return false, dcs.ErrUnavailable }})
	_, release, err := ha.HoldBackup(t.Context(), store, prefix, "pg2", nil)
	release()
	var taken *dcs.HeldError
	if !errors.Is(err, dcs.ErrUnavailable) || errors.As(err, &taken) {
		t.Errorf("error %v", err)
	}
}

func TestTheOwnerIDIsCreatedOnceAndReplacedOnPurpose(t *testing.T) {
	server := mem.NewServer()
	store := server.Open(mem.Options{})
	if _, err := ha.ReadOwner(t.Context(), store, prefix); !errors.Is(err, ha.ErrNoOwner) || finding.Hint(err) == "" {
		t.Errorf("error %v", err)
	}
	first, created, err := ha.EnsureOwner(t.Context(), store, prefix)
	if err != nil || !created {
		t.Fatalf("%s %v %v", first, created, err)
	}
	second, created, err := ha.EnsureOwner(t.Context(), store, prefix)
	if err != nil || created || second != first {
		t.Errorf("%s %v %v, want %s", second, created, err, first)
	}
	if got, err := ha.ReadOwner(t.Context(), store, prefix); err != nil || got != first {
		t.Errorf("%s, %v", got, err)
	}
	other := ha.NewOwnerID()
	if err := ha.ReplaceOwner(t.Context(), store, prefix, other, first); !errors.Is(err, dcs.ErrChanged) {
		t.Errorf("error %v", err)
	}
	if err := ha.ReplaceOwner(t.Context(), store, prefix, first, other); err != nil {
		t.Error(err)
	}
	if got, err := ha.ReadOwner(t.Context(), store, prefix); err != nil || got != other || got == first {
		t.Errorf("%s, %v", got, err)
	}
}

func TestAnOwnerIDWhoseAnswerWasLostIsFoundAgain(t *testing.T) {
	lost := false
	store := mem.NewServer().Open(mem.Options{Fault: func(_ context.Context, op mem.Op, _ string) (bool, error) {
		if op == mem.Create && !lost {
			lost = true
			return true, dcs.ErrUnavailable
		}
		return false, nil
	}})
	if _, _, err := ha.EnsureOwner(t.Context(), store, prefix); !errors.Is(err, dcs.ErrUnavailable) {
		t.Fatalf("error %v", err)
	}
	id, created, err := ha.EnsureOwner(t.Context(), store, prefix)
	if err != nil || created {
		t.Errorf("%s %v %v", id, created, err)
	}
}

func TestAKeyThatHoldsNoOwnerIDIsAnError(t *testing.T) {
	server := mem.NewServer()
	server.Put(ha.OwnerKey(prefix), "batman")
	store := server.Open(mem.Options{})
	const want = `read service/batman/pgtender/owner: owner id "batman" is not 32 lower-case hexadecimal digits`
	if _, err := ha.ReadOwner(t.Context(), store, prefix); err == nil || err.Error() != want || finding.Hint(err) == "" {
		t.Errorf("error %v", err)
	}
	if _, _, err := ha.EnsureOwner(t.Context(), store, prefix); err == nil || err.Error() != want {
		t.Errorf("error %v", err)
	}
	for _, bad := range []string{"", "0123456789ABCDEF0123456789ABCDEF", "0123", "0123456789abcdef0123456789abcdeg"} {
		if _, err := ha.ParseOwnerID(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
