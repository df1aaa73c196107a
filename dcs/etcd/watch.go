package etcd

import (
	"context"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pgtender/pgtender/dcs"
)

// probeInterval is how often a watch makes sure that etcd still answers. The
// client by itself reconnects for ever and says nothing.
const probeInterval = 3 * time.Second

// Watch implements dcs.Reader. A server that does not answer is noticed within
// probeInterval and the request's timeout.
func (s *Store) Watch(ctx context.Context, prefix string, since int64, changed func()) error {
	below, err := dcs.Below(prefix)
	if err != nil {
		return err
	}
	watching, stop := context.WithCancelCause(ctx)
	var probe sync.WaitGroup
	defer probe.Wait()
	defer stop(nil)
	probe.Go(func() { stop(s.probe(watching, wire(below))) })

	fail := func(err error) error { return s.failure(ctx, "watch "+prefix, err) }
	events := s.client.Watch(clientv3.WithRequireLeader(watching), wire(below),
		clientv3.WithPrefix(), clientv3.WithRev(since+1))
	for resp := range events {
		if watching.Err() != nil {
			break
		}
		if err := resp.Err(); err != nil {
			return fail(err)
		}
		if err := s.sameCluster(resp.Header); err != nil {
			return fail(err)
		}
		if len(resp.Events) > 0 {
			changed()
		}
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("watch %s: %w", prefix, context.Cause(ctx))
	case watching.Err() != nil:
		return fail(context.Cause(watching))
	}
	return fail(fmt.Errorf("%s ended it", s))
}

// probe returns once etcd does not answer.
func (s *Store) probe(ctx context.Context, key string) error {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		if _, err := s.get(ctx, key, clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
