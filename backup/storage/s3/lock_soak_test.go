package s3_test

import (
	"errors"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/s3"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/servertest"
	"github.com/pgtender/pgtender/internal/soak"
)

// TestSoakObjectLock does everything in a bucket with object lock, each object
// locked, on MinIO: versitygw, which other tests use, keeps no versions.
func TestSoakObjectLock(t *testing.T) {
	soak.Skip(t)
	m := startMinIO(t)
	for _, mode := range []string{"GOVERNANCE", "COMPLIANCE"} {
		t.Run(mode, func(t *testing.T) {
			lock := s3.Lock{Mode: mode, For: time.Hour, Except: func(key string) bool { return key == "marker" }}
			locked := func() s3.Options {
				opts := m.options()
				opts.Lock = lock
				return opts
			}
			t.Run("the suite", func(t *testing.T) {
				storagetest.Run(t, func(t testing.TB) storage.Store {
					opts := locked()
					opts.PartSize = 0 // the default
					return open(t, opts)
				})
			})
			t.Run("what is stored stays", func(t *testing.T) { staysLocked(t, m.client, locked()) })
		})
	}
}

// staysLocked stores objects of one part and of several, and deletes them: who
// knows their versions still has them, until the lock's time and no earlier.
func staysLocked(t *testing.T, client *sdk.Client, opts s3.Options) {
	s := open(t, opts)
	for _, size := range []int{10, 11 << 20} {
		key := fmt.Sprintf("k%d", size)
		if err := storage.PutBytes(t.Context(), s, key, make([]byte, size), storage.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
		at := &sdk.HeadObjectInput{Bucket: aws.String(bucket), Key: aws.String(opts.Prefix + "/" + key)}
		head, err := client.HeadObject(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		left := time.Until(aws.ToTime(head.ObjectLockRetainUntilDate))
		if string(head.ObjectLockMode) != opts.Lock.Mode || left < 50*time.Minute || left > time.Hour {
			t.Errorf("%s: locked %q for %v more", key, head.ObjectLockMode, left)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("%s is hidden by no Delete: %v", key, err)
		}
		if _, err := s.Get(t.Context(), key, 0, -1); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s is deleted, and there: %v", key, err)
		}
		_, err = client.DeleteObject(t.Context(), &sdk.DeleteObjectInput{Bucket: at.Bucket, Key: at.Key, VersionId: head.VersionId})
		if err == nil {
			t.Errorf("%s: its version could be removed", key)
		}
		at.VersionId = head.VersionId
		if head, err := client.HeadObject(t.Context(), at); err != nil || aws.ToInt64(head.ContentLength) != int64(size) {
			t.Errorf("%s: its version is gone: %v", key, err)
		}
	}
	if err := storage.PutBytes(t.Context(), s, "marker", []byte("x"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	head, err := client.HeadObject(t.Context(), &sdk.HeadObjectInput{Bucket: aws.String(bucket), Key: aws.String(opts.Prefix + "/marker")})
	if err != nil || head.ObjectLockMode != "" {
		t.Errorf("what lives for minutes is locked %q, %v", head.ObjectLockMode, err)
	}
}

// minio is a running MinIO with a bucket that has object lock.
type minio struct {
	*server
	client *sdk.Client
	dir    string // of its objects
}

// startMinIO starts MinIO. env are further settings.
func startMinIO(t *testing.T, env ...string) *minio {
	t.Helper()
	binary, address := servertest.Binary(t, "minio"), servertest.FreeAddress(t)
	m := &minio{dir: t.TempDir()}
	cmd := exec.Command(binary, "server", "--quiet", "--address", address, m.dir)
	cmd.Env = append(env, "MINIO_ROOT_USER="+accessKey, "MINIO_ROOT_PASSWORD="+secretKey, "HOME="+t.TempDir(), "MINIO_BROWSER=off", "MINIO_UPDATE=off")
	endpoint := "http://" + address
	m.client = sdk.New(sdk.Options{
		BaseEndpoint: aws.String(endpoint), UsePathStyle: true, Region: "us-east-1",
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
	})
	m.server = &server{endpoint: endpoint, proc: servertest.Start(t, cmd, listens(address))}
	_, err := m.client.CreateBucket(t.Context(), &sdk.CreateBucketInput{Bucket: aws.String(bucket), ObjectLockEnabledForBucket: aws.Bool(true)})
	if owned := (*types.BucketAlreadyOwnedByYou)(nil); err != nil && !errors.As(err, &owned) {
		t.Fatal(err) // the client repeats a request whose answer was lost
	}
	return m
}
