package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pgtender/pgtender/internal/servertest"
)

// remote is an S3 server at a distance: versitygw behind a proxy that lets every
// request wait before it passes it on, and counts it. The same is reached with
// TLS, without which pgBackRest speaks to no server.
type remote struct {
	plain, secure *httptest.Server
	folder        string // of versitygw
	credentials   string // file, for pgtender
	requests      atomic.Int64
}

const (
	remoteBucket = "bench"
	remoteKey    = "bench"
	remoteSecret = "not-a-secret"
	remoteRegion = "us-east-1"
)

// startRemote starts one over a new folder, which stop removes.
func (m *machine) startRemote(ctx context.Context, delay time.Duration) (r *remote, stop func(), err error) {
	binary, err := m.copyProgram(filepath.Join(servertest.CacheDir(), "bin", "versitygw"), "versitygw")
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w\nhint: run 'make servers'", errNotInstalled, err)
	}
	folder := m.path("s3")
	for _, dir := range []string{folder, filepath.Join(folder, remoteBucket)} {
		if err := m.mkdir(dir, 0o755); err != nil {
			return nil, nil, err
		}
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, nil, err
	}
	cmd := m.command(context.WithoutCancel(ctx), job{argv: []string{
		binary, "--access", remoteKey, "--secret", remoteSecret, "--port", address, "--quiet", "--keep-alive", "posix", folder,
	}})
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	end := func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait() // what it says in the end does not matter
		os.RemoveAll(folder)
	}
	r = &remote{folder: folder, credentials: m.path("s3-credentials")}
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", remoteKey, remoteSecret)
	if err = answers(ctx, address); err == nil {
		err = m.writeFile(r.credentials, text, 0o600)
	}
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("start versitygw: %w", err)
	}
	h := r.delayed(&url.URL{Scheme: "http", Host: address}, delay)
	r.plain, r.secure = httptest.NewServer(h), httptest.NewTLSServer(h)
	return r, func() { r.plain.Close(); r.secure.Close(); end() }, nil
}

// delayed passes requests on after a while, with the host name that they are
// signed for.
func (r *remote) delayed(to *url.URL, delay time.Duration) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to)
			p.Out.Host = p.In.Host
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.requests.Add(1)
		time.Sleep(delay) // this is what is measured
		proxy.ServeHTTP(w, q)
	})
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// answers waits until somebody listens.
func answers(ctx context.Context, address string) (err error) {
	for range 500 {
		var c net.Conn
		if c, err = new(net.Dialer).DialContext(ctx, "tcp", address); err == nil {
			return c.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// pgtender gives the part of pgtender's configuration that names a repository.
func (r *remote) pgtender(repository string) string {
	return fmt.Sprintf("repository: s3://%s/%s\ns3:\n  endpoint: %s\n  region: %s\n  credentials_file: %s\n", remoteBucket, repository, r.plain.URL, remoteRegion, r.credentials)
}

// stored is the folder with the objects under a prefix.
func (r *remote) stored(prefix string) string { return filepath.Join(r.folder, remoteBucket, prefix) }

// pgbackrest gives the same for pgBackRest.
func (r *remote) pgbackrest(repository string) string {
	host, port, _ := strings.Cut(strings.TrimPrefix(r.secure.URL, "https://"), ":")
	return fmt.Sprintf(`repo1-path=/%s
repo1-type=s3
repo1-s3-bucket=%s
repo1-s3-endpoint=%s
repo1-s3-region=%s
repo1-s3-key=%s
repo1-s3-key-secret=%s
repo1-s3-uri-style=path
repo1-storage-host=%s
repo1-storage-port=%s
repo1-storage-verify-tls=n
`, repository, remoteBucket, host, remoteRegion, remoteKey, remoteSecret, host, port)
}
