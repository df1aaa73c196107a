package s3_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/s3"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/soak"
)

// TestSoakEncryption has a server encrypt what is stored, with keys of a key
// management service and with its own: MinIO, which has a service of one key
// inside. versitygw, which other tests use, has none.
func TestSoakEncryption(t *testing.T) {
	soak.Skip(t)
	const key = "backups"
	m := startMinIO(t, "MINIO_KMS_SECRET_KEY="+key+":"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
	for _, c := range []struct {
		name, sse, key string
	}{
		{"a key that is named", "aws:kms", key},
		{"the service's default key", "aws:kms", ""},
		{"the server's own keys", "AES256", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			encrypted := func() s3.Options {
				opts := m.options()
				opts.Encryption, opts.KMSKeyID = c.sse, c.key
				return opts
			}
			t.Run("the suite", func(t *testing.T) {
				storagetest.Run(t, func(t testing.TB) storage.Store {
					opts := encrypted()
					opts.PartSize = 0 // the default
					return open(t, opts)
				})
			})
			t.Run("what is stored is encrypted", func(t *testing.T) { m.encrypts(t, encrypted()) })
		})
	}
	t.Run("what is not to be encrypted is not", func(t *testing.T) {
		opts := m.options()
		if err := storage.PutBytes(t.Context(), open(t, opts), "plain", m.secret(10), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		head := m.head(t, opts, "plain")
		if head.ServerSideEncryption != "" || !m.onDisk(t, opts, m.secret(10)) {
			t.Errorf("it is encrypted (%q), or the test does not look in the right place", head.ServerSideEncryption)
		}
	})
	t.Run("a key that the service does not have", func(t *testing.T) {
		opts := m.options()
		opts.Encryption, opts.KMSKeyID = "aws:kms", "another"
		if err := storage.PutBytes(t.Context(), open(t, opts), "k", []byte("x"), storage.PutOptions{}); err == nil {
			t.Errorf("stored with a key that there is not: %+v", m.head(t, opts, "k"))
		}
	})
}

// secret gives content that is found again where it is stored as it is.
func (m *minio) secret(size int) []byte {
	return append([]byte("not for everybody's eyes "), make([]byte, size)...)
}

// encrypts stores objects of one part and of several. The server says how each
// is encrypted, its disk does not hold it as it is, and it comes back as it was.
func (m *minio) encrypts(t *testing.T, opts s3.Options) {
	s := open(t, opts)
	for _, size := range []int{10, 11 << 20} {
		key, content := fmt.Sprintf("k%d", size), m.secret(size)
		if err := storage.PutBytes(t.Context(), s, key, content, storage.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
		head := m.head(t, opts, key)
		if string(head.ServerSideEncryption) != opts.Encryption {
			t.Errorf("%s is encrypted with %q, want %q", key, head.ServerSideEncryption, opts.Encryption)
		}
		if id := aws.ToString(head.SSEKMSKeyId); opts.KMSKeyID != "" && id != opts.KMSKeyID && id != "arn:aws:kms:"+opts.KMSKeyID {
			t.Errorf("%s is encrypted with key %q, want %q", key, id, opts.KMSKeyID)
		}
		if m.onDisk(t, opts, content) {
			t.Errorf("%s lies on the server's disk as it is", key)
		}
		got, err := storage.ReadAll(t.Context(), s, key, int64(len(content)))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s comes back as %d bytes, %v", key, len(got), err)
		}
	}
}

func (m *minio) head(t *testing.T, opts s3.Options, key string) *sdk.HeadObjectOutput {
	t.Helper()
	head, err := m.client.HeadObject(t.Context(), &sdk.HeadObjectInput{Bucket: aws.String(bucket), Key: aws.String(opts.Prefix + "/" + key)})
	if err != nil {
		t.Fatal(err)
	}
	return head
}

// onDisk reports whether a file of the server's holds the beginning of content
// for a store's prefix.
func (m *minio) onDisk(t *testing.T, opts s3.Options, content []byte) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(filepath.Join(m.dir, bucket, opts.Prefix), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		stored, err := os.ReadFile(path)
		found = found || bytes.Contains(stored, content[:20])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
