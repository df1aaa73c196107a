package etcd_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/dcstest"
	"github.com/pgtender/pgtender/dcs/etcd"
	"github.com/pgtender/pgtender/internal/servertest"
)

// server is an etcd of one member.
type server struct {
	*servertest.Process
	address string          // host:port
	client  clientv3.Config // how its administrator connects
	options etcd.Options    // how the store connects, but for Endpoints
	scheme  string          // http or https
}

// start runs etcd. With a CA it speaks TLS and wants client certificates.
func start(t testing.TB, ca *dcstest.CA) *server {
	t.Helper()
	s := &server{address: servertest.FreeAddress(t), scheme: "http"}
	args := []string{"--name=test", "--bcrypt-cost=4"} // the least: each stream authenticates
	config := &tls.Config{}
	if ca != nil {
		s.scheme = "https"
		cert, key := ca.Issue("server")
		args = append(args, "--cert-file="+cert, "--key-file="+key, "--trusted-ca-file="+ca.File, "--client-cert-auth")
		clientCert, clientKey := ca.Issue("client")
		s.options.TLS = dcs.TLSFiles{CA: ca.File, Cert: clientCert, Key: clientKey}
		var err error
		if config, err = s.options.TLS.Config(); err != nil {
			t.Fatal(err)
		}
	}
	url, peer := s.scheme+"://"+s.address, "http://"+servertest.FreeAddress(t)
	s.run(t, config, append(args, "--listen-client-urls="+url, "--advertise-client-urls="+url,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=test="+peer))
	s.client = clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop(), DialTimeout: 10 * time.Second}
	if ca != nil {
		s.client.TLS = config
	}
	return s
}

// run starts the process and waits until it serves and has a leader.
func (s *server) run(t testing.TB, config *tls.Config, args []string) {
	t.Helper()
	s.launch(t, args, func(ctx context.Context) error { return s.healthy(ctx, config) })
}

func (s *server) launch(t testing.TB, args []string, ready func(context.Context) error) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an etcd server")
	}
	args = append(args, "--data-dir="+t.TempDir(), "--log-level=warn")
	s.Process = servertest.Start(t, exec.Command(servertest.Binary(t, "etcd"), args...), ready)
}

func (s *server) healthy(ctx context.Context, config *tls.Config) error {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.scheme+"://"+s.address+"/health", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// admin gives a client that goes around the store.
func (s *server) admin(t testing.TB) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(s.client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// open gives a store that reaches the server through a network of its own.
func (s *server) open(t testing.TB) dcstest.Node {
	t.Helper()
	network := dcstest.NewNetwork(t, s.address)
	opts := s.options
	opts.Endpoints, opts.FixedEndpoints = []string{s.scheme + "://" + network.Address()}, true
	opts.Timeout = 3 * time.Second
	lost := new(atomic.Bool)
	opts.LoseAnswers(lost)
	return dcstest.NewNode(open(t, opts), network, lost)
}

func open(t testing.TB, opts etcd.Options) *etcd.Store {
	t.Helper()
	store, err := etcd.Open(t.Context(), opts)
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

func (s *server) harness(t testing.TB) func(testing.TB) dcstest.Harness {
	admin := s.admin(t)
	return func(testing.TB) dcstest.Harness {
		return dcstest.Harness{
			Open: s.open,
			Put: func(t testing.TB, key, value string) {
				if _, err := admin.Put(t.Context(), "/"+key, value); err != nil {
					t.Fatal(err)
				}
			},
			Delete: func(t testing.TB, key string) {
				if _, err := admin.Delete(t.Context(), "/"+key); err != nil {
					t.Fatal(err)
				}
			},
			TTL:    5 * time.Second,
			Expiry: 3 * time.Second, // etcd looks for expired leases twice a second
			Break:  15 * time.Second,
		}
	}
}

func TestStore(t *testing.T) {
	dcstest.Run(t, start(t, nil).harness(t))
}

func TestStoreWithTLSAndPassword(t *testing.T) {
	s := start(t, dcstest.NewCA(t))
	s.enableAuth(t)
	dcstest.Run(t, s.harness(t))
}

const (
	rootPassword = "a root's password"
	ourPassword  = "pgtender's password"
)

// enableAuth makes a user for the store that may use service/ alone.
func (s *server) enableAuth(t testing.TB) {
	t.Helper()
	admin, ctx := s.admin(t), t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(admin.RoleAdd(ctx, "root"))
	must(admin.UserAdd(ctx, "root", rootPassword))
	must(admin.UserGrantRole(ctx, "root", "root"))
	must(admin.RoleAdd(ctx, "pgtender"))
	must(admin.RoleGrantPermission(ctx, "pgtender", "/service/", clientv3.GetPrefixRangeEnd("/service/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	must(admin.UserAdd(ctx, "pgtender", ourPassword))
	must(admin.UserGrantRole(ctx, "pgtender", "pgtender"))
	must(admin.AuthEnable(ctx))
	s.client.Username, s.client.Password = "root", rootPassword
	s.options.Username, s.options.Password = "pgtender", ourPassword
}

func TestDenied(t *testing.T) {
	s := start(t, nil)
	s.enableAuth(t)
	s.admin(t).Put(t.Context(), "/service/batman/leader", "a")
	opts := s.options
	opts.Endpoints, opts.Timeout = []string{s.address}, 5*time.Second

	t.Run("a key outside the user's rights", func(t *testing.T) {
		store := open(t, opts)
		if _, err := store.Read(t.Context(), "service/batman"); err != nil {
			t.Fatal(err)
		}
		_, err := store.Read(t.Context(), "other/batman")
		dcstest.Denied(t, err)
		_, _, err = store.Create(t.Context(), "other/batman/x", "x")
		dcstest.Denied(t, err)
		_, err = store.Acquire(t.Context(), "other/batman/x", "x", time.Minute)
		dcstest.Denied(t, err)
		dcstest.Denied(t, store.Watch(t.Context(), "other/batman", 0, func() {}))
	})
	t.Run("a wrong password", func(t *testing.T) {
		opts := opts
		opts.Password = "wrong"
		_, err := etcd.Open(t.Context(), opts)
		dcstest.Denied(t, err)
		if err != nil && strings.Contains(err.Error(), "wrong") {
			t.Errorf("the error shows the password: %v", err)
		}
	})
	t.Run("no password", func(t *testing.T) {
		opts := opts
		opts.Username, opts.Password = "", ""
		_, err := open(t, opts).Read(t.Context(), "service/batman")
		dcstest.Denied(t, err)
	})
}

func TestUnknownAuthority(t *testing.T) {
	s := start(t, dcstest.NewCA(t))
	opts := s.options
	opts.Endpoints, opts.Timeout = []string{"https://" + s.address}, 5*time.Second
	opts.TLS.CA = dcstest.NewCA(t).File
	_, err := open(t, opts).Read(t.Context(), "service/batman")
	if !errors.Is(err, dcs.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("error %v, want ErrUnavailable with the reason", err)
	}
}

func TestStoppedServer(t *testing.T) {
	s := start(t, nil)
	dcstest.StoppedServer(t, open(t, etcd.Options{Endpoints: []string{s.address}, Timeout: dcstest.StoppedTimeout}), s.Process)
}

func TestUnreachableServerIsNamedWithTheReason(t *testing.T) {
	address := servertest.FreeAddress(t)
	store := open(t, etcd.Options{Endpoints: []string{address}, Timeout: 2 * time.Second})
	_, err := store.Read(t.Context(), "service/batman")
	if !errors.Is(err, dcs.ErrUnavailable) || !strings.Contains(err.Error(), address+": connect: connection refused") {
		t.Errorf("error %v, want ErrUnavailable with address and reason", err)
	}
	_, err = etcd.Open(t.Context(), etcd.Options{
		Endpoints: []string{address}, Username: "pgtender", Password: ourPassword, Timeout: 2 * time.Second,
	})
	if !errors.Is(err, dcs.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("error %v, want ErrUnavailable with the reason", err)
	}
}

// Where endpoints name two clusters, a key of one is absent in the other.
func TestEndpointsOfTwoClusters(t *testing.T) {
	one, two := start(t, nil), start(t, nil)
	for _, s := range []*server{one, two} {
		if _, err := s.admin(t).Put(t.Context(), "/service/batman/leader", s.address); err != nil {
			t.Fatal(err)
		}
	}
	store := open(t, etcd.Options{Endpoints: []string{one.address, two.address}, FixedEndpoints: true})
	seen := make(map[string]bool)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		snap, err := store.Read(t.Context(), "service/batman")
		if err != nil {
			if !errors.Is(err, dcs.ErrUnavailable) || !strings.Contains(err.Error(), "two clusters") {
				t.Errorf("error %v, want ErrUnavailable about two clusters", err)
			}
			return
		}
		if seen[snap.Keys["service/batman/leader"].Data] = true; len(seen) > 1 {
			t.Fatal("answers of two clusters were taken for one's")
		}
	}
	t.Error("the second cluster was never asked")
}

// A member whose address is not configured takes over.
func TestMembersAreLearnt(t *testing.T) {
	s := start(t, nil)
	network := dcstest.NewNetwork(t, s.address)
	store := open(t, etcd.Options{Endpoints: []string{network.Address()}, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if _, err := store.Read(t.Context(), "service/batman"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); len(store.Endpoints()) != 2; {
		if time.Now().After(deadline) {
			t.Fatalf("endpoints %q, want the member's own beside the configured one", store.Endpoints())
		}
		time.Sleep(10 * time.Millisecond)
	}
	network.Cut()
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, err := store.Read(t.Context(), "service/batman")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
