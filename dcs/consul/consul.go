// Package consul is the DCS Consul, by its HTTP interface.
//
// Keys have no leading slash. A lease is a session with behaviour "delete" and
// no health checks (a node that Consul takes for dead keeps its lease until the
// TTL, as everywhere else), and one key locked by it. Reads are consistent.
//
// Consul ends a session at the earliest after its TTL and at the latest after
// twice that (agent/structs/structs.go, SessionTTLMultiplier), or more if its
// leader changes: a lease is never shorter than promised, but a key whose holder
// died is free late.
package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgtender/pgtender/dcs"
)

// Options of a store. The environment variables CONSUL_HTTP_TOKEN,
// CONSUL_HTTP_TOKEN_FILE, CONSUL_NAMESPACE and CONSUL_PARTITION stand in for
// what has no value here, as in every Consul client.
type Options struct {
	// Address is the agent's URL, http or https; host:port means http, and the
	// port is 8500 where none is given.
	Address string

	Token      dcs.Secret
	Datacenter string // "" means the agent's own
	TLS        dcs.TLSFiles

	// MinTTL is the server's session_ttl_min if that is set; 0 means its
	// default, 10 s. Shorter leases are rounded up to it.
	MinTTL time.Duration

	// Timeout bounds one request; 0 means dcs.DefaultTimeout.
	Timeout time.Duration

	transport func(http.RoundTripper) http.RoundTripper // faults, in tests
}

// Store implements dcs.Store.
type Store struct {
	client  *api.Client
	http    *http.Transport
	address string
	timeout time.Duration
	minTTL  time.Duration
	life    context.Context // ends with Close
	end     context.CancelFunc
	tasks   sync.WaitGroup
}

var _ dcs.Store = (*Store)(nil)

const defaultMinTTL = 10 * time.Second // agent/config/default.go, session_ttl_min

// Open makes a store. It asks nothing of the server yet.
func Open(opts Options) (*Store, error) {
	address, err := parseAddress(opts.Address)
	if err != nil {
		return nil, fmt.Errorf("open Consul: %w", err)
	}
	tlsConfig, err := opts.TLS.Config()
	if err != nil {
		return nil, fmt.Errorf("open Consul: %w", err)
	}
	s := &Store{address: address.String(), timeout: opts.Timeout, minTTL: opts.MinTTL}
	if s.timeout <= 0 {
		s.timeout = dcs.DefaultTimeout
	}
	if s.minTTL <= 0 {
		s.minTTL = defaultMinTTL
	}
	s.http = newTransport(tlsConfig)
	var transport http.RoundTripper = refusals{s.http}
	if opts.transport != nil {
		transport = opts.transport(transport)
	}
	s.client, err = api.NewClient(&api.Config{
		Address:    address.Host,
		Scheme:     address.Scheme,
		PathPrefix: strings.TrimRight(address.Path, "/"),
		Token:      opts.Token.Reveal(),
		Datacenter: opts.Datacenter,
		HttpClient: &http.Client{Transport: transport},
	})
	if err != nil {
		return nil, fmt.Errorf("open Consul: %w", err)
	}
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// String implements dcs.Store.
func (s *Store) String() string { return "Consul at " + s.address }

// Close implements dcs.Store.
func (s *Store) Close() error {
	s.tasks.Wait()
	s.end()
	s.http.CloseIdleConnections()
	return nil
}

// request bounds a request by the store's timeout and life.
func (s *Store) request(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	stop := context.AfterFunc(s.life, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// Read implements dcs.Reader.
func (s *Store) Read(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	below, err := dcs.Below(prefix)
	if err != nil {
		return dcs.Snapshot{}, err
	}
	snap, err := s.list(ctx, below)
	if err != nil {
		return dcs.Snapshot{}, s.failure(ctx, "read "+prefix, err)
	}
	return snap, nil
}

// list reads all keys that start with below. Consul leaves out what our token
// may not read, instead of refusing: that must not look like absence.
func (s *Store) list(ctx context.Context, below string) (dcs.Snapshot, error) {
	bounded, cancel := s.request(ctx, s.timeout)
	defer cancel()
	query := (&api.QueryOptions{RequireConsistent: true}).WithContext(bounded)
	pairs, meta, err := s.client.KV().List(below, query)
	if err != nil {
		return dcs.Snapshot{}, err
	}
	if err := checkMeta(meta); err != nil {
		return dcs.Snapshot{}, err
	}
	if len(pairs) == 0 {
		// Servers before 1.11 do not tell what they left out, but refuse one
		// key by name.
		if _, err := s.get(ctx, below); err != nil {
			return dcs.Snapshot{}, err
		}
	}
	snap := dcs.Snapshot{Revision: int64(meta.LastIndex), Keys: make(map[string]dcs.Value, len(pairs))}
	for _, pair := range pairs {
		if pair.Key == below {
			continue // a "folder" that Consul's web page made
		}
		snap.Keys[pair.Key] = dcs.Value{
			Data: string(pair.Value), Revision: int64(pair.ModifyIndex), Leased: pair.Session != "",
		}
	}
	return snap, nil
}

// get reads one key; nil means that it is absent.
func (s *Store) get(ctx context.Context, key string) (*api.KVPair, error) {
	ctx, cancel := s.request(ctx, s.timeout)
	defer cancel()
	pair, meta, err := s.client.KV().Get(key, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if err != nil {
		return nil, err
	}
	return pair, checkMeta(meta)
}

// checkMeta refuses answers that are not Consul's (another server's or a
// proxy's "not found"), and ones with keys left out.
func checkMeta(meta *api.QueryMeta) error {
	if meta.LastIndex == 0 {
		return errors.New("the answer has no X-Consul-Index: is this Consul?")
	}
	if meta.ResultsFilteredByACLs {
		return &refusal{code: http.StatusForbidden, body: "the token may not read every key"}
	}
	return nil
}

// Create implements dcs.Registry.
func (s *Store) Create(ctx context.Context, key, value string) (existing string, created bool, err error) {
	if err := dcs.CheckKey(key); err != nil {
		return "", false, err
	}
	for {
		created, err = s.txn(ctx,
			&api.KVTxnOp{Verb: api.KVCheckNotExists, Key: key},
			&api.KVTxnOp{Verb: api.KVSet, Key: key, Value: []byte(value)})
		if created {
			return "", true, nil
		}
		var pair *api.KVPair
		if err == nil {
			pair, err = s.get(ctx, key)
		}
		if err != nil {
			return "", false, s.failure(ctx, "create "+key, err)
		}
		if pair != nil {
			return string(pair.Value), false, nil
		}
		// Deleted in between: once more.
	}
}

// Replace implements dcs.Registry.
func (s *Store) Replace(ctx context.Context, key, old, value string) error {
	if err := dcs.CheckKey(key); err != nil {
		return err
	}
	for {
		pair, err := s.get(ctx, key)
		if err != nil {
			return s.failure(ctx, "replace "+key, err)
		}
		if pair == nil || string(pair.Value) != old {
			return fmt.Errorf("replace %s: %w", key, dcs.ErrChanged)
		}
		done, err := s.txn(ctx, &api.KVTxnOp{Verb: api.KVCAS, Key: key, Value: []byte(value), Index: pair.ModifyIndex})
		if err != nil {
			return s.failure(ctx, "replace "+key, err)
		}
		if done {
			return nil
		}
		// Written in between, maybe with the same value: look again.
	}
}
