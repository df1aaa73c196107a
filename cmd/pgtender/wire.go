package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/backup/storage/limit"
	"github.com/pgtender/pgtender/backup/storage/s3"
	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/consul"
	"github.com/pgtender/pgtender/dcs/etcd"
	"github.com/pgtender/pgtender/internal/config"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/patroni"
)

// store opens the place that keeps the repository. With create an empty
// directory becomes a store.
func (n *node) store(ctx context.Context, create bool) (storage.Store, error) {
	if n.objects != nil {
		return n.objects, nil
	}
	if n.Repository == "" {
		return nil, usageError{finding.WithHint(n.unconfigured("no repository is configured"), "set repository in the configuration, or use --repository URL")}
	}
	place, err := config.ParseRepository(n.Repository)
	if err != nil {
		return nil, usagef("repository: %w", err)
	}
	switch place.Scheme {
	case "file":
		opts := file.Options{Dir: place.Path, Create: create}
		if n.File.GroupWritable {
			opts.DirMode, opts.FileMode = 0o770, 0o660
		}
		n.objects, err = openFile(ctx, opts)
	case "s3":
		n.objects, err = n.openS3(ctx, place)
	}
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", n.Repository, err)
	}
	return n.objects, nil
}

// openFile keeps a typed nil out of the interface.
func openFile(ctx context.Context, opts file.Options) (storage.Store, error) {
	s, err := file.Open(ctx, opts)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (n *node) openS3(ctx context.Context, place config.Repository) (storage.Store, error) {
	pathStyle := n.S3.Endpoint != ""
	if n.S3.PathStyle != nil {
		pathStyle = *n.S3.PathStyle
	}
	s, err := s3.Open(ctx, s3.Options{
		Bucket: place.Bucket, Prefix: place.Path,
		Endpoint: n.S3.Endpoint, Region: n.S3.Region, PathStyle: pathStyle,
		CAFile: n.S3.CAFile, Profile: n.S3.Profile,
		CredentialsFile: n.S3.CredentialsFile,
		StorageClass:    n.S3.StorageClass, Encryption: n.S3.SSE, KMSKeyID: n.S3.KMSKeyID,
		WebIdentity: s3.WebIdentity{TokenFile: n.S3.WebIdentityTokenFile, RoleARN: n.S3.RoleARN, Endpoint: n.S3.STSEndpoint},
		Lock:        s3.Lock{Mode: n.S3.ObjectLock, For: time.Duration(n.S3.ObjectLockFor), Except: shortLived},
		Budget:      time.Duration(n.S3.RetryBudget), Log: n.log,
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// shortLived says which objects are removed soon after they were made: a lock
// would keep thousands of them for nothing.
func shortLived(key string) bool {
	k, err := repo.ParseKey(key)
	return err == nil && slices.Contains([]repo.KeyKind{repo.KeyRunning, repo.KeyReader, repo.KeyPending, repo.KeyStream}, k.Kind)
}

// limited holds a store that a restore reads from to the configured rate.
func (n *node) limited(s storage.Store) storage.Store {
	if n.Restore.MaxRate <= 0 {
		return s
	}
	return limit.New(s, limit.Options{BytesPerSecond: int64(n.Restore.MaxRate)})
}

// errNoDCS means that the configuration names none.
var errNoDCS = errors.New("no DCS is configured")

// dcs opens the DCS that Patroni uses.
func (n *node) dcs(ctx context.Context) (dcs.Store, error) {
	if n.dcsStore != nil {
		return n.dcsStore, nil
	}
	d, err := n.dcsSettings()
	if err != nil {
		return nil, err
	}
	switch {
	case d.Etcd3 != nil:
		s, err := etcd.Open(ctx, etcd.Options{
			Endpoints: d.Etcd3.Endpoints, FixedEndpoints: d.Etcd3.UseProxies,
			Domain: d.Etcd3.SRV, Suffix: d.Etcd3.SRVSuffix,
			Username: d.Etcd3.Username, Password: d.Etcd3.Password, TLS: d.Etcd3.TLS, Log: n.log,
		})
		if err != nil {
			return nil, err
		}
		n.dcsStore = s
	case d.Consul != nil:
		s, err := consul.Open(consul.Options{
			Address: d.Consul.Address, Token: d.Consul.Token, Datacenter: d.Consul.Datacenter, TLS: d.Consul.TLS,
		})
		if err != nil {
			return nil, err
		}
		n.dcsStore = s
	}
	return n.dcsStore, nil
}

// dcsSettings gives the DCS of our own section, else of patroni.yml.
func (n *node) dcsSettings() (patroni.DCS, error) {
	if n.DCS.Type == "" {
		p, ok, err := n.patroni()
		switch {
		case err != nil:
			return patroni.DCS{}, err
		case !ok:
			return patroni.DCS{}, errNoDCS
		}
		d, err := p.DCS()
		if err != nil {
			return patroni.DCS{}, usageError{err}
		}
		return d, nil
	}
	protocol := n.DCS.Protocol
	if protocol == "" {
		protocol = "http"
	}
	var urls []string
	for _, host := range n.DCS.Hosts {
		if !strings.Contains(host, "://") {
			host = protocol + "://" + host
		}
		urls = append(urls, host)
	}
	tls := dcs.TLSFiles{CA: n.DCS.CACert, Cert: n.DCS.Cert, Key: n.DCS.Key}
	if n.DCS.Type == "consul" {
		token, err := secret(n.DCS.TokenFile)
		return patroni.DCS{Kind: "consul", Consul: &patroni.Consul{Address: urls[0], Token: token, TLS: tls}}, err
	}
	password, err := secret(n.DCS.PasswordFile)
	return patroni.DCS{Kind: "etcd3", Etcd3: &patroni.Etcd3{Endpoints: urls, Username: n.DCS.Username, Password: password, TLS: tls}}, err
}

// secret reads a file that holds nothing but a secret.
func secret(path string) (dcs.Secret, error) {
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", usageError{err}
		}
		return "", fmt.Errorf("read secret: %w", err)
	}
	return dcs.Secret(bytes.TrimSpace(b)), nil
}
