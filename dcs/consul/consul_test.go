package consul_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/consul"
	"github.com/pgtender/pgtender/dcs/dcstest"
	"github.com/pgtender/pgtender/internal/servertest"
)

const rootToken = "5d0f2b2c-54b3-4c53-9f3e-8f0a7e2f7f10"

// server is a Consul of one server, with its data in memory.
type server struct {
	*servertest.Process
	address string // host:port
	admin   *api.Client
}

// start runs Consul; settings are added to its configuration.
func start(t testing.TB, settings string) *server {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a Consul server")
	}
	s := &server{address: servertest.FreeAddress(t)}
	config := filepath.Join(t.TempDir(), "consul.hcl")
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	port := func(address string) string {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	var err error
	s.admin, err = api.NewClient(&api.Config{Address: s.address, Token: rootToken})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(servertest.Binary(t, "consul"), "agent", "-dev", "-bind=127.0.0.1", "-log-level=warn",
		"-http-port="+port(s.address), "-server-port="+port(servertest.FreeAddress(t)),
		"-serf-lan-port="+port(servertest.FreeAddress(t)), "-serf-wan-port="+port(servertest.FreeAddress(t)),
		"-dns-port=-1", "-grpc-port=-1", "-config-file="+config)
	s.Process = servertest.Start(t, cmd, func(ctx context.Context) error {
		_, err := s.admin.KV().Put(&api.KVPair{Key: "ready"}, (&api.WriteOptions{}).WithContext(ctx))
		if err == nil {
			// Sessions need the server's own node in its catalog.
			_, _, err = s.admin.Session().CreateNoChecks(&api.SessionEntry{TTL: "60s"}, (&api.WriteOptions{}).WithContext(ctx))
		}
		return err
	})
	return s
}

// open gives a store that reaches the server through a network of its own.
func (s *server) open(t testing.TB) dcstest.Node {
	t.Helper()
	network := dcstest.NewNetwork(t, s.address)
	lost := new(atomic.Bool)
	opts := consul.Options{Address: network.Address(), Timeout: 3 * time.Second, MinTTL: time.Second}
	opts.LoseAnswers(lost)
	return dcstest.NewNode(open(t, opts), network, lost)
}

func open(t testing.TB, opts consul.Options) *consul.Store {
	t.Helper()
	store, err := consul.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func TestStore(t *testing.T) {
	s := start(t, `session_ttl_min = "1s"`)
	dcstest.Run(t, func(testing.TB) dcstest.Harness {
		return dcstest.Harness{
			Open: s.open,
			Put: func(t testing.TB, key, value string) {
				if _, err := s.admin.KV().Put(&api.KVPair{Key: key, Value: []byte(value)}, nil); err != nil {
					t.Fatal(err)
				}
			},
			Delete: func(t testing.TB, key string) {
				if _, err := s.admin.KV().Delete(key, nil); err != nil {
					t.Fatal(err)
				}
			},
			TTL:    4 * time.Second,
			Expiry: 6 * time.Second, // as long as the TTL again, and a bit for a busy machine
			Break:  15 * time.Second,
		}
	})
}

func TestTTLIsRoundedUpToWhatTheServerAllows(t *testing.T) {
	s := start(t, `session_ttl_min = "20s"`)
	store := open(t, consul.Options{Address: s.address})
	for ttl, want := range map[time.Duration]time.Duration{
		time.Second:                       20 * time.Second,
		20*time.Second + time.Millisecond: 21 * time.Second,
		30 * time.Second:                  30 * time.Second,
	} {
		lease, err := store.Acquire(t.Context(), fmt.Sprintf("service/batman/%s", ttl), "a", ttl)
		if err != nil {
			t.Fatal(err)
		}
		if lease.TTL() != want {
			t.Errorf("asked for %s, got %s, want %s", ttl, lease.TTL(), want)
		}
	}
	_, err := store.Acquire(t.Context(), "service/batman/long", "a", 48*time.Hour)
	if err == nil || !strings.Contains(err.Error(), "TTL") {
		t.Errorf("a TTL that is too long: error %v, want the server's reason", err)
	}
}

// A node whose agent is ill must not lose its lease before the TTL is over:
// Hold relies on it.
func TestSessionHasNoHealthChecks(t *testing.T) {
	s := start(t, "")
	store := open(t, consul.Options{Address: s.address})
	if _, err := store.Acquire(t.Context(), "service/batman/lock", "a", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	sessions, _, err := s.admin.Session().List(nil)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, session := range sessions {
		if session.Name != "service/batman/lock" {
			continue
		}
		found = true
		if len(session.Checks)+len(session.NodeChecks)+len(session.ServiceChecks) != 0 || session.Behavior != "delete" {
			t.Errorf("session %+v", session)
		}
	}
	if !found {
		t.Error("there is no session")
	}
}

func TestDenied(t *testing.T) {
	s := start(t, `acl { enabled = true, default_policy = "deny", tokens { initial_management = "`+rootToken+`" } }`)
	for _, key := range []string{"service/batman/leader", "service/batman/secret", "service/robin/leader"} {
		if _, err := s.admin.KV().Put(&api.KVPair{Key: key, Value: []byte("a")}, nil); err != nil {
			t.Fatal(err)
		}
	}
	tokenFor := func(rules string) dcs.Secret {
		t.Helper()
		policy, _, err := s.admin.ACL().PolicyCreate(&api.ACLPolicy{Name: fmt.Sprintf("p%d", time.Now().UnixNano()), Rules: rules}, nil)
		if err != nil {
			t.Fatal(err)
		}
		token, _, err := s.admin.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return dcs.Secret(token.SecretID)
	}
	all := tokenFor(`key_prefix "service/batman/" { policy = "write" } session_prefix "" { policy = "write" }`)
	part := tokenFor(`key_prefix "service/batman/" { policy = "write" } key "service/batman/secret" { policy = "deny" }`)
	store := func(token dcs.Secret) *consul.Store {
		return open(t, consul.Options{Address: s.address, Token: token})
	}

	t.Run("a token with every right", func(t *testing.T) {
		store := store(all)
		snap, err := store.Read(t.Context(), "service/batman")
		if err != nil || len(snap.Keys) != 2 {
			t.Errorf("read %v, error %v", snap.Keys, err)
		}
		lease, err := store.Acquire(t.Context(), "service/batman/lock", "a", 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := lease.Renew(t.Context()); err != nil {
			t.Error(err)
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("a cluster that the token may not read does not look empty", func(t *testing.T) {
		_, err := store(all).Read(t.Context(), "service/robin")
		dcstest.Denied(t, err)
		_, err = store(all).Read(t.Context(), "service/nobody")
		dcstest.Denied(t, err)
	})
	t.Run("a key that the token may not read does not look absent", func(t *testing.T) {
		_, err := store(part).Read(t.Context(), "service/batman")
		dcstest.Denied(t, err)
	})
	t.Run("what the token may not write", func(t *testing.T) {
		_, _, err := store(all).Create(t.Context(), "service/robin/x", "x")
		dcstest.Denied(t, err)
		dcstest.Denied(t, store(part).Replace(t.Context(), "service/batman/secret", "a", "b"))
		_, err = store(part).Acquire(t.Context(), "service/batman/lock", "a", 10*time.Second)
		dcstest.Denied(t, err)
		dcstest.Denied(t, store(all).Watch(t.Context(), "service/robin", 0, func() {}))
	})
	t.Run("an unknown token", func(t *testing.T) {
		const unknown = "00000000-1111-2222-3333-444444444444"
		_, err := store(unknown).Read(t.Context(), "service/batman")
		dcstest.Denied(t, err)
		if strings.Contains(fmt.Sprint(err), unknown) {
			t.Errorf("the error shows the token: %v", err)
		}
	})
	t.Run("no token", func(t *testing.T) {
		_, err := store("").Read(t.Context(), "service/batman")
		dcstest.Denied(t, err)
	})
}

func TestTLS(t *testing.T) {
	ca := dcstest.NewCA(t)
	cert, key := ca.Issue("server")
	address := servertest.FreeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	start(t, fmt.Sprintf(`
		ports { https = %s }
		cert_file = %q
		key_file = %q
		ca_file = %q
		verify_incoming_https = true`, port, cert, key, ca.File))
	files := dcs.TLSFiles{CA: ca.File}
	files.Cert, files.Key = ca.Issue("client")
	if _, err := open(t, consul.Options{Address: "https://" + address, TLS: files}).Read(t.Context(), "service/batman"); err != nil {
		t.Error(err)
	}
	files.CA = dcstest.NewCA(t).File
	_, err = open(t, consul.Options{Address: "https://" + address, TLS: files}).Read(t.Context(), "service/batman")
	if !errors.Is(err, dcs.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: error %v, want ErrUnavailable with the reason", err)
	}
	files.SkipVerify = true
	if _, err := open(t, consul.Options{Address: "https://" + address, TLS: files}).Read(t.Context(), "service/batman"); err != nil {
		t.Errorf("without verification: %v", err)
	}
}

func TestStoppedServer(t *testing.T) {
	s := start(t, "")
	dcstest.StoppedServer(t, open(t, consul.Options{Address: s.address, Timeout: dcstest.StoppedTimeout}), s.Process)
}

// What answers 404 to everything is no empty Consul.
func TestAnotherServersNotFound(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"not found": http.NotFound,
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusMovedPermanently)
		},
		"no leader": func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
		},
		"too many requests": func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "rate limited", http.StatusTooManyRequests)
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(handler)
			defer server.Close()
			store := open(t, consul.Options{Address: server.URL})
			unavailable := func(what string, err error) {
				t.Helper()
				if !errors.Is(err, dcs.ErrUnavailable) {
					t.Errorf("%s: error %v, want ErrUnavailable", what, err)
				}
			}
			_, err := store.Read(t.Context(), "service/batman")
			unavailable("read", err)
			_, _, err = store.Create(t.Context(), "service/batman/x", "x")
			unavailable("create", err)
			unavailable("replace", store.Replace(t.Context(), "service/batman/x", "x", "y"))
			_, err = store.Acquire(t.Context(), "service/batman/x", "x", time.Minute)
			unavailable("acquire", err)
			unavailable("watch", store.Watch(t.Context(), "service/batman", 1, func() {}))
		})
	}
}
