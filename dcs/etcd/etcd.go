// Package etcd is the DCS etcd 3, by its gRPC interface. It refuses the old v2
// tree: Patroni's section "etcd" without the 3 keeps its keys there, where no
// v3 client sees them.
//
// Keys get a leading slash on the wire, as Patroni's have. A lease is one etcd
// lease and one key bound to it, put if its create revision is 0. Reads are
// linearizable, and calls that could be answered by a member cut off from its
// quorum demand a leader.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/pgtender/pgtender/dcs"
)

// Options of a store.
type Options struct {
	// Endpoints are URLs, http or https but not both. host:port means http,
	// and the port is 2379 where none is given.
	Endpoints []string

	// Domain, if set, is asked for the endpoints in place of Endpoints, by DNS
	// SRV records; Suffix is appended to the service names as Patroni's
	// srv_suffix is.
	Domain, Suffix string

	// FixedEndpoints means that Endpoints are all there is to talk to, such as
	// proxies. Otherwise the other members' addresses are learnt from the
	// cluster and used beside them.
	FixedEndpoints bool

	Username string
	Password dcs.Secret
	TLS      dcs.TLSFiles

	// Timeout bounds one request; 0 means dcs.DefaultTimeout.
	Timeout time.Duration

	// Resolver asks DNS; nil means the system's.
	Resolver Resolver

	Log *slog.Logger // nil discards

	dialOptions []grpc.DialOption // faults, in tests
}

// Store implements dcs.Store.
type Store struct {
	client   *clientv3.Client
	keep     pb.LeaseClient
	timeout  time.Duration
	fixed    []string              // the configured endpoints
	cluster  atomic.Uint64         // id, once an answer told it
	reason   atomic.Pointer[error] // why the latest request found no connection, if it did not
	log      *slog.Logger
	life     context.Context // ends with Close
	end      context.CancelFunc
	closing  sync.Once
	closeErr error
	tasks    sync.WaitGroup
}

var _ dcs.Store = (*Store)(nil)

// Open connects to a cluster. Without a user name it does not wait for the
// connection: an unreachable server shows in the first request.
func Open(ctx context.Context, opts Options) (*Store, error) {
	if opts.Timeout <= 0 {
		opts.Timeout = dcs.DefaultTimeout
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if (opts.Username == "") != (opts.Password == "") {
		return nil, errors.New("open etcd: a user name needs a password, and a password a user name")
	}
	tlsConfig, err := opts.TLS.Config()
	if err != nil {
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	endpoints := opts.Endpoints
	if opts.Domain != "" {
		bounded, cancel := context.WithTimeout(ctx, opts.Timeout)
		defer cancel()
		if endpoints, err = discover(bounded, opts, tlsConfig); err != nil {
			return nil, dcs.Failure(ctx, "find etcd by DNS", dcs.ErrUnavailable, err)
		}
	}
	if endpoints, err = parseEndpoints(endpoints); err != nil {
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	s := &Store{timeout: opts.Timeout, fixed: endpoints, log: opts.Log}
	if err := s.connect(ctx, opts, tlsConfig); err != nil {
		return nil, s.failure(ctx, "connect to "+s.String(), err)
	}
	if !opts.FixedEndpoints {
		s.tasks.Go(s.learnMembers)
	}
	return s, nil
}

// String implements dcs.Store.
func (s *Store) String() string { return "etcd at " + strings.Join(s.fixed, ", ") }

// Close implements dcs.Store.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.end()
		s.tasks.Wait()
		if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
			s.closeErr = fmt.Errorf("close etcd connection: %w", err)
		}
	})
	return s.closeErr
}

// Read implements dcs.Reader.
func (s *Store) Read(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	below, err := dcs.Below(prefix)
	if err != nil {
		return dcs.Snapshot{}, err
	}
	resp, err := s.get(ctx, wire(below), clientv3.WithPrefix())
	if err != nil {
		return dcs.Snapshot{}, s.failure(ctx, "read "+prefix, err)
	}
	snap := dcs.Snapshot{Revision: resp.Header.Revision, Keys: make(map[string]dcs.Value, len(resp.Kvs))}
	for _, kv := range resp.Kvs {
		snap.Keys[strings.TrimPrefix(string(kv.Key), "/")] = dcs.Value{
			Data: string(kv.Value), Revision: kv.ModRevision, Leased: kv.Lease != 0,
		}
	}
	return snap, nil
}

// get reads linearizably.
func (s *Store) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return attempts(ctx, s.timeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
		resp, err := s.client.Get(ctx, key, opts...)
		if err != nil {
			return nil, err
		}
		return resp, s.sameCluster(resp.Header)
	})
}

// Create implements dcs.Registry.
func (s *Store) Create(ctx context.Context, key, value string) (existing string, created bool, err error) {
	if err := dcs.CheckKey(key); err != nil {
		return "", false, err
	}
	resp, err := s.txn(ctx,
		[]clientv3.Cmp{absent(key)},
		clientv3.OpPut(wire(key), value),
		clientv3.OpGet(wire(key)))
	if err != nil {
		return "", false, s.failure(ctx, "create "+key, err)
	}
	if resp.Succeeded {
		return "", true, nil
	}
	return string(found(resp).Value), false, nil
}

// Replace implements dcs.Registry.
func (s *Store) Replace(ctx context.Context, key, old, value string) error {
	if err := dcs.CheckKey(key); err != nil {
		return err
	}
	resp, err := s.txn(ctx,
		[]clientv3.Cmp{
			clientv3.Compare(clientv3.CreateRevision(wire(key)), ">", 0),
			clientv3.Compare(clientv3.Value(wire(key)), "=", old),
		},
		clientv3.OpPut(wire(key), value))
	if err != nil {
		return s.failure(ctx, "replace "+key, err)
	}
	if !resp.Succeeded {
		return fmt.Errorf("replace %s: %w", key, dcs.ErrChanged)
	}
	return nil
}

// txn carries out then if cond holds, else otherwise.
func (s *Store) txn(ctx context.Context, cond []clientv3.Cmp, then clientv3.Op, otherwise ...clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	resp, err := s.client.Txn(ctx).If(cond...).Then(then).Else(otherwise...).Commit()
	if err != nil {
		return nil, err
	}
	return resp, s.sameCluster(resp.Header)
}

// found is the key that the OpGet of a transaction read; without one, a zero
// key.
func found(resp *clientv3.TxnResponse) *mvccpb.KeyValue {
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().GetKvs() {
			return kv
		}
	}
	return &mvccpb.KeyValue{}
}

func absent(key string) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(wire(key)), "=", 0)
}

// wire is a key as Patroni writes it to etcd.
func wire(key string) string { return "/" + key }
