package rest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/patroni"
	"github.com/pgtender/pgtender/patroni/rest"
)

// member is a REST server that answers each path with a status and a body.
func member(t *testing.T, answers map[string]string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.Method+" "+r.URL.Path]
		if !ok {
			t.Errorf("unexpected request %s %s", r.Method, r.URL.Path)
		}
		status, body, _ := strings.Cut(answer, " ")
		code := map[string]int{"200": 200, "301": 301, "401": 401, "403": 403, "500": 500, "502": 502, "503": 503}[status]
		if code == 301 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(code)
		io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/patroni"
}

func client(t *testing.T, ctl patroni.Ctl) *rest.Client {
	t.Helper()
	c, err := rest.New(ctl, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

const (
	replica41 = `{"state":"running","postmaster_start_time":"2026-07-30 08:00:01.12+00:00","role":"replica","server_version":160009,
 "xlog":{"received_location":83886744,"replayed_location":83886000,"replayed_timestamp":"2026-07-30 09:00:00+00:00","paused":true},
 "sync_standby":true,"timeline":7,"replication_state":"streaming","replication":[{"usename":"replicator"}],
 "pause":true,"cluster_unlocked":true,"tags":{"clonefrom":true},"database_system_identifier":"7301234567890123456",
 "pending_restart":true,"patroni":{"version":"4.1.4","scope":"batman","name":"pg2"}}`
	primary302 = `{"state":"running","role":"master","server_version":150012,"xlog":{"location":83886744},"timeline":3,
 "database_system_identifier":"7301234567890123456","patroni":{"version":"3.0.2","scope":"batman"}}`
	creating = `{"state":"creating replica","role":"uninitialized","dcs_last_seen":1785400000,"patroni":{"version":"4.1.4","scope":"batman","name":"pg3"}}`
)

func TestAMembersStatusIsRead(t *testing.T) {
	tests := []struct {
		name, answer string
		want         rest.Status
	}{
		{"a replica of 4.1", "200 " + replica41, rest.Status{
			Scope: "batman", Name: "pg2", Version: "4.1.4", State: patroni.StateRunning, RawState: "running",
			Role: patroni.RoleReplica, SystemID: 7301234567890123456, ServerVersion: 160009, Timeline: 7,
			Received: 83886744, Replayed: 83886000, ReplayPaused: true, Replication: patroni.Streaming,
			SyncStandby: true, PendingRestart: true, ClusterPaused: true, ClusterUnlocked: true}},
		{"a primary of 3.0.2", "200 " + primary302, rest.Status{
			Scope: "batman", Version: "3.0.2", State: patroni.StateRunning, RawState: "running", Role: patroni.RolePrimary,
			SystemID: 7301234567890123456, ServerVersion: 150012, Timeline: 3, Location: 83886744}},
		{"a member without PostgreSQL", "503 " + creating, rest.Status{
			Scope: "batman", Name: "pg3", Version: "4.1.4", State: patroni.StateCreatingReplica, RawState: "creating replica", Role: patroni.RoleUninitialized}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := client(t, patroni.Ctl{}).Status(t.Context(), member(t, map[string]string{"GET /patroni": tt.answer}))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheClusterIsReadInBothShapes(t *testing.T) {
	const v41 = `200 {"members":[
 {"name":"pg1","role":"leader","state":"running","api_url":"https://10.0.0.11:8008/patroni","host":"10.0.0.11","port":5432,"timeline":7},
 {"name":"pg2","role":"sync_standby","state":"streaming","api_url":"u","host":"10.0.0.12","port":5432,"timeline":7,"tags":{"clonefrom":true},
  "receive_lag":0,"receive_lsn":"0/5000158","replay_lag":0,"replay_lsn":"0/5000158","lag":0,"lsn":"0/5000158"},
 {"name":"pg3","role":"replica","state":"creating replica","api_url":"u","host":"10.0.0.13","port":5432,"lag":"unknown","lsn":"unknown"}],
 "pause":true,"scope":"batman"}`
	const v302 = `200 {"members":[
 {"name":"pg1","role":"standby_leader","state":"running","api_url":"u","host":"h","port":5432,"timeline":3},
 {"name":"pg2","role":"replica","state":"running","api_url":"u","host":"h","port":5433,"timeline":3,"lag":1234}]}`
	c := client(t, patroni.Ctl{})
	got, err := c.Cluster(t.Context(), member(t, map[string]string{"GET /cluster": v41}))
	if err != nil {
		t.Fatal(err)
	}
	want := rest.Cluster{Scope: "batman", Paused: true, Members: []rest.ClusterMember{
		{Name: "pg1", Role: "leader", State: patroni.StateRunning, RawState: "running", APIURL: "https://10.0.0.11:8008/patroni", Host: "10.0.0.11", Port: 5432, Timeline: 7, Tags: patroni.Tags{}},
		{Name: "pg2", Role: "sync_standby", State: patroni.StateRunning, RawState: "streaming", APIURL: "u", Host: "10.0.0.12", Port: 5432, Timeline: 7, Tags: patroni.Tags{"clonefrom": "true"}, LagKnown: true},
		{Name: "pg3", Role: "replica", State: patroni.StateCreatingReplica, RawState: "creating replica", APIURL: "u", Host: "10.0.0.13", Port: 5432, Tags: patroni.Tags{}},
	}}
	if diff := cmp.Diff(want, got); diff != "" || got.Leader() != "pg1" {
		t.Error(got.Leader(), diff)
	}
	got, err = c.Cluster(t.Context(), member(t, map[string]string{"GET /cluster": v302}))
	if err != nil || got.Leader() != "pg1" || got.Members[1].Lag != 1234 || !got.Members[1].LagKnown || got.Members[1].Port != 5433 {
		t.Errorf("%+v, %v", got, err)
	}
	if (rest.Cluster{}).Leader() != "" {
		t.Error("nobody leads")
	}
}

func TestHistoryAndConfigurationAreRead(t *testing.T) {
	url := member(t, map[string]string{
		"GET /history": `200 [[1,25165824,"no recovery target specified","2026-05-01T10:00:00+00:00","pg1"]]`,
		"GET /config":  `200 {"ttl":20,"synchronous_mode":"quorum"}`,
	})
	c := client(t, patroni.Ctl{})
	h, err := c.History(t.Context(), url)
	if err != nil || h.Timeline() != 2 || h.LeaderOf(2) != "pg1" {
		t.Errorf("%+v, %v", h, err)
	}
	d, err := c.Config(t.Context(), url)
	if err != nil || !d.Known || d.TTL != 20*time.Second || d.SynchronousMode != patroni.SyncQuorum {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := c.Config(t.Context(), member(t, map[string]string{"GET /config": "502 "})); !errors.Is(err, rest.ErrNoConfig) {
		t.Errorf("error %v", err)
	}
}

func TestReinitializeTellsAcceptedFromRefused(t *testing.T) {
	c := client(t, patroni.Ctl{})
	if err := c.Reinitialize(t.Context(), member(t, map[string]string{"POST /reinitialize": "200 reinitialize started"}), false); err != nil {
		t.Error(err)
	}
	err := c.Reinitialize(t.Context(), member(t, map[string]string{"POST /reinitialize": "503 I am the leader, can not reinitialize"}), true)
	var refused *rest.RefusedError
	if !errors.As(err, &refused) || refused.Status != 503 || refused.Text != "I am the leader, can not reinitialize" {
		t.Errorf("error %v", err)
	}
	if got := err.Error(); got != "reinitialize over REST: Patroni refuses: I am the leader, can not reinitialize" {
		t.Error(got)
	}
}

func TestReinitializeSendsCredentialsAndForce(t *testing.T) {
	var user, password, body, kind string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ = r.BasicAuth()
		kind = r.Header.Get("Content-Type")
		data, _ := io.ReadAll(r.Body)
		body = string(data)
	}))
	defer server.Close()
	if err := client(t, patroni.Ctl{Username: "u", Password: "geheim"}).Reinitialize(t.Context(), server.URL, true); err != nil {
		t.Fatal(err)
	}
	if user != "u" || password != "geheim" || body != `{"force":true}` || kind != "application/json" {
		t.Errorf("user %q, password %q, body %q, %q", user, password, body, kind)
	}
}

func TestAnswersThatAreNotPatronisAreErrors(t *testing.T) {
	tests := []struct {
		name, path, answer, want string
		call                     func(context.Context, *rest.Client, string) error
	}{
		{"denied", "GET /patroni", "401 no", "Patroni's REST API denies access: 401 Unauthorized", status},
		{"forbidden", "GET /cluster", "403 Access is denied", "denies access: 403 Forbidden", cluster},
		{"a redirect is not followed", "GET /cluster", "301 ", "status 301: no text", cluster},
		{"an error", "GET /cluster", "500 " + strings.Repeat("x", 500), "status 500: xxx", cluster},
		{"no JSON", "GET /patroni", "200 <html>", "invalid character '<'", status},
		{"JSON of somebody else", "GET /patroni", "200 {}", "it has no state", status},
		{"a system identifier that is none", "GET /patroni", `200 {"state":"running","database_system_identifier":"x"}`, `parse system identifier "x"`, status},
		{"a cluster without members", "GET /cluster", "200 {}", "it has no members", cluster},
		{"a member without a name", "GET /cluster", `200 {"members":[{}]}`, "member 1 has no name", cluster},
		{"a history that is none", "GET /history", "200 {}", "the timeline history is ignored: it is no list", history},
		{"a configuration that is none", "GET /config", "200 []", "it is no JSON object", configuration},
		{"a configuration behind an error", "GET /config", "500 x", "status 500: x", configuration},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.call(t.Context(), client(t, patroni.Ctl{}), member(t, map[string]string{tt.path: tt.answer}))
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 500 {
				t.Errorf("error %v, want one about %q", err, tt.want)
			}
			if denied := strings.HasPrefix(tt.answer, "40"); errors.Is(err, rest.ErrDenied) != denied || denied && finding.Hint(err) == "" {
				t.Errorf("denied: %v, hint %q", err, finding.Hint(err))
			}
		})
	}
	for _, url := range []string{"", "h:8008", "ftp://h", "http://"} {
		if err := status(t.Context(), client(t, patroni.Ctl{}), url); err == nil || !strings.Contains(err.Error(), "no http or https URL") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func status(ctx context.Context, c *rest.Client, url string) error {
	_, err := c.Status(ctx, url)
	return err
}

func cluster(ctx context.Context, c *rest.Client, url string) error {
	_, err := c.Cluster(ctx, url)
	return err
}

func history(ctx context.Context, c *rest.Client, url string) error {
	_, err := c.History(ctx, url)
	return err
}

func configuration(ctx context.Context, c *rest.Client, url string) error {
	_, err := c.Config(ctx, url)
	return err
}

func TestAMemberThatHangsIsLeftAfterTheTimeout(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	c, err := rest.New(patroni.Ctl{}, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := status(t.Context(), c, server.URL); err == nil || !strings.Contains(err.Error(), "Client.Timeout") {
		t.Errorf("error %v", err)
	}
}

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t), cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.file = writePEM(t, "CERTIFICATE", der)
	return a
}

// sign makes a certificate for a host name that nobody asks for, and for ips.
func (a *authority) sign(ips ...net.IP) (certFile, keyFile string, pair tls.Certificate) {
	a.t.Helper()
	key := newKey(a.t)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"elsewhere"}, IPAddresses: ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return writePEM(a.t, "CERTIFICATE", der), writePEM(a.t, "EC PRIVATE KEY", keyDER),
		tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t *testing.T, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTLSIsVerifiedAsPatronictlVerifiesIt(t *testing.T) {
	a := newAuthority(t)
	caFile := a.file
	certFile, keyFile, pair := a.sign()
	_, _, addressed := a.sign(net.IPv4(127, 0, 0, 1))
	otherCA := newAuthority(t).file
	pool := x509.NewCertPool()
	data, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(data)
	start := func(pair tls.Certificate, auth tls.ClientAuthType) string {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, creating)
		}))
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: auth, ClientCAs: pool}
		server.StartTLS()
		t.Cleanup(server.Close)
		return server.URL
	}
	open, closed := start(pair, tls.NoClientCert), start(pair, tls.RequireAndVerifyClientCert)
	byAddress := start(addressed, tls.NoClientCert)
	tests := []struct {
		name, url string
		ctl       patroni.Ctl
		want      string
	}{
		{"insecure with a certificate still wants the authority", open, patroni.Ctl{CACert: otherCA, CertFile: certFile, KeyFile: keyFile, Insecure: true}, "unknown authority"},
		{"a server of another name", open, patroni.Ctl{CACert: caFile}, "doesn't contain any IP SANs"},
		{"a server with its address in the certificate", byAddress, patroni.Ctl{CACert: caFile}, ""},
		{"an unknown authority", byAddress, patroni.Ctl{CACert: otherCA}, "unknown authority"},
		{"insecure", open, patroni.Ctl{Insecure: true}, ""},
		{"insecure with a certificate leaves out the host name", closed, patroni.Ctl{Insecure: true, CACert: caFile, CertFile: certFile, KeyFile: keyFile}, ""},
		{"verify_client without a certificate", closed, patroni.Ctl{Insecure: true}, "certificate required"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := status(t.Context(), client(t, tt.ctl), tt.url)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one about %q", err, tt.want)
			}
		})
	}
}

func TestCertificatesThatCannotBeUsedAreNamed(t *testing.T) {
	certFile, _, _ := newAuthority(t).sign()
	encrypted := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(encrypted, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := rest.New(patroni.Ctl{CertFile: certFile, KeyFile: encrypted}, 0)
	if err == nil || !strings.Contains(err.Error(), "is encrypted") || finding.Hint(err) == "" {
		t.Errorf("error %v", err)
	}
	if _, err := rest.New(patroni.Ctl{CertFile: certFile, KeyFile: "/nowhere"}, 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if _, err := rest.New(patroni.Ctl{CACert: "/nowhere"}, 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(replica41))
	f.Add([]byte(primary302))
	f.Add([]byte(creating))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := rest.ParseStatus(data)
		if err == nil && s.RawState == "" {
			t.Error("a status without a state")
		}
	})
}

func FuzzParseCluster(f *testing.F) {
	f.Add([]byte(`{"members":[{"name":"pg1","role":"leader","lag":"unknown","port":5432,"tags":{"a":1}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := rest.ParseCluster(data)
		if err != nil {
			return
		}
		for _, m := range c.Members {
			if m.Lag < 0 || m.Name == "" {
				t.Errorf("%+v", m)
			}
		}
	})
}
