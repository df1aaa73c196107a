package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

const defaultPort = "2379"

// parseEndpoints brings endpoints to the form scheme://host:port.
func parseEndpoints(endpoints []string) ([]string, error) {
	if len(endpoints) == 0 {
		return nil, errors.New("no endpoint is given")
	}
	var parsed []string
	for _, endpoint := range endpoints {
		u, err := parseEndpoint(endpoint)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, u)
	}
	scheme, _, _ := strings.Cut(parsed[0], "://")
	for _, endpoint := range parsed {
		if !strings.HasPrefix(endpoint, scheme+"://") {
			return nil, fmt.Errorf("endpoints %s and %s differ in scheme", parsed[0], endpoint)
		}
	}
	return parsed, nil
}

func parseEndpoint(endpoint string) (string, error) {
	if !strings.Contains(endpoint, "://") {
		endpoint = "http://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		// url.Error repeats the text, which may hold a password.
		return "", errors.New("an endpoint is not a URL")
	}
	switch {
	case u.User != nil:
		return "", fmt.Errorf("endpoint %s: user and password do not belong here", u.Host)
	case u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("endpoint %s: the scheme is neither http nor https", u)
	case u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("endpoint %s is not of the form https://host:port", u)
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	return u.Scheme + "://" + net.JoinHostPort(u.Hostname(), port), nil
}

const (
	memberInterval = 5 * time.Minute
	memberRetry    = 10 * time.Second
)

// learnMembers keeps the client's endpoints up with the cluster's members until
// the store is closed.
func (s *Store) learnMembers() {
	for {
		wait := memberInterval
		if err := s.learnMembersOnce(); err != nil {
			s.log.Debug("etcd members not learnt", "err", err)
			wait = memberRetry
		}
		select {
		case <-s.life.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (s *Store) learnMembersOnce() error {
	ctx, cancel := context.WithTimeout(s.life, s.timeout)
	defer cancel()
	resp, err := s.client.MemberList(ctx)
	if err != nil {
		return err
	}
	if err := s.sameCluster(resp.Header); err != nil {
		return err
	}
	var urls []string
	for _, member := range resp.Members {
		if member.Name != "" && !member.IsLearner { // an unnamed one has not started yet
			urls = append(urls, member.ClientURLs...)
		}
	}
	if endpoints := mergeEndpoints(s.fixed, urls); !slices.Equal(endpoints, s.client.Endpoints()) {
		s.client.SetEndpoints(endpoints...)
	}
	return nil
}

// mergeEndpoints adds to the configured endpoints those that members advertise,
// except what cannot be them: another scheme, or an address that means this
// machine when the configured ones do not. Whatever listens there is not the
// cluster.
func mergeEndpoints(configured, advertised []string) []string {
	scheme, _, _ := strings.Cut(configured[0], "://")
	local := slices.ContainsFunc(configured, isLocal)
	merged := slices.Clone(configured)
	for _, endpoint := range advertised {
		endpoint, err := parseEndpoint(endpoint)
		if err != nil || !strings.HasPrefix(endpoint, scheme+"://") || slices.Contains(merged, endpoint) {
			continue
		}
		if isLocal(endpoint) && !local {
			continue
		}
		merged = append(merged, endpoint)
	}
	return merged
}

// isLocal tells endpoints that every machine would take for itself.
func isLocal(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip.IsLoopback() || ip.IsUnspecified()
}
