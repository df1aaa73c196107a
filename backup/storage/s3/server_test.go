package s3_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/storage/s3"
	"github.com/pgtender/pgtender/internal/servertest"
)

// server is an S3 server of this test: versitygw over a folder.
type server struct {
	endpoint string
	proc     *servertest.Process
	folder   string // one folder per bucket
	stores   atomic.Int32
}

const (
	accessKey = "pgtender-test"
	secretKey = "not-a-secret"
	bucket    = "backups"
)

func startServer(t testing.TB) *server {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an S3 server")
	}
	binary := servertest.Binary(t, "versitygw")
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	address := servertest.FreeAddress(t)
	cmd := exec.Command(binary, "--access", accessKey, "--secret", secretKey, "--port", address, "--quiet", "--keep-alive", "posix", folder)
	proc := servertest.Start(t, cmd, listens(address))
	return &server{endpoint: "http://" + address, proc: proc, folder: folder}
}

// listens reports an error until a server accepts connections.
func listens(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			c.Close()
		}
		return err
	}
}

// options are those of a store with a prefix of its own and short waits.
func (s *server) options() s3.Options {
	return s3.Options{
		Bucket: bucket, Prefix: "test/" + strconv.Itoa(int(s.stores.Add(1))),
		Endpoint: s.endpoint, PathStyle: true, AccessKey: accessKey, SecretKey: secretKey,
		PartSize: 5 << 20, MaxBackoff: 50 * time.Millisecond, Budget: 30 * time.Second,
	}
}

func open(t testing.TB, opts s3.Options) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
