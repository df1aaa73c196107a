package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgtender/pgtender/dcs"
)

const (
	defaultPort    = "8500"
	connectTimeout = 5 * time.Second
	maxRefusal     = 4 << 10 // bytes of a refusal that we look at
)

func parseAddress(address string) (*url.URL, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		// url.Error repeats the text, which may hold a password.
		return nil, errors.New("the address is not a URL")
	}
	switch {
	case u.User != nil:
		return nil, fmt.Errorf("address %s: user and password do not belong here", u.Host)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("address %s: the scheme is neither http nor https", u)
	case u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("address %s is not of the form https://host:port", u)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), defaultPort)
	}
	return u, nil
}

func newTransport(config *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: connectTimeout,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
	}
}

// refusals makes errors of HTTP answers that are neither success nor one of the
// two refusals with a meaning: not found, and a transaction's conflict. The
// client's own errors do not always keep status and text.
type refusals struct{ next http.RoundTripper }

func (r refusals) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	if err != nil || resp.StatusCode < 300 ||
		resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusConflict {
		return resp, err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	return nil, &refusal{code: resp.StatusCode, body: strings.TrimSpace(string(body))}
}

// refusal is an answer that is none.
type refusal struct {
	code int
	body string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%d %s: %s", r.code, http.StatusText(r.code), r.body)
}

// failure is the error of a request. What is neither a refusal of ours nor a
// mistake in the request means that Consul gave no answer.
func (s *Store) failure(ctx context.Context, doing string, err error) error {
	var r *refusal
	switch {
	case s.life.Err() != nil:
		err = errors.New("the connection is closed")
	case errors.As(err, &r):
		switch r.code {
		case http.StatusUnauthorized, http.StatusForbidden:
			return dcs.Failure(ctx, doing, dcs.ErrDenied, r)
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			return dcs.Failure(ctx, doing, nil, r)
		}
		return dcs.Failure(ctx, doing, dcs.ErrUnavailable, fmt.Errorf("%s: %w", s, r))
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("no answer from %s in time: %w", s, context.DeadlineExceeded)
	}
	return dcs.Failure(ctx, doing, dcs.ErrUnavailable, err)
}

// txn carries out ops, all or none. It reports false if a condition among them
// did not hold.
func (s *Store) txn(ctx context.Context, ops ...*api.KVTxnOp) (bool, error) {
	ctx, cancel := s.request(ctx, s.timeout)
	defer cancel()
	var txn api.TxnOps
	for _, op := range ops {
		txn = append(txn, &api.TxnOp{KV: op})
	}
	done, resp, _, err := s.client.Txn().Txn(txn, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil || done {
		return done, err
	}
	if len(resp.Errors) == 0 {
		return false, errors.New("a transaction failed without saying why")
	}
	for _, e := range resp.Errors {
		// A transaction tells missing rights as it tells a condition that
		// does not hold (agent/consul/txn_endpoint.go, preCheck).
		if strings.Contains(e.What, "Permission denied") {
			return false, &refusal{code: http.StatusForbidden, body: e.What}
		}
	}
	return false, nil
}
