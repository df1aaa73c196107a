package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pgtender/pgtender/dcs"
)

// revokeTimeout bounds the attempt to give back a lease that nobody holds.
const revokeTimeout = 3 * time.Second

// Lease implements dcs.Lease.
type Lease struct {
	store *Store
	key   string
	id    clientv3.LeaseID
	ttl   time.Duration
}

// Acquire implements dcs.Locker. The TTL is rounded up to whole seconds, and by
// the server to half again its election timeout.
func (s *Store) Acquire(ctx context.Context, key, value string, ttl time.Duration) (dcs.Lease, error) {
	if err := dcs.CheckKey(key); err != nil {
		return nil, err
	}
	if ttl <= 0 {
		return nil, fmt.Errorf("acquire %s: TTL %s is not positive", key, ttl)
	}
	grant, err := s.grant(ctx, ttl)
	if err != nil {
		return nil, s.failure(ctx, "acquire "+key, err)
	}
	holder, err := s.put(ctx, key, value, grant.ID)
	if err != nil {
		// The key may be ours without our knowing: until this is done, or the
		// TTL is over, nobody gets it, ourselves included.
		s.tasks.Go(func() { s.abandon(context.WithoutCancel(ctx), grant.ID) })
		return nil, s.failure(ctx, "acquire "+key, err)
	}
	if clientv3.LeaseID(holder.Lease) != grant.ID {
		s.abandon(ctx, grant.ID)
		return nil, &dcs.HeldError{Key: key, Value: string(holder.Value)}
	}
	return &Lease{store: s, key: key, id: grant.ID, ttl: time.Duration(grant.TTL) * time.Second}, nil
}

func (s *Store) grant(ctx context.Context, ttl time.Duration) (*clientv3.LeaseGrantResponse, error) {
	return attempts(ctx, s.timeout, func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		grant, err := s.client.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
		if err != nil {
			return nil, err
		}
		return grant, s.sameCluster(grant.ResponseHeader)
	})
}

// put stores key under the lease if it is absent, and gives what is there then.
// Done twice it finds its own key.
func (s *Store) put(ctx context.Context, key, value string, id clientv3.LeaseID) (*mvccpb.KeyValue, error) {
	return attempts(ctx, s.timeout, func(ctx context.Context) (*mvccpb.KeyValue, error) {
		resp, err := s.txn(ctx,
			[]clientv3.Cmp{absent(key)},
			clientv3.OpPut(wire(key), value, clientv3.WithLease(id)),
			clientv3.OpGet(wire(key)))
		if err != nil {
			return nil, err
		}
		if resp.Succeeded {
			return &mvccpb.KeyValue{Lease: int64(id)}, nil
		}
		return found(resp), nil
	})
}

// abandon revokes a lease that otherwise ends by its TTL.
func (s *Store) abandon(ctx context.Context, id clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	if _, err := s.client.Revoke(ctx, id); err != nil {
		s.log.Debug("lease not revoked, it expires by itself", "lease", int64(id), "err", err)
	}
}

// Renew implements dcs.Lease. It also makes sure that the key is still bound to
// the lease: another program may have deleted it.
func (l *Lease) Renew(ctx context.Context) error {
	s := l.store
	alive, err := s.keepAlive(ctx, l.id)
	if err != nil {
		return s.failure(ctx, "renew "+l.key, err)
	}
	if !alive {
		return fmt.Errorf("renew %s: %w", l.key, dcs.ErrLeaseLost)
	}
	resp, err := s.get(ctx, wire(l.key))
	if err != nil {
		return s.failure(ctx, "renew "+l.key, err)
	}
	if len(resp.Kvs) == 0 || clientv3.LeaseID(resp.Kvs[0].Lease) != l.id {
		return fmt.Errorf("renew %s: %w: another program took the key away", l.key, dcs.ErrLeaseLost)
	}
	return nil
}

// keepAlive renews a lease once. The client's KeepAliveOnce would retry without
// a pause for as long as there is no leader.
func (s *Store) keepAlive(ctx context.Context, id clientv3.LeaseID) (alive bool, err error) {
	return attempts(clientv3.WithRequireLeader(ctx), s.timeout, func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithCancel(ctx) // ends the stream
		defer cancel()
		stream, err := s.keep.LeaseKeepAlive(ctx)
		if err != nil {
			return false, err
		}
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil && err != io.EOF {
			return false, err // for io.EOF, Recv has the reason
		}
		resp, err := stream.Recv()
		if errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		// A lease that is gone is answered with a TTL of 0 (etcd's
		// server/etcdserver/api/v3rpc/lease.go, leaseKeepAlive).
		return resp.TTL > 0, s.sameCluster(resp.Header)
	})
}

// Release implements dcs.Lease.
func (l *Lease) Release(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, l.store.timeout)
	defer cancel()
	_, err := l.store.client.Revoke(bounded, l.id)
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return l.store.failure(ctx, "release "+l.key, err)
	}
	return nil
}

// TTL implements dcs.Lease.
func (l *Lease) TTL() time.Duration { return l.ttl }
