// Package dcs is the seam to the distributed configuration store that Patroni
// uses: reading its keys, watching them, holding a lease, and keeping the few
// lasting keys that are pgtender's own. It knows keys and values only; what
// Patroni's values mean belongs to package patroni.
//
// Implementations are leaf packages below this one (etcd, consul, mem, …);
// what every one of them promises is written on [Store] and checked by the
// shared suite in dcstest.
package dcs

import (
	"context"
	"errors"
	"time"
)

// Store is one DCS. Keys are paths without a leading slash, such as
// service/batman/leader; implementations add what their server wants.
//
// All methods are safe for concurrent use. Reads are linearizable: a value
// read was current at some moment during the call, never earlier. A store that
// cannot be reached, has lost its quorum or refuses us is an error that wraps
// [ErrUnavailable] or [ErrDenied]; it never looks like an absent key.
type Store interface {
	Reader
	Locker
	Registry

	// String names the store and its endpoints for messages, without secrets.
	String() string
	// Close releases connections. Leases still held end by their TTL.
	Close() error
}

// Reader reads keys.
type Reader interface {
	// Read returns every key below prefix ("service/batman" matches
	// service/batman/leader, not service/batman2/leader), all as of one
	// revision. No key is an empty snapshot and no error.
	Read(ctx context.Context, prefix string) (Snapshot, error)

	// Watch calls changed after each change below prefix since the snapshot
	// with revision since, at least once for any number of changes in a row,
	// until ctx ends or the watch breaks. It always returns an error. After a
	// break events may have been missed, so the caller reads again before it
	// watches anew.
	Watch(ctx context.Context, prefix string, since int64, changed func()) error
}

// Locker grants leases.
type Locker interface {
	// Acquire takes key for ttl, with value telling others who holds it. If
	// it is held already the error is a [*HeldError]. Implementations round
	// ttl up to what their server supports.
	Acquire(ctx context.Context, key, value string, ttl time.Duration) (Lease, error)
}

// Lease is a lock held in the DCS until it is released or not renewed in time.
// It is no fence: a paused process may act after it has lost its lease.
type Lease interface {
	// Renew extends the lease to its full TTL from the moment the call
	// started. ErrLeaseLost means that it is gone for good; any other error
	// leaves it in doubt and may be retried until the TTL has passed.
	Renew(ctx context.Context) error
	// Release gives the key back. Releasing a lost lease is not an error.
	Release(ctx context.Context) error
	// TTL is the time the server grants from each renewal; at least what was
	// asked for.
	TTL() time.Duration
}

// Registry keeps lasting keys: no lease, no expiry.
type Registry interface {
	// Create stores value if key is absent. If it is present, its value comes
	// back as existing, and created is false: not an error. An attempt whose
	// answer was lost may be repeated, and then finds its own value.
	Create(ctx context.Context, key, value string) (existing string, created bool, err error)
	// Replace stores value if key's present value is old, else fails with
	// [ErrChanged]; an absent key is changed too.
	Replace(ctx context.Context, key, old, value string) error
}

// Snapshot is what Read saw. It is not modified after Read returns it.
type Snapshot struct {
	Revision int64            // grows with every change; feeds Watch
	Keys     map[string]Value // by full key, without a leading slash
}

// Value is one key's value.
type Value struct {
	Data     string
	Revision int64 // of the key's last change
	Leased   bool  // vanishes with its writer's lease or session
}

// HeldError says that somebody else holds the key.
type HeldError struct {
	Key   string
	Value string // what the holder wrote, "" if it let go meanwhile
}

func (e *HeldError) Error() string {
	if e.Value == "" {
		return "lease " + e.Key + " is held by another process"
	}
	return "lease " + e.Key + " is held by " + e.Value
}

var (
	// ErrLeaseLost ends the context of Hold, and comes from Renew.
	ErrLeaseLost = errors.New("lease lost")
	// ErrUnavailable means that the DCS did not answer or has no quorum.
	ErrUnavailable = errors.New("DCS is unavailable")
	// ErrDenied means that the DCS refused our credentials or rights.
	ErrDenied = errors.New("DCS denies access")
	// ErrChanged comes from Replace.
	ErrChanged = errors.New("key has changed")
)
