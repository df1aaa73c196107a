package etcd

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// Resolver is the part of net.Resolver that discovery needs.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, addrs []*net.SRV, err error)
}

// services are the names under which a domain may announce its etcd, in
// Patroni's order (patroni/dcs/etcd.py, _get_machines_cache_from_srv). Peers
// are asked for their clients' URLs.
var services = []struct {
	name   string
	scheme string
	peers  bool
}{
	{"etcd-client-ssl", "https", false},
	{"etcd-client", "http", false},
	{"etcd-ssl", "https", false},
	{"etcd", "http", false},
	{"etcd-server-ssl", "https", true},
	{"etcd-server", "http", true},
}

// discover finds endpoints by SRV records. Only a name that does not exist
// leads on to the next one: a DNS server out of order must not lead from https
// to http.
func discover(ctx context.Context, opts Options, tlsConfig *tls.Config) ([]string, error) {
	var resolver Resolver = net.DefaultResolver
	if opts.Resolver != nil {
		resolver = opts.Resolver
	}
	for _, service := range services {
		name := service.name
		if opts.Suffix != "" {
			name += "-" + opts.Suffix
		}
		_, records, err := resolver.LookupSRV(ctx, name, "tcp", opts.Domain)
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		var endpoints []string
		for _, r := range records {
			host := net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port)))
			endpoints = append(endpoints, service.scheme+"://"+host)
		}
		if service.peers && len(endpoints) > 0 {
			if endpoints, err = askPeers(ctx, endpoints, tlsConfig); err != nil {
				return nil, err
			}
		}
		if len(endpoints) > 0 {
			return endpoints, nil
		}
	}
	return nil, fmt.Errorf("domain %s has no SRV record for etcd", opts.Domain)
}

// askPeers gives the client URLs that the first peer to answer knows.
func askPeers(ctx context.Context, peers []string, tlsConfig *tls.Config) ([]string, error) {
	transport := &http.Transport{TLSClientConfig: tlsConfig}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var failures []error
	for _, peer := range peers {
		urls, err := askPeer(ctx, client, peer)
		if err == nil && len(urls) > 0 {
			return urls, nil
		}
		failures = append(failures, err)
	}
	return nil, fmt.Errorf("no etcd peer tells its clients' URLs: %w", errors.Join(failures...))
}

const maxMembers = 1 << 20 // bytes of a member list

func askPeer(ctx context.Context, client *http.Client, peer string) ([]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, peer+"/members", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMembers))
	if err != nil {
		return nil, fmt.Errorf("read members from %s: %w", peer, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read members from %s: %s", peer, resp.Status)
	}
	urls, err := parseMembers(body)
	if err != nil {
		return nil, fmt.Errorf("read members from %s: %w", peer, err)
	}
	return urls, nil
}

// parseMembers reads a peer's answer: a JSON array of members (etcd's
// server/etcdserver/api/etcdhttp/peer.go).
func parseMembers(body []byte) ([]string, error) {
	var members []struct {
		ClientURLs []string `json:"clientURLs"`
	}
	if err := json.Unmarshal(body, &members); err != nil {
		return nil, err
	}
	var urls []string
	for _, m := range members {
		urls = append(urls, m.ClientURLs...)
	}
	return urls, nil
}
