// Package rest talks to Patroni's REST API (api.py): a member's own word about
// itself, the cluster as a member sees it, and the order to reinitialise.
//
// A member answers for itself at once, while its key in the DCS is as old as
// its last loop. Who is leader is still decided by the DCS.
package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/patroni"
)

// DefaultTimeout bounds one request where the caller's context does not.
const DefaultTimeout = 10 * time.Second

// maxBody bounds what is read of an answer.
const maxBody = 8 << 20

// Errors that callers tell apart. Any other error means that the member did
// not answer, or not like Patroni.
var (
	// ErrDenied: the member wants other credentials or a client certificate.
	ErrDenied = errors.New("Patroni's REST API denies access")
	// ErrNoConfig: the cluster has no dynamic configuration.
	ErrNoConfig = errors.New("the cluster has no dynamic configuration")
)

// RefusedError says that Patroni understood an order and does not carry it out.
type RefusedError struct {
	Status int
	Text   string // Patroni's reason, such as "I am the leader, can not reinitialize"
}

func (e *RefusedError) Error() string { return "Patroni refuses: " + e.Text }

// Client calls members' REST APIs. It is safe for concurrent use.
type Client struct {
	http *http.Client
	ctl  patroni.Ctl
}

// New makes a client with the credentials and certificates of the ctl section.
// timeout bounds one request; 0 means DefaultTimeout.
func New(ctl patroni.Ctl, timeout time.Duration) (*Client, error) {
	config, err := tlsConfig(ctl)
	if err != nil {
		return nil, fmt.Errorf("set up Patroni REST client: %w", err)
	}
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	return &Client{ctl: ctl, http: &http.Client{
		Timeout: timeout,
		// Like patronictl: straight to the member, whatever the environment
		// says of proxies.
		Transport: &http.Transport{TLSClientConfig: config, TLSHandshakeTimeout: timeout, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute},
		// A member never redirects, and must not send our password elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func tlsConfig(ctl patroni.Ctl) (*tls.Config, error) {
	if err := encryptedKey(ctl); err != nil {
		return nil, err
	}
	files := patroni.TLSFiles{CA: ctl.CACert, Cert: ctl.CertFile, Key: ctl.KeyFile, SkipVerify: ctl.Insecure}
	config, err := files.Config()
	if err != nil {
		return nil, err
	}
	if ctl.Insecure && ctl.CertFile != "" {
		// With a client certificate patronictl leaves out the host name alone
		// (request.py:PatroniRequest.reload_config).
		roots := config.RootCAs
		config.VerifyConnection = func(state tls.ConnectionState) error {
			opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
			for _, cert := range state.PeerCertificates[1:] {
				opts.Intermediates.AddCert(cert)
			}
			_, err := state.PeerCertificates[0].Verify(opts)
			return err
		}
	}
	return config, nil
}

// encryptedKey refuses a key that needs keyfile_password.
func encryptedKey(ctl patroni.Ctl) error {
	if ctl.CertFile == "" {
		return nil
	}
	file := ctl.KeyFile
	if file == "" {
		file = ctl.CertFile
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read client key: %w", err)
	}
	if bytes.Contains(data, []byte("ENCRYPTED")) {
		return finding.WithHint(fmt.Errorf("read client key: %s is encrypted", file),
			"give pgtender a copy of the key without a passphrase, readable by its user alone")
	}
	return nil
}

// endpoint replaces the path of a member's api_url.
func endpoint(apiURL, path string) (string, error) {
	u, err := url.Parse(apiURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("the member's api_url is no http or https URL")
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: path}).String(), nil
}

// call makes one request and gives the status and the body.
func (c *Client) call(ctx context.Context, method, apiURL, path string, body any) (int, []byte, error) {
	target, err := endpoint(apiURL, path)
	if err != nil {
		return 0, nil, err
	}
	var payload io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		payload = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, payload)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("User-Agent", "pgtender")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.ctl.Username != "" {
		req.SetBasicAuth(c.ctl.Username, c.ctl.Password.Reveal())
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("%s %s: %w", method, target, err)
	case len(data) > maxBody:
		return 0, nil, fmt.Errorf("%s %s: the answer is larger than 8 MiB", method, target)
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return 0, nil, finding.WithHint(fmt.Errorf("%s %s: %w: %s", method, target, ErrDenied, resp.Status),
			"the ctl section of patroni.yml, or restapi's, names user, password and certificate; restapi.allowlist may bar this host")
	}
	return resp.StatusCode, data, nil
}

// get makes a GET request whose answer must be JSON under one of the given
// statuses.
func (c *Client) get(ctx context.Context, apiURL, path string, ok ...int) ([]byte, error) {
	status, data, err := c.call(ctx, http.MethodGet, apiURL, path, nil)
	if err != nil {
		return nil, err
	}
	for _, want := range ok {
		if status == want {
			return data, nil
		}
	}
	return nil, fmt.Errorf("GET %s of %s: status %d: %s", path, apiURL, status, excerpt(data))
}

// excerpt makes an answer fit into a message.
func excerpt(data []byte) string {
	const most = 200
	text := strings.ToValidUTF8(strings.Join(strings.Fields(string(data)), " "), "?")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	if text == "" {
		return "no text"
	}
	return text
}

// Config gives the dynamic configuration (GET /config).
func (c *Client) Config(ctx context.Context, apiURL string) (patroni.Dynamic, error) {
	status, data, err := c.call(ctx, http.MethodGet, apiURL, "/config", nil)
	switch {
	case err != nil:
		return patroni.Dynamic{}, fmt.Errorf("read configuration over REST: %w", err)
	case status == http.StatusBadGateway:
		return patroni.Dynamic{}, ErrNoConfig
	case status != http.StatusOK:
		return patroni.Dynamic{}, fmt.Errorf("read configuration over REST: GET /config of %s: status %d: %s", apiURL, status, excerpt(data))
	}
	d, err := patroni.ParseDynamic(string(data))
	if err != nil {
		return patroni.Dynamic{}, fmt.Errorf("read configuration over REST: %w", err)
	}
	return d, nil
}

// History gives the timeline history (GET /history).
func (c *Client) History(ctx context.Context, apiURL string) (patroni.Timelines, error) {
	data, err := c.get(ctx, apiURL, "/history", http.StatusOK)
	if err != nil {
		return patroni.Timelines{}, fmt.Errorf("read history over REST: %w", err)
	}
	t, err := patroni.ParseTimelines(string(data))
	if err != nil {
		return patroni.Timelines{}, fmt.Errorf("read history over REST: %w", err)
	}
	return t, nil
}

// Reinitialize orders the member to rebuild its data directory (POST
// /reinitialize): it stops its PostgreSQL and runs create_replica_methods. The
// work goes on after this returns; [Client.Status] shows it. force cancels what
// the member is busy with first, which loses the data directory.
//
// A *RefusedError says why Patroni does not do it.
func (c *Client) Reinitialize(ctx context.Context, apiURL string, force bool) error {
	status, data, err := c.call(ctx, http.MethodPost, apiURL, "/reinitialize", map[string]bool{"force": force})
	switch {
	case err != nil:
		return fmt.Errorf("reinitialize over REST: %w", err)
	case status == http.StatusOK:
		return nil
	}
	return fmt.Errorf("reinitialize over REST: %w", &RefusedError{Status: status, Text: excerpt(data)})
}
