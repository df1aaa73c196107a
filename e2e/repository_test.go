package e2e_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pgtender/pgtender/dcs/dcstest"
	"github.com/pgtender/pgtender/internal/servertest"
)

// repository is where a site keeps its backups and WAL.
type repository struct {
	url     string
	dir     string // where its objects lie as files
	address string // of the S3 server, host:port; "" for a directory

	credentials string
}

// settings are further lines of pgtender.yml. link, unless it is nil, is the way
// to the S3 server: then an outage is not waited out.
func (r *repository) settings(link *dcstest.Network) string {
	if r.address == "" {
		return ""
	}
	address, more := r.address, ""
	if link != nil {
		address, more = link.Address(), "  retry_budget: 5s\n"
	}
	return fmt.Sprintf("s3:\n  endpoint: http://%s\n  region: us-east-1\n  credentials_file: %s\n%s", address, r.credentials, more)
}

func newRepository(t *testing.T, s *site, bucket bool) *repository {
	t.Helper()
	if bucket {
		return newBucket(t, s)
	}
	dir, err := s.Folder("repository")
	if err != nil {
		t.Fatal(err)
	}
	return &repository{url: "file://" + dir, dir: dir}
}

// The S3 server's account.
const (
	accessKey = "pgtender-e2e"
	secretKey = "not-a-secret"
)

// newBucket runs an S3 server over a folder of the test.
func newBucket(t *testing.T, s *site) *repository {
	t.Helper()
	folder := t.TempDir()
	const bucket, prefix = "backups", "e2e"
	if err := os.Mkdir(filepath.Join(folder, bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	address := servertest.FreeAddress(t)
	servertest.Start(t, exec.Command(servertest.Binary(t, "versitygw"),
		"--access", accessKey, "--secret", secretKey, "--port", address, "--quiet", "--keep-alive", "posix", folder),
		func(ctx context.Context) error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			if err == nil {
				conn.Close()
			}
			return err
		})
	credentials := filepath.Join(s.Dir, "s3-credentials")
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", accessKey, secretKey)
	if err := s.WriteFile(credentials, []byte(text)); err != nil {
		t.Fatal(err)
	}
	return &repository{
		url: "s3://" + bucket + "/" + prefix, dir: filepath.Join(folder, bucket, prefix),
		address: address, credentials: credentials,
	}
}
