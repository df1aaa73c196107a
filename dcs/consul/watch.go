package consul

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgtender/pgtender/dcs"
)

// watchWait is how long the server waits with its answer when nothing changes,
// and with the request's timeout how long a server that hangs goes unnoticed.
// Consul adds up to a sixteenth (agent/consul/rpc.go, blockingQuery).
const watchWait = 5 * time.Second

// Watch implements dcs.Reader, by blocking queries. Changes of keys elsewhere
// may be told too.
func (s *Store) Watch(ctx context.Context, prefix string, since int64, changed func()) error {
	below, err := dcs.Below(prefix)
	if err != nil {
		return err
	}
	index := uint64(max(since, 0))
	for {
		next, err := s.await(ctx, below, index)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("watch %s: %w", prefix, context.Cause(ctx))
		case err != nil:
			return s.failure(ctx, "watch "+prefix, err)
		}
		// An index that goes back, as after a restored snapshot, starts anew;
		// what happened meanwhile is unknown.
		if next != index {
			changed()
		}
		index = next
	}
}

// await waits until the index of the keys below is another than index, or for a
// while, and gives it.
func (s *Store) await(ctx context.Context, below string, index uint64) (uint64, error) {
	bounded, cancel := s.request(ctx, watchWait+watchWait/16+s.timeout)
	defer cancel()
	query := &api.QueryOptions{RequireConsistent: true, WaitIndex: index, WaitTime: watchWait}
	_, meta, err := s.client.KV().Keys(below, "", query.WithContext(bounded))
	if err != nil {
		return 0, err
	}
	return meta.LastIndex, checkMeta(meta)
}
