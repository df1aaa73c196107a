// Package s3 keeps objects in a bucket of Amazon S3 or of a server that speaks
// its protocol.
//
// A Put of more than one part (8 MiB) is a multipart upload, at most eight
// parts at a time, each a section of the source: no part is copied in memory.
// It becomes visible with its completion alone; a failed one is aborted, and
// what a killed process left is removed by [Store.Sweep].
//
// IfAbsent is a conditional create, If-None-Match: *, on the Put or on the
// completion. Servers that ignore it exist; [Store.ConditionalPut] finds out
// by trying, and [Options].LookFirst is for them. Each Put stores a random
// token as metadata, by which a Put whose answer was lost is recognised after
// its retry: it succeeds instead of claiming that the object existed already.
//
// Only the code NoSuchKey means that an object is not there. A missing bucket,
// a refusal, a 404 page of some proxy and a missing file below the credential
// chain never do.
//
// Retries happen here, request by request, within the budget of [Options]; a
// reader whose connection breaks goes on at the offset reached, and only if
// the object is still the same (ETag).
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"

	"github.com/pgtender/pgtender/backup/storage"
)

// Options say where the bucket is and how it is spoken to.
type Options struct {
	Bucket string
	Prefix string // of all keys, a path without slashes at its ends; "" for none

	Endpoint  string // URL of a server other than Amazon's, as https://minio.example:9000
	Region    string // "": AWS_REGION, the profile or, with Endpoint, us-east-1
	PathStyle bool   // bucket in the path, not in the host name; most servers other than Amazon's want it
	CAFile    string // PEM file with further certificate authorities

	// Credentials: AccessKey with SecretKey; or CredentialsFile (in the format
	// of ~/.aws/credentials) and Profile; or, all empty, the usual chain:
	// environment, ~/.aws, web identity, container and instance roles.
	AccessKey       string
	SecretKey       Secret
	CredentialsFile string
	Profile         string

	// WebIdentity comes before all of them.
	WebIdentity WebIdentity

	StorageClass string // such as STANDARD_IA; "": the bucket's default
	Encryption   string // server-side: AES256 or aws:kms; "": the bucket's default
	KMSKeyID     string // for aws:kms; "": the account's default key
	Lock         Lock

	// LookFirst is for servers without conditional create: IfAbsent looks
	// whether the object is there and stores then, which is not atomic.
	LookFirst bool

	PartSize   int64         // bytes; 0: 8 MiB, at least 5 MiB
	Parts      int           // of one Put under way at once; 0: 8
	Attempts   int           // of each request; 0: 8
	MaxBackoff time.Duration // longest wait between attempts; 0: 10 s
	Budget     time.Duration // no attempt of a request begins later than this after the first; 0: 2 min
	Stall      time.Duration // a connection that moves no byte for so long is given up; 0: 1 min

	// Log hears of each repetition at level warning; nil: nobody does.
	Log *slog.Logger
}

// Secret is a string that does not show itself.
type Secret string

// String hides the secret.
func (Secret) String() string { return "xxxxx" }

// GoString hides the secret.
func (Secret) GoString() string { return "xxxxx" }

// LogValue hides the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue("xxxxx") }

const (
	minPart  = 5 << 20 // of every part but the last, set by S3
	maxParts = 10_000  // of one upload, set by S3
)

func (o *Options) check() error {
	o.Prefix = strings.Trim(o.Prefix, "/")
	switch {
	case o.Bucket == "":
		return fmt.Errorf("no bucket")
	case len(o.Prefix) > 500: // with a key of 512 below S3's limit of 1024
		return fmt.Errorf("prefix of %d bytes: at most 500", len(o.Prefix))
	case o.Prefix != "" && storage.ValidKey(o.Prefix) != nil:
		return fmt.Errorf("prefix: %v", storage.ValidKey(o.Prefix))
	case (o.AccessKey == "") != (o.SecretKey == ""):
		return fmt.Errorf("access key and secret key belong together")
	case o.PartSize != 0 && o.PartSize < minPart:
		return fmt.Errorf("part size %d: at least %d", o.PartSize, minPart)
	}
	if err := errors.Join(o.WebIdentity.check(), o.Lock.check()); err != nil {
		return err
	}
	setDefault(&o.PartSize, 8<<20)
	setDefault(&o.Parts, 8)
	setDefault(&o.Attempts, 8)
	setDefault(&o.MaxBackoff, 10*time.Second)
	setDefault(&o.Budget, 2*time.Minute)
	setDefault(&o.Stall, time.Minute)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

func setDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Store is a storage.Store in a bucket.
type Store struct {
	opts   Options
	client *awss3.Client
	prefix string // "" or ending in a slash
}

var (
	_ storage.Store       = (*Store)(nil)
	_ storage.Conditional = (*Store)(nil)
	_ storage.Sweeper     = (*Store)(nil)
)

// Open prepares a client. It makes no request to the bucket, so a wrong bucket
// or wrong credentials show with the first call.
func Open(ctx context.Context, opts Options) (*Store, error) {
	if err := opts.check(); err != nil {
		return nil, &storage.Error{Op: "open", Err: fmt.Errorf("s3: %w", err), Permanent: true}
	}
	s := &Store{opts: opts}
	if opts.Prefix != "" {
		s.prefix = opts.Prefix + "/"
	}
	load, err := opts.load()
	if err != nil {
		return nil, &storage.Error{Op: "open", Err: fmt.Errorf("%s: %w", s, storage.NotAbsence(err)), Permanent: true}
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, &storage.Error{Op: "open", Err: fmt.Errorf("%s: %w", s, storage.NotAbsence(err))}
	}
	if opts.Endpoint != "" {
		cfg.BaseEndpoint = &opts.Endpoint
	}
	custom := cfg.BaseEndpoint != nil
	if cfg.Region == "" && custom {
		cfg.Region = "us-east-1"
	}
	if cfg.Region == "" {
		return nil, &storage.Error{
			Op: "open", Err: fmt.Errorf("%s: no region", s),
			Advice: "set the region of the repository, or AWS_REGION", Permanent: true,
		}
	}
	if custom {
		// The checksum trailers that the SDK sends by default are new, and
		// unknown to many servers. The signature still covers the bytes.
		cfg.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		cfg.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	}
	switch role, err := opts.WebIdentity.provider(cfg); {
	case err != nil:
		return nil, &storage.Error{Op: "open", Err: fmt.Errorf("%s: %w", s, storage.NotAbsence(err)), Permanent: true}
	case role != nil:
		cfg.Credentials = role
	}
	s.client = awss3.NewFromConfig(cfg, func(o *awss3.Options) {
		o.UsePathStyle = opts.PathStyle
		o.DisableLogOutputChecksumValidationSkipped = true
	})
	return s, nil
}

// load turns the options into the SDK's.
func (o *Options) load() ([]func(*config.LoadOptions) error, error) {
	load := []func(*config.LoadOptions) error{
		config.WithAppID("pgtender"),
		config.WithHTTPClient(o.httpClient()),
		config.WithLogger(logging.LoggerFunc(func(class logging.Classification, format string, args ...any) {
			o.Log.Debug("S3 client", "class", string(class), "text", fmt.Sprintf(format, args...))
		})),
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(o.Profile))
	}
	if o.CredentialsFile != "" {
		// The SDK takes a missing file for an empty one.
		if _, err := os.Stat(o.CredentialsFile); err != nil {
			return nil, fmt.Errorf("credentials file: %w", err)
		}
		load = append(load, config.WithSharedCredentialsFiles([]string{o.CredentialsFile}))
	}
	if o.AccessKey != "" {
		static := credentials.NewStaticCredentialsProvider(o.AccessKey, string(o.SecretKey), "")
		load = append(load, config.WithCredentialsProvider(static))
	}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CA file: %w", err)
		}
		load = append(load, config.WithCustomCABundle(bytes.NewReader(pem)))
	}
	return load, nil
}

// httpClient gives up connections that stall: a peer that vanished without a
// word would otherwise hold a request for as long as TCP likes.
func (o *Options) httpClient() *awshttp.BuildableClient {
	dialer := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConnsPerHost = 64
		t.IdleConnTimeout = o.Stall / 2
		t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &stallConn{c, o.Stall}, nil
		}
	})
}

// stallConn is a connection that has to move a byte, in either direction,
// within the limit. A read waits while a long body is being written, so each
// call puts off the end of both.
type stallConn struct {
	net.Conn
	limit time.Duration
}

func (c *stallConn) Read(p []byte) (int, error) {
	c.Conn.SetDeadline(time.Now().Add(c.limit))
	return c.Conn.Read(p)
}

func (c *stallConn) Write(p []byte) (int, error) {
	c.Conn.SetDeadline(time.Now().Add(c.limit))
	return c.Conn.Write(p)
}

// String is the store's URL.
func (s *Store) String() string {
	return strings.TrimSuffix("s3://"+s.opts.Bucket+"/"+s.prefix, "/")
}

func (s *Store) name(key string) *string { return aws.String(s.prefix + key) }

func (s *Store) storageClass() types.StorageClass { return types.StorageClass(s.opts.StorageClass) }

func (s *Store) encryption() (types.ServerSideEncryption, *string) {
	if s.opts.KMSKeyID == "" {
		return types.ServerSideEncryption(s.opts.Encryption), nil
	}
	return types.ServerSideEncryption(s.opts.Encryption), &s.opts.KMSKeyID
}
