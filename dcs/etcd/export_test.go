package etcd

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc"
)

var (
	ParseEndpoints = parseEndpoints
	MergeEndpoints = mergeEndpoints
	ParseMembers   = parseMembers
)

// LoseAnswers has transactions carried out while lost is true, but their
// answers never arrive.
func (o *Options) LoseAnswers(lost *atomic.Bool) {
	o.dialOptions = append(o.dialOptions, grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoke(ctx, method, req, reply, cc, opts...)
			if method == "/etcdserverpb.KV/Txn" && lost.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return err
		}))
}

// Endpoints are those in use.
func (s *Store) Endpoints() []string { return s.client.Endpoints() }
