package consul

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgtender/pgtender/dcs"
)

const (
	// lockDelay is how long Consul keeps a key from others after it took it
	// from a session; 0 would mean its default, 15 s.
	lockDelay = time.Millisecond

	// lockDelayPatience is for how long an absent key that cannot be locked is
	// tried again.
	lockDelayPatience = 200 * time.Millisecond

	// destroyTimeout bounds the attempt to end a session that nobody uses.
	destroyTimeout = 3 * time.Second
)

// Lease implements dcs.Lease.
type Lease struct {
	store   *Store
	key     string
	session string
	ttl     time.Duration
}

// Acquire implements dcs.Locker. The TTL is rounded up to whole seconds, and to
// the server's minimum.
func (s *Store) Acquire(ctx context.Context, key, value string, ttl time.Duration) (dcs.Lease, error) {
	if err := dcs.CheckKey(key); err != nil {
		return nil, err
	}
	if ttl <= 0 {
		return nil, fmt.Errorf("acquire %s: TTL %s is not positive", key, ttl)
	}
	lease := &Lease{store: s, key: key, ttl: wholeSeconds(max(ttl, s.minTTL))}
	if err := lease.createSession(ctx); err != nil {
		return nil, s.failure(ctx, "acquire "+key, err)
	}
	for start := time.Now(); ; {
		done, err := s.txn(ctx,
			&api.KVTxnOp{Verb: api.KVCheckNotExists, Key: key},
			&api.KVTxnOp{Verb: api.KVLock, Key: key, Value: []byte(value), Session: lease.session})
		if done {
			return lease, nil
		}
		if err != nil {
			// The key may be ours without our knowing: until this is done, or
			// the session has expired, nobody gets it, ourselves included.
			s.tasks.Go(func() { s.abandon(context.WithoutCancel(ctx), lease.session) })
			return nil, s.failure(ctx, "acquire "+key, err)
		}
		pair, err := s.get(ctx, key)
		switch {
		case err != nil:
			s.abandon(ctx, lease.session)
			return nil, s.failure(ctx, "acquire "+key, err)
		case pair != nil:
			s.abandon(ctx, lease.session)
			return nil, &dcs.HeldError{Key: key, Value: string(pair.Value)}
		case time.Since(start) > lockDelayPatience:
			s.abandon(ctx, lease.session)
			return nil, &dcs.HeldError{Key: key}
		}
		// Let go in between, or within its lock delay.
		select {
		case <-ctx.Done():
		case <-time.After(lockDelay):
		}
	}
}

// createSession makes the lease's session. A server whose minimum TTL is above
// ours says so, and gets what it wants.
func (l *Lease) createSession(ctx context.Context) error {
	s := l.store
	for try := 0; ; try++ {
		bounded, cancel := s.request(ctx, s.timeout)
		id, _, err := s.client.Session().CreateNoChecks(&api.SessionEntry{
			Name:      l.key,
			Behavior:  api.SessionBehaviorDelete,
			LockDelay: lockDelay,
			TTL:       l.ttl.String(),
		}, (&api.WriteOptions{}).WithContext(bounded))
		cancel()
		if err == nil {
			l.session = id
			return nil
		}
		var r *refusal
		if try > 0 || !errors.As(err, &r) {
			return err
		}
		least := minTTL(r.body)
		if least <= l.ttl {
			return err
		}
		l.ttl = wholeSeconds(least)
	}
}

// Consul names the range it allows (agent/consul/state/session.go,
// "Invalid Session TTL '%d', must be between [%v=%v]").
var ttlRange = regexp.MustCompile(`Invalid Session TTL '.{0,40}', must be between \[([0-9a-zµ.]{1,30})=`)

// minTTL reads the shortest TTL allowed from a refusal, 0 if it is about
// something else.
func minTTL(refusal string) time.Duration {
	match := ttlRange.FindStringSubmatch(refusal)
	if match == nil {
		return 0
	}
	least, err := time.ParseDuration(match[1])
	if err != nil || least < 0 || least > 24*time.Hour { // Consul's longest is a day
		return 0
	}
	return least
}

func wholeSeconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// abandon ends a session that otherwise ends by its TTL, when it matters to
// nobody whether it worked.
func (s *Store) abandon(ctx context.Context, session string) {
	ctx, cancel := s.request(ctx, destroyTimeout)
	defer cancel()
	s.client.Session().Destroy(session, (&api.WriteOptions{}).WithContext(ctx))
}

// Renew implements dcs.Lease. It also makes sure that the key is still locked by
// the session: another program may have deleted it.
func (l *Lease) Renew(ctx context.Context) error {
	s := l.store
	bounded, cancel := s.request(ctx, s.timeout)
	defer cancel()
	entry, _, err := s.client.Session().Renew(l.session, (&api.WriteOptions{}).WithContext(bounded))
	if err != nil {
		return s.failure(ctx, "renew "+l.key, err)
	}
	if entry == nil {
		return fmt.Errorf("renew %s: %w", l.key, dcs.ErrLeaseLost)
	}
	pair, err := s.get(ctx, l.key)
	if err != nil {
		return s.failure(ctx, "renew "+l.key, err)
	}
	if pair == nil || pair.Session != l.session {
		return fmt.Errorf("renew %s: %w: another program took the key away", l.key, dcs.ErrLeaseLost)
	}
	return nil
}

// Release implements dcs.Lease. Ending the session deletes the key, if it is
// still the session's.
func (l *Lease) Release(ctx context.Context) error {
	bounded, cancel := l.store.request(ctx, l.store.timeout)
	defer cancel()
	_, err := l.store.client.Session().Destroy(l.session, (&api.WriteOptions{}).WithContext(bounded))
	if err != nil {
		return l.store.failure(ctx, "release "+l.key, err)
	}
	return nil
}

// TTL implements dcs.Lease.
func (l *Lease) TTL() time.Duration { return l.ttl }
