package patroni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/pgtender/pgtender/internal/finding"
)

// ErrUnsupportedDCS: Patroni keeps its cluster where pgtender cannot read it.
var ErrUnsupportedDCS = errors.New("DCS is not supported")

// DCS says where the cluster's keys are: exactly one of the pointers is set.
type DCS struct {
	Kind   string // etcd3 or consul
	Etcd3  *Etcd3
	Consul *Consul
}

// Etcd3 is the etcd3 section.
type Etcd3 struct {
	// Endpoints are URLs. They are where to begin: without UseProxies, Patroni
	// goes on with the client URLs of etcd's member list.
	Endpoints  []string
	UseProxies bool

	// SRV is the domain whose SRV records name the endpoints, if there are
	// any; Endpoints are the fallback. See LookupEndpoints.
	SRV, SRVSuffix string

	Username string
	Password Secret
	TLS      TLSFiles
}

// Consul is the consul section.
type Consul struct {
	Address     string // URL of the agent
	Token       Secret
	Datacenter  string
	Consistency string // default, consistent, stale; "" if not given
	TLS         TLSFiles
}

// dcsOrder is the order in which Patroni looks for a section: that of its
// modules' names (dynamic_loader.py:iter_classes). It skips one whose Python
// client is not installed, which cannot be seen from here.
var dcsOrder = []string{"consul", "etcd", "etcd3", "exhibitor", "kubernetes", "raft", "zookeeper"}

// dcsSections lists the DCS sections that are there, the one in use first.
func (c Config) dcsSections() []string {
	var out []string
	inZooKeeper := c.raw.Sub("zookeeper")["exhibitor"] != nil
	for _, kind := range dcsOrder {
		present := c.raw[kind] != nil
		switch {
		case kind == "exhibitor" && inZooKeeper:
			present = true
		case kind == "zookeeper" && inZooKeeper:
			present = false // config.py moves it
		}
		if present {
			out = append(out, kind)
		}
	}
	return out
}

func (c Config) dcsKind() string {
	if kinds := c.dcsSections(); len(kinds) > 0 {
		return kinds[0]
	}
	return ""
}

// DCS gives the settings of the DCS that Patroni uses. One that pgtender does
// not support is an error that wraps ErrUnsupportedDCS and has a hint.
func (c Config) DCS() (DCS, error) {
	kind := c.dcsKind()
	unsupported := func(format string, args ...any) (DCS, error) {
		return DCS{}, finding.WithHint(fmt.Errorf("%w: %s uses %s", ErrUnsupportedDCS, c.Source, kind), format, args...)
	}
	section := c.raw.Sub(kind)
	var d DCS
	var err error
	switch kind {
	case "":
		return DCS{}, finding.WithHint(fmt.Errorf("%s names no DCS", c.Source),
			"Patroni's environment may name it (PATRONI_ETCD3_HOSTS and the like): give the same in pgtender's own dcs section")
	case "etcd3":
		d.Etcd3, err = etcd3From(section)
	case "consul":
		d.Consul, err = consulFrom(section)
	case "etcd":
		return unsupported("the etcd section speaks etcd's version 2 protocol, which etcd 3.6 no longer has: move Patroni to etcd3")
	case "raft":
		return unsupported("Patroni's own Raft cannot be read from outside and is deprecated: move Patroni to etcd3 or Consul")
	default:
		return unsupported("pgtender reads etcd3 and consul")
	}
	if err != nil {
		return DCS{}, fmt.Errorf("read section %s of %s: %w", kind, c.Source, err)
	}
	d.Kind = kind
	return d, nil
}

// etcd3From follows dcs/etcd.py:get_etcd_client and
// AbstractEtcdClientWithFailover._get_machines_cache_from_config: a proxy
// alone, else SRV records, else url, hosts, host.
func etcd3From(o Object) (*Etcd3, error) {
	e := &Etcd3{
		UseProxies: truthy(o["use_proxies"]) || o.Has("proxy"),
		Username:   o.Text("username"), Password: Secret(o.Text("password")),
		TLS:       clientTLS(o),
		SRVSuffix: o.Text("srv_suffix"),
	}
	for _, name := range []string{"srv", "discovery_srv", "srv_domain"} {
		if o.Has(name) {
			e.SRV = o.Text(name)
		}
	}
	protocol := o.Text("protocol")
	if protocol == "" {
		protocol = "http"
	}
	var err error
	switch {
	case o.Has("proxy"):
		e.SRV = ""
		err = e.fromURL("proxy", o.Text("proxy"))
	case o.Has("url"):
		err = e.fromURL("url", o.Text("url"))
	case o.Has("hosts"):
		port := o.integerOr("port", 2379)
		for _, host := range methodList(o["hosts"]) {
			endpoint, err := hostURL(protocol, host, port)
			if err != nil {
				return nil, err
			}
			e.Endpoints = append(e.Endpoints, endpoint)
		}
	case o.Text("host") != "":
		var endpoint string
		host, port := o.Text("host"), int64(2379)
		if n, ok := o.Int("port"); ok {
			// A port of its own wins over the one behind the colon.
			h, _, err := splitHostPort(host, port)
			if err != nil {
				return nil, err
			}
			host, port = bracket(h), n
		}
		if endpoint, err = hostURL(protocol, host, port); err == nil {
			e.Endpoints = []string{endpoint}
		}
	}
	if err != nil {
		return nil, err
	}
	if len(e.Endpoints) == 0 && e.SRV == "" {
		return nil, errors.New("no hosts, host, url, srv or proxy given")
	}
	return e, nil
}

// fromURL takes endpoint and user from a URL. The user and password of the
// section are overwritten even if the URL has none: that is what Patroni does,
// so a cluster that works has them in the URL, not encoded, or needs none.
func (e *Etcd3) fromURL(name, text string) error {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || (scheme != "http" && scheme != "https") {
		return fmt.Errorf("%s is not of the form http://host:port or https://host:port", name)
	}
	netloc, _, _ := strings.Cut(rest, "/")
	e.Username, e.Password = "", ""
	if i := strings.LastIndexByte(netloc, '@'); i >= 0 {
		user, password, _ := strings.Cut(netloc[:i], ":")
		e.Username, e.Password = user, Secret(password)
		netloc = netloc[i+1:]
	}
	endpoint, err := hostURL(scheme, netloc, 2379)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	e.Endpoints = []string{endpoint}
	return nil
}

// LookupEndpoints resolves SRV and gives the endpoints to begin with: those of
// the first kind of record that exists, else Endpoints. lookup is
// net.Resolver's LookupSRV.
//
// Records for etcd's peers (_etcd-server), which Patroni tries last and asks
// for the client URLs, are not followed.
func (e Etcd3) LookupEndpoints(ctx context.Context, lookup func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)) ([]string, error) {
	if e.SRV == "" {
		return e.Endpoints, nil
	}
	var last error
	for _, kind := range []string{"-client-ssl", "-client", "-ssl", ""} {
		service, scheme := "etcd"+kind, "http"
		if strings.Contains(kind, "-ssl") {
			scheme = "https"
		}
		if e.SRVSuffix != "" {
			service += "-" + e.SRVSuffix
		}
		_, records, err := lookup(ctx, service, "tcp", e.SRV)
		if err != nil {
			last = err
		}
		var out []string
		for _, r := range records {
			host := strings.TrimSuffix(r.Target, ".")
			out = append(out, scheme+"://"+net.JoinHostPort(host, strconv.Itoa(int(r.Port))))
		}
		if len(out) > 0 {
			return out, nil
		}
	}
	if len(e.Endpoints) > 0 {
		return e.Endpoints, nil
	}
	err := fmt.Errorf("no SRV record names etcd's clients below %s", e.SRV)
	if last != nil {
		err = fmt.Errorf("%w: %w", err, last)
	}
	return nil, finding.WithHint(err, "give hosts in place of srv, or records for _etcd-client or _etcd-client-ssl")
}

// consulFrom follows dcs/consul.py:Consul.__init__.
func consulFrom(o Object) (*Consul, error) {
	scheme, host, port := o.Text("scheme"), "127.0.0.1", int64(8500)
	if scheme == "" {
		scheme = "http"
	}
	given, hasPort := o.Int("port")
	switch {
	case o.Has("url"):
		u, err := url.Parse(o.Text("url"))
		if err != nil || u.Hostname() == "" || u.Scheme == "" {
			return nil, errors.New("url is not of the form http://host:port or https://host:port")
		}
		scheme, host = u.Scheme, u.Hostname()
		if u.Port() != "" {
			if port, err = strconv.ParseInt(u.Port(), 10, 64); err != nil {
				return nil, fmt.Errorf("url: port %q is no number", u.Port())
			}
		}
	case o.Has("host"):
		var err error
		if host, port, err = splitHostPort(o.Text("host"), port); err != nil {
			return nil, err
		}
		if hasPort {
			port = given
		}
	case hasPort:
		port = given
	}
	if scheme != "http" && scheme != "https" {
		return nil, fmt.Errorf("scheme %q is neither http nor https", scheme)
	}
	endpoint, err := hostURL(scheme, bracket(host), port)
	if err != nil {
		return nil, err
	}
	c := &Consul{
		Address: endpoint, Token: Secret(o.Text("token")), Datacenter: o.Text("dc"),
		Consistency: o.Text("consistency"), TLS: clientTLS(o),
	}
	if verify, ok := parseBool(o["verify"]); ok && !verify && c.TLS.CA == "" {
		c.TLS.SkipVerify = true // a CA turns verification on whatever verify says
	}
	return c, nil
}

func clientTLS(o Object) TLSFiles {
	f := TLSFiles{CA: o.Text("cacert"), Cert: o.Text("cert"), Key: o.Text("key")}
	if f.Cert == "" {
		f.Key = "" // a key without its certificate is not used
	}
	return f
}

// hostURL makes a URL of host or host:port.
func hostURL(scheme, host string, port int64) (string, error) {
	h, p, err := splitHostPort(strings.TrimSpace(host), port)
	if err != nil {
		return "", err
	}
	return scheme + "://" + net.JoinHostPort(h, strconv.FormatInt(p, 10)), nil
}

// splitHostPort takes host, host:port or [v6]:port apart. A bare IPv6 address
// is ambiguous: Patroni's split_host_port takes its last group for the port,
// and so does this.
func splitHostPort(s string, otherwise int64) (string, int64, error) {
	host, port := s, otherwise
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		n, err := strconv.ParseUint(s[i+1:], 10, 16)
		if err != nil {
			return "", 0, fmt.Errorf("host %q does not end in a port number", s)
		}
		host, port = s[:i], int64(n)
	}
	host = strings.Trim(host, "[]")
	if host == "" || port < 1 || port > 65535 || strings.ContainsAny(host, "/@?# ") {
		return "", 0, fmt.Errorf("%q is not of the form host:port", s)
	}
	return host, port, nil
}

func bracket(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}
