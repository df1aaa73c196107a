package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/etcd"
)

func TestParseEndpoints(t *testing.T) {
	for _, test := range []struct {
		name    string
		given   []string
		want    []string
		wantErr string
	}{
		{"host and port mean http", []string{"pg1:2380"}, []string{"http://pg1:2380"}, ""},
		{"the port may be left out", []string{"https://pg1", "https://[::1]"}, []string{"https://pg1:2379", "https://[::1]:2379"}, ""},
		{"a slash at the end does not matter", []string{"http://pg1:2379/"}, []string{"http://pg1:2379"}, ""},
		{"none", nil, nil, "no endpoint"},
		{"an empty one", []string{""}, nil, "not of the form"},
		{"two schemes", []string{"http://a", "https://b"}, nil, "differ in scheme"},
		{"another scheme", []string{"unix://a"}, nil, "neither http nor https"},
		{"a path", []string{"http://a/v3"}, nil, "not of the form"},
		{"a user", []string{"http://u:hunter2@a"}, nil, "do not belong here"},
		{"no URL", []string{"http://u:hunter2@a:b"}, nil, "not a URL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := etcd.ParseEndpoints(test.given)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
			if (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("error %v, want %q", err, test.wantErr)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

func TestMergeEndpoints(t *testing.T) {
	for _, test := range []struct {
		name                   string
		configured, advertised []string
		want                   []string
	}{
		{"members are added once", []string{"http://a:2379"}, []string{"http://a:2379", "http://b:2379", "http://b:2379"}, []string{"http://a:2379", "http://b:2379"}},
		{"another scheme needs other credentials", []string{"https://a:2379"}, []string{"http://a:2379"}, []string{"https://a:2379"}},
		{"this machine is not the cluster's", []string{"http://a:2379"}, []string{"http://localhost:2379", "http://127.0.0.1:2379", "http://0.0.0.0:2379", "http://[::1]:2379"}, []string{"http://a:2379"}},
		{"unless it is configured", []string{"http://127.0.0.1:1"}, []string{"http://localhost:2"}, []string{"http://127.0.0.1:1", "http://localhost:2"}},
		{"what is no endpoint is left out", []string{"http://a:2379"}, []string{"", "unix://x", "http://"}, []string{"http://a:2379"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, etcd.MergeEndpoints(test.configured, test.advertised)); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
		})
	}
}

// dns answers SRV questions and keeps them.
type dns struct {
	records map[string][]*net.SRV
	broken  string // this name cannot be looked up
	asked   []string
}

func (d *dns) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	full := fmt.Sprintf("_%s._%s.%s", service, proto, name)
	d.asked = append(d.asked, full)
	if full == d.broken {
		return "", nil, &net.DNSError{Err: "server misbehaving", Name: full, IsTemporary: true}
	}
	if records, ok := d.records[full]; ok {
		return full, records, nil
	}
	return "", nil, &net.DNSError{Err: "no such host", Name: full, IsNotFound: true}
}

func TestDiscovery(t *testing.T) {
	peers := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/members" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, `[{"id":1,"name":"a","clientURLs":["http://a.example:2379"]},{"clientURLs":["http://b.example:2379"]}]`)
	}))
	defer peers.Close()
	peer, err := url.Parse(peers.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(peer.Port())
	if err != nil {
		t.Fatal(err)
	}
	at := func(target string, port int) []*net.SRV { return []*net.SRV{{Target: target, Port: uint16(port)}} }

	for _, test := range []struct {
		name   string
		suffix string
		dns    dns
		want   string // the endpoints, or the error
		asked  []string
	}{
		{
			name: "the first name that exists counts",
			dns: dns{records: map[string][]*net.SRV{
				"_etcd-client._tcp.example.org": {{Target: "a.example.", Port: 2379}, {Target: "b.example.", Port: 2380}},
				"_etcd._tcp.example.org":        at("c.example.", 2379),
			}},
			want:  "http://a.example:2379, http://b.example:2380",
			asked: []string{"_etcd-client-ssl._tcp.example.org", "_etcd-client._tcp.example.org"},
		},
		{
			name:   "a suffix is part of the name, and ssl means https",
			suffix: "db",
			dns:    dns{records: map[string][]*net.SRV{"_etcd-client-ssl-db._tcp.example.org": at("a.example.", 2379)}},
			want:   "https://a.example:2379",
			asked:  []string{"_etcd-client-ssl-db._tcp.example.org"},
		},
		{
			name: "peers are asked for their clients' URLs",
			dns:  dns{records: map[string][]*net.SRV{"_etcd-server._tcp.example.org": at("127.0.0.1", port)}},
			want: "http://a.example:2379, http://b.example:2379",
			asked: []string{
				"_etcd-client-ssl._tcp.example.org", "_etcd-client._tcp.example.org", "_etcd-ssl._tcp.example.org",
				"_etcd._tcp.example.org", "_etcd-server-ssl._tcp.example.org", "_etcd-server._tcp.example.org",
			},
		},
		{
			name: "a failure does not lead from https to http",
			dns: dns{
				broken:  "_etcd-client-ssl._tcp.example.org",
				records: map[string][]*net.SRV{"_etcd-client._tcp.example.org": at("evil.example.", 2379)},
			},
			want:  "server misbehaving",
			asked: []string{"_etcd-client-ssl._tcp.example.org"},
		},
		{
			name: "a domain without etcd",
			want: "domain example.org has no SRV record for etcd",
			asked: []string{
				"_etcd-client-ssl._tcp.example.org", "_etcd-client._tcp.example.org", "_etcd-ssl._tcp.example.org",
				"_etcd._tcp.example.org", "_etcd-server-ssl._tcp.example.org", "_etcd-server._tcp.example.org",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ""
			store, err := etcd.Open(t.Context(), etcd.Options{Domain: "example.org", Suffix: test.suffix, Resolver: &test.dns, FixedEndpoints: true})
			if err != nil {
				got = err.Error()
				if !errors.Is(err, dcs.ErrUnavailable) {
					t.Errorf("error %v, want ErrUnavailable", err)
				}
			} else {
				got = store.String()
				store.Close()
			}
			if !strings.HasSuffix(got, test.want) {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if diff := cmp.Diff(test.asked, test.dns.asked); diff != "" {
				t.Errorf("questions (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseMembers(f *testing.F) {
	f.Add([]byte(`[{"clientURLs":["http://a:2379"]}]`))
	f.Add([]byte(`[null,{}]`))
	f.Add([]byte(`{"message":"not found"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		urls, err := etcd.ParseMembers(body)
		if err != nil {
			return
		}
		total := 0
		for _, u := range urls {
			total += len(u)
		}
		if total > 3*len(body) { // an invalid byte becomes three
			t.Errorf("%d bytes of URLs from %d bytes", total, len(body))
		}
		etcd.MergeEndpoints([]string{"http://a:2379"}, urls)
	})
}

func FuzzParseEndpoint(f *testing.F) {
	for _, seed := range []string{"a", "http://a:1", "https://[::1]", "http://u:p@h", "//", "a:b:c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, endpoint string) {
		parsed, err := etcd.ParseEndpoints([]string{endpoint})
		if err != nil {
			return
		}
		again, err := etcd.ParseEndpoints(parsed)
		if diff := cmp.Diff(parsed, again); diff != "" || err != nil {
			t.Errorf("%q becomes %q, and that %q (error %v)", endpoint, parsed, again, err)
		}
	})
}
