package dcs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TLSFiles names the PEM files for talking TLS to a DCS. The zero value
// verifies the server against the system's authorities and shows no
// certificate of our own.
type TLSFiles struct {
	CA         string // authorities the server's certificate is verified against, in place of the system's
	Cert       string // our certificate
	Key        string // its private key; may be in the file Cert too
	SkipVerify bool   // accept any server certificate
}

// Config reads the files. The client certificate is read again for each
// connection, so that a renewed one is used without a restart.
func (f TLSFiles) Config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: f.SkipVerify}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("read CA certificates: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CA certificates: %s holds none in PEM form", f.CA)
		}
	}
	if f.Cert == "" {
		if f.Key != "" {
			return nil, errors.New("a TLS key is given without its certificate")
		}
		return config, nil
	}
	key := f.Key
	if key == "" {
		key = f.Cert
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(f.Cert, key)
		if err != nil {
			return nil, fmt.Errorf("read client certificate %s: %w", f.Cert, err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return config, nil
}
