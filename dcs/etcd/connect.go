package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pgtender/pgtender/dcs"
)

const (
	// A member that hangs is noticed after pingAfter and pingTimeout, and its
	// watches move to another. gRPC's client does not ping more often, and
	// etcd's server, by default, cuts off clients that ping more often than
	// every 5 s.
	pingAfter   = 10 * time.Second
	pingTimeout = 3 * time.Second

	// gRPC's own limit of 2 min between attempts to connect would let us miss
	// a server that is back.
	reconnectLimit = 2 * time.Second
	connectTimeout = 5 * time.Second
)

// connect makes the client. With a user name it authenticates first, which
// newer servers want to see before they show their members (3.4.42, 3.5.28,
// 3.6.9).
func (s *Store) connect(ctx context.Context, opts Options, tlsConfig *tls.Config) error {
	s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	detach := context.AfterFunc(ctx, s.end)
	if strings.HasPrefix(s.fixed[0], "http://") {
		tlsConfig = nil
	}
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = 100*time.Millisecond, reconnectLimit
	client, err := clientv3.New(clientv3.Config{
		Context:              s.life,
		Endpoints:            s.fixed,
		Username:             opts.Username,
		Password:             opts.Password.Reveal(),
		TLS:                  tlsConfig,
		DialTimeout:          opts.Timeout,
		DialKeepAliveTime:    pingAfter,
		DialKeepAliveTimeout: pingTimeout,
		Logger:               zap.NewNop(),
		DialOptions: append([]grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: connectTimeout}),
			grpc.WithChainUnaryInterceptor(s.failFast),
		}, opts.dialOptions...),
	})
	if err != nil {
		s.end()
		return err
	}
	if !detach() {
		s.end()
		client.Close()
		return ctx.Err()
	}
	s.client, s.keep = client, pb.NewLeaseClient(client.ActiveConnection())
	return nil
}

// failFast has a request fail, with the reason, when no endpoint accepts
// connections. The client's default is to wait for one until the context ends,
// and then to say no more than that.
func (s *Store) failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
	switch code(err) {
	case codes.OK:
		s.reason.Store(nil)
	case codes.Unavailable:
		s.reason.Store(&err)
	}
	return err
}

// attempts does what may be done twice. A member that hangs costs a third of the
// time: the next attempt goes to another.
func attempts[T any](ctx context.Context, timeout time.Duration, do func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for broken := false; ; {
		try, cancel := context.WithTimeout(ctx, timeout/3)
		result, err := do(try)
		cancel()
		switch {
		case err == nil || ctx.Err() != nil:
			return result, err
		case isLate(err):
		case status.Code(err) == codes.Unavailable && !broken:
			// The connection to a member that hangs is given up in the middle
			// of a request; the next one goes to another member. Once: where
			// nobody can be reached, saying so at once is the better answer.
			broken = true
		default:
			return result, err
		}
	}
}

func isLate(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
}

// failure is the error of a request.
func (s *Store) failure(ctx context.Context, doing string, err error) error {
	err = rpctypes.Error(err)
	if s.client != nil && s.life.Err() != nil {
		err = errors.New("the connection is closed")
	} else if isLate(err) {
		err = fmt.Errorf("no answer from %s in time: %w", s, context.DeadlineExceeded)
		if reason := s.reason.Load(); reason != nil {
			err = fmt.Errorf("%w: %w", err, *reason)
		}
	}
	return dcs.Failure(ctx, doing, kind(err), err)
}

// kind sorts errors: what is neither a refusal of ours nor a mistake in the
// request means that etcd gave no answer.
func kind(err error) error {
	for _, denial := range []error{
		rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty,
		rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision,
	} {
		if errors.Is(err, denial) {
			return dcs.ErrDenied
		}
	}
	switch code(err) {
	case codes.PermissionDenied, codes.Unauthenticated:
		return dcs.ErrDenied
	case codes.InvalidArgument, codes.OutOfRange:
		return nil
	}
	return dcs.ErrUnavailable
}

func code(err error) codes.Code {
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		return known.Code()
	}
	return status.Code(err)
}

// sameCluster refuses answers of a second cluster, where our keys would look
// absent: endpoints that were mixed up, or a member's advertised address that
// means something else here.
func (s *Store) sameCluster(header *pb.ResponseHeader) error {
	id := header.GetClusterId()
	if s.cluster.CompareAndSwap(0, id) || s.cluster.Load() == id {
		return nil
	}
	return fmt.Errorf("one answer came from etcd cluster %x, another from %x: do the endpoints belong to two clusters?", s.cluster.Load(), id)
}
