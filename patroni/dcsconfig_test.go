package patroni_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/patroni"
)

func TestTheEtcdSectionIsReadAsPatroniReadsIt(t *testing.T) {
	tests := []struct {
		name, yml string
		environ   []string
		want      patroni.Etcd3
	}{
		{"a host", "etcd3: {host: h}", nil, patroni.Etcd3{Endpoints: []string{"http://h:2379"}}},
		{"a host with its port", "etcd3: {host: 'h:1'}", nil, patroni.Etcd3{Endpoints: []string{"http://h:1"}}},
		{"a port of its own wins", "etcd3: {host: 'h:1', port: 2}", nil, patroni.Etcd3{Endpoints: []string{"http://h:2"}}},
		{"an IPv6 host", "etcd3: {host: '[fd00::1]:1'}", nil, patroni.Etcd3{Endpoints: []string{"http://[fd00::1]:1"}}},
		{"hosts as a list", "etcd3: {hosts: ['a:1', b], protocol: https}", nil, patroni.Etcd3{Endpoints: []string{"https://a:1", "https://b:2379"}}},
		{"hosts as text", "etcd3: {hosts: 'a:1, b:2'}", nil, patroni.Etcd3{Endpoints: []string{"http://a:1", "http://b:2"}}},
		{"hosts stay http with a CA", "etcd3: {hosts: 'a:1', cacert: /ca}", nil,
			patroni.Etcd3{Endpoints: []string{"http://a:1"}, TLS: patroni.TLSFiles{CA: "/ca"}}},
		{"user and certificates", "etcd3: {host: h, username: u, password: p, cacert: /ca, cert: /c, key: /k}", nil,
			patroni.Etcd3{Endpoints: []string{"http://h:2379"}, Username: "u", Password: "p", TLS: patroni.TLSFiles{CA: "/ca", Cert: "/c", Key: "/k"}}},
		{"a key without its certificate is not used", "etcd3: {host: h, key: /k}", nil, patroni.Etcd3{Endpoints: []string{"http://h:2379"}}},
		{"a URL overwrites the user", "etcd3: {url: 'https://x:9', username: u, password: p}", nil, patroni.Etcd3{Endpoints: []string{"https://x:9"}}},
		{"the user of a URL is taken as it stands", "etcd3: {url: 'http://a%40b:c:d@x/v3'}", nil,
			patroni.Etcd3{Endpoints: []string{"http://x:2379"}, Username: "a%40b", Password: "c:d"}},
		{"a URL wins over hosts", "etcd3: {url: 'http://x', hosts: 'a:1'}", nil, patroni.Etcd3{Endpoints: []string{"http://x:2379"}}},
		{"a proxy is not to be left", "etcd3: {proxy: 'http://x:9', srv: d, hosts: 'a:1'}", nil, patroni.Etcd3{Endpoints: []string{"http://x:9"}, UseProxies: true}},
		{"hosts that are proxies", "etcd3: {hosts: 'a:1', use_proxies: true}", nil, patroni.Etcd3{Endpoints: []string{"http://a:1"}, UseProxies: true}},
		{"SRV", "etcd3: {discovery_srv: d, srv_suffix: s, host: h}", nil, patroni.Etcd3{Endpoints: []string{"http://h:2379"}, SRV: "d", SRVSuffix: "s"}},
		{"all from the environment", "x: 1", []string{"PATRONI_ETCD3_HOST=h:1", "PATRONI_ETCD3_USERNAME=u", "PATRONI_ETCD3_PASSWORD=p", "PATRONI_ETCD3_PROTOCOL=https", "PATRONI_ETCD3_CACERT=/ca"},
			patroni.Etcd3{Endpoints: []string{"https://h:1"}, Username: "u", Password: "p", TLS: patroni.TLSFiles{CA: "/ca"}}},
		{"proxies and SRV from the environment", "x: 1", []string{"PATRONI_ETCD3_SRV=d", "PATRONI_ETCD3_USE_PROXIES=on"}, patroni.Etcd3{SRV: "d", UseProxies: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := config(t, "scope: a\n"+tt.yml+"\n", tt.environ...).DCS()
			if err != nil {
				t.Fatal(err)
			}
			if d.Kind != "etcd3" || d.Consul != nil {
				t.Errorf("kind %s", d.Kind)
			}
			if diff := cmp.Diff(tt.want, *d.Etcd3); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheConsulSectionIsReadAsPatroniReadsIt(t *testing.T) {
	tests := []struct {
		name, yml string
		environ   []string
		want      patroni.Consul
	}{
		{"a host", "consul: {host: h}", nil, patroni.Consul{Address: "http://h:8500"}},
		{"a host with its port", "consul: {host: 'h:1'}", nil, patroni.Consul{Address: "http://h:1"}},
		{"a port of its own wins", "consul: {host: 'h:1', port: 2, scheme: https}", nil, patroni.Consul{Address: "https://h:2"}},
		{"a URL", "consul: {url: 'https://h:1', host: x}", nil, patroni.Consul{Address: "https://h:1"}},
		{"a URL without a port", "consul: {url: 'http://h'}", nil, patroni.Consul{Address: "http://h:8500"}},
		{"nothing but a token", "consul: {token: t, dc: dc1, consistency: stale}", nil,
			patroni.Consul{Address: "http://127.0.0.1:8500", Token: "t", Datacenter: "dc1", Consistency: "stale"}},
		{"no verification", "consul: {host: h, verify: no}", nil, patroni.Consul{Address: "http://h:8500", TLS: patroni.TLSFiles{SkipVerify: true}}},
		{"a CA turns verification on", "consul: {host: h, verify: 'off', cacert: /ca}", nil, patroni.Consul{Address: "http://h:8500", TLS: patroni.TLSFiles{CA: "/ca"}}},
		{"the environment", "x: 1", []string{"PATRONI_CONSUL_HOST=h", "PATRONI_CONSUL_PORT=9", "PATRONI_CONSUL_TOKEN=t", "PATRONI_CONSUL_VERIFY=false"},
			patroni.Consul{Address: "http://h:9", Token: "t", TLS: patroni.TLSFiles{SkipVerify: true}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := config(t, "scope: a\n"+tt.yml+"\n", tt.environ...).DCS()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, *d.Consul); diff != "" || d.Etcd3 != nil {
				t.Error(diff)
			}
		})
	}
}

func TestTheFirstSectionInTheOrderOfModulesWins(t *testing.T) {
	d, err := config(t, "scope: a\netcd3: {host: e}\nconsul: {host: c}\nzookeeper: {hosts: z}\n").DCS()
	if err != nil || d.Kind != "consul" {
		t.Errorf("kind %s, %v", d.Kind, err)
	}
	d, err = config(t, "scope: a\netcd3: {host: e}\nconsul:\n").DCS()
	if err != nil || d.Kind != "etcd3" {
		t.Errorf("an empty section counts: kind %s, %v", d.Kind, err)
	}
}

func TestADCSThatIsNotSupportedIsNamed(t *testing.T) {
	tests := []struct {
		yml, kind, hint string
	}{
		{"etcd: {host: h}\netcd3: {host: h}", "etcd", "move Patroni to etcd3"},
		{"raft: {self_addr: 'h:1'}", "raft", "move Patroni to etcd3 or Consul"},
		{"zookeeper: {hosts: h}", "zookeeper", "pgtender reads etcd3 and consul"},
		{"zookeeper: {exhibitor: {hosts: h}}", "exhibitor", "pgtender reads etcd3 and consul"},
		{"kubernetes: {labels: {a: b}}", "kubernetes", "pgtender reads etcd3 and consul"},
	}
	for _, tt := range tests {
		t.Run(tt.kind, func(t *testing.T) {
			_, err := config(t, "scope: a\n"+tt.yml+"\n").DCS()
			if !errors.Is(err, patroni.ErrUnsupportedDCS) || !strings.HasSuffix(err.Error(), " uses "+tt.kind) {
				t.Errorf("error %v", err)
			}
			if hint := finding.Hint(err); !strings.Contains(hint, tt.hint) {
				t.Errorf("hint %q", hint)
			}
		})
	}
}

func TestADCSSectionThatMakesNoSenseIsAnError(t *testing.T) {
	for yml, want := range map[string]string{
		"x: 1":                        "names no DCS",
		"etcd3: {username: u}":        "no hosts, host, url, srv or proxy given",
		"etcd3: {url: 'h:1'}":         "url is not of the form",
		"etcd3: {proxy: 'ftp://h:1'}": "proxy is not of the form",
		"etcd3: {hosts: 'h:x'}":       `host "h:x" does not end in a port number`,
		"etcd3: {host: 'h:0'}":        `"h:0" is not of the form host:port`,
		"etcd3: {hosts: 'u:p@h:1'}":   "is not of the form host:port",
		"consul: {url: 'h'}":          "url is not of the form",
		"consul: {scheme: ftp}":       `scheme "ftp" is neither http nor https`,
		"consul: {host: 'h:x'}":       "does not end in a port number",
	} {
		_, err := config(t, "scope: a\n"+yml+"\n").DCS()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one about %q", yml, err, want)
		}
	}
}

func TestSRVRecordsAreTriedInPatronisOrder(t *testing.T) {
	records := map[string][]*net.SRV{}
	lookup := func(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
		if found := records["_"+service+"._"+proto+"."+name]; found != nil {
			return "", found, nil
		}
		return "", nil, &net.DNSError{Err: "no such host", Name: service, IsNotFound: true}
	}
	e := patroni.Etcd3{SRV: "d"}
	if _, err := e.LookupEndpoints(t.Context(), lookup); err == nil || finding.Hint(err) == "" {
		t.Errorf("error %v", err)
	}
	e.Endpoints = []string{"http://fallback:1"}
	steps := []struct{ record, want string }{
		{"", "http://fallback:1"},
		{"_etcd._tcp.d", "http://h:1"},
		{"_etcd-ssl._tcp.d", "https://h:1"},
		{"_etcd-client._tcp.d", "http://h:1"},
		{"_etcd-client-ssl._tcp.d", "https://h:1"},
	}
	for _, step := range steps {
		records[step.record] = []*net.SRV{{Target: "h.", Port: 1}}
		got, err := e.LookupEndpoints(t.Context(), lookup)
		if err != nil || len(got) != 1 || got[0] != step.want {
			t.Errorf("with %q: %v, %v, want %s", step.record, got, err, step.want)
		}
	}
	records["_etcd-client-s._tcp.d"] = []*net.SRV{{Target: "s.", Port: 2}}
	e.SRVSuffix = "s"
	if got, err := e.LookupEndpoints(t.Context(), lookup); err != nil || got[0] != "http://s:2" {
		t.Errorf("with a suffix: %v, %v", got, err)
	}
	if got, _ := (patroni.Etcd3{Endpoints: []string{"x"}}).LookupEndpoints(t.Context(), nil); got[0] != "x" {
		t.Errorf("without SRV: %v", got)
	}
}
