// Package mem is a DCS in memory, for tests: several stores, as of several
// nodes, on one [Server], each with faults of its own. Leases follow time.Now,
// so in a testing/synctest bubble an hour takes no time.
package mem

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgtender/pgtender/dcs"
)

// Op names what a store was asked for, for [Options.Fault].
type Op string

// The operations of a store and its leases.
const (
	Read    Op = "read"
	Watch   Op = "watch" // at the start of a watch, and each second while it lasts
	Acquire Op = "acquire"
	Renew   Op = "renew"
	Release Op = "release"
	Create  Op = "create"
	Replace Op = "replace"
)

// Options of one store.
type Options struct {
	// Fault, if set, is asked before each operation, without locks held and
	// from any goroutine. With an error the operation fails, and is carried
	// out all the same if apply is true: the answer was lost. To play a server
	// that hangs it waits for ctx and returns its error. Errors that are
	// neither dcs.ErrUnavailable nor dcs.ErrDenied count as the first.
	Fault func(ctx context.Context, op Op, key string) (apply bool, err error)

	// Timeout bounds an operation; 0 means dcs.DefaultTimeout.
	Timeout time.Duration
}

// Store is one node's access to a Server. It implements dcs.Store.
type Store struct {
	server *Server
	opts   Options
	life   context.Context // ends with Close
	end    context.CancelFunc
}

var _ dcs.Store = (*Store)(nil)

const watchProbe = time.Second

// New gives a store with a server of its own and no faults.
func New() *Store { return NewServer().Open(Options{}) }

// Open gives another store on the server.
func (s *Server) Open(opts Options) *Store {
	if opts.Timeout <= 0 {
		opts.Timeout = dcs.DefaultTimeout
	}
	life, end := context.WithCancel(context.Background())
	return &Store{server: s, opts: opts, life: life, end: end}
}

// String implements dcs.Store.
func (s *Store) String() string { return "memory" }

// Close implements dcs.Store.
func (s *Store) Close() error {
	s.end()
	return nil
}

// do carries out op under the store's faults.
func (s *Store) do(ctx context.Context, op Op, key string, apply func()) error {
	ok, err := true, s.life.Err()
	if err != nil {
		ok, err = false, errors.New("store is closed")
	} else if err = ctx.Err(); err != nil {
		ok = false
	} else if s.opts.Fault != nil {
		bounded, cancel := context.WithTimeout(ctx, s.opts.Timeout)
		defer cancel()
		ok, err = s.opts.Fault(bounded, op, key)
		ok = ok || err == nil
	}
	if ok {
		apply()
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, dcs.ErrUnavailable) || errors.Is(err, dcs.ErrDenied) {
		return dcs.Failure(ctx, string(op)+" "+key, nil, err)
	}
	return dcs.Failure(ctx, string(op)+" "+key, dcs.ErrUnavailable, err)
}

// Read implements dcs.Reader.
func (s *Store) Read(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	below, err := dcs.Below(prefix)
	if err != nil {
		return dcs.Snapshot{}, err
	}
	var snap dcs.Snapshot
	if err := s.do(ctx, Read, prefix, func() { snap = s.server.read(below) }); err != nil {
		return dcs.Snapshot{}, err
	}
	return snap, nil
}

// Watch implements dcs.Reader.
func (s *Store) Watch(ctx context.Context, prefix string, since int64, changed func()) error {
	below, err := dcs.Below(prefix)
	if err != nil {
		return err
	}
	probe := time.NewTicker(watchProbe)
	defer probe.Stop()
	for {
		if err := s.do(ctx, Watch, prefix, func() {}); err != nil {
			return err
		}
		for waiting := true; waiting; {
			last, next := s.server.lastChange(below)
			if last > since {
				since = last
				changed()
				continue
			}
			select {
			case <-next:
			case <-probe.C:
				waiting = false
			case <-s.life.Done():
				waiting = false
			case <-ctx.Done():
				return fmt.Errorf("watch %s: %w", prefix, context.Cause(ctx))
			}
		}
	}
}

// Create implements dcs.Registry.
func (s *Store) Create(ctx context.Context, key, value string) (existing string, created bool, err error) {
	if err := dcs.CheckKey(key); err != nil {
		return "", false, err
	}
	if err := s.do(ctx, Create, key, func() { existing, created = s.server.create(key, value) }); err != nil {
		return "", false, err
	}
	return existing, created, nil
}

// Replace implements dcs.Registry.
func (s *Store) Replace(ctx context.Context, key, old, value string) error {
	if err := dcs.CheckKey(key); err != nil {
		return err
	}
	var replaced bool
	if err := s.do(ctx, Replace, key, func() { replaced = s.server.replace(key, old, value) }); err != nil {
		return err
	}
	if !replaced {
		return fmt.Errorf("replace %s: %w", key, dcs.ErrChanged)
	}
	return nil
}

// Acquire implements dcs.Locker.
func (s *Store) Acquire(ctx context.Context, key, value string, ttl time.Duration) (dcs.Lease, error) {
	if err := dcs.CheckKey(key); err != nil {
		return nil, err
	}
	if ttl <= 0 {
		return nil, fmt.Errorf("acquire %s: TTL %s is not positive", key, ttl)
	}
	var holder string
	lease := &Lease{store: s, key: key, ttl: ttl}
	if err := s.do(ctx, Acquire, key, func() { lease.grant, holder = s.server.acquire(key, value, ttl) }); err != nil {
		return nil, err
	}
	if lease.grant == nil {
		return nil, &dcs.HeldError{Key: key, Value: holder}
	}
	return lease, nil
}

// Lease implements dcs.Lease.
type Lease struct {
	store *Store
	key   string
	ttl   time.Duration
	grant *grant
}

// Renew implements dcs.Lease.
func (l *Lease) Renew(ctx context.Context) error {
	var alive bool
	start := time.Now()
	if err := l.store.do(ctx, Renew, l.key, func() { alive = l.store.server.renew(l.key, l.grant, start.Add(l.ttl)) }); err != nil {
		return err
	}
	if !alive {
		return fmt.Errorf("renew %s: %w", l.key, dcs.ErrLeaseLost)
	}
	return nil
}

// Release implements dcs.Lease.
func (l *Lease) Release(ctx context.Context) error {
	return l.store.do(ctx, Release, l.key, func() { l.store.server.release(l.key, l.grant) })
}

// TTL implements dcs.Lease.
func (l *Lease) TTL() time.Duration { return l.ttl }
