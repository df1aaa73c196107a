package s3

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/storage"
)

// tokenName is the metadata by which a Put recognises its own object.
const tokenName = "pgtender-put"

// Put stores objects of up to a part with one request.
func (s *Store) Put(ctx context.Context, key string, src io.ReaderAt, size int64, opts storage.PutOptions) error {
	if err := storage.CheckPut(ctx, key, size); err != nil {
		return err
	}
	var random [16]byte
	rand.Read(random[:])
	p := &put{s: s, key: key, src: &source{src: src}, size: size, token: hex.EncodeToString(random[:]), lock: s.opts.Lock.of(key)}
	if opts.IfAbsent {
		if s.opts.LookFirst {
			if err := s.look(ctx, key); err != nil {
				return err
			}
		} else {
			p.ifNoneMatch = aws.String("*")
		}
	}
	err := p.run(ctx)
	if failure := p.src.failure(); failure != nil && storage.ContextError(ctx) == nil {
		return storage.SourceError(key, p.src.failedAt(), size, failure)
	}
	return err
}

// look is IfAbsent for servers that have nothing better.
func (s *Store) look(ctx context.Context, key string) error {
	r, err := s.Get(ctx, key, 0, 0)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("put %s: %w", key, storage.ErrExists), r.Close())
	case errors.Is(err, storage.ErrNotExist):
		return nil
	}
	return err
}

// put is one Put under way.
type put struct {
	s           *Store
	key         string
	src         *source
	size        int64
	token       string
	ifNoneMatch *string
	lock        retention
}

// rounds is how often an upload begins anew when the server has dropped it:
// after ConditionalRequestConflict that is what S3 asks for.
const rounds = 3

func (p *put) run(ctx context.Context) error {
	if p.size <= p.s.opts.PartSize {
		return p.whole(ctx)
	}
	for round := 1; ; round++ {
		err, again := p.upload(ctx)
		if !again || round == rounds || ctx.Err() != nil {
			return err
		}
		sleep(ctx, backoff(round, p.s.opts.MaxBackoff))
	}
}

// whole stores the object with a single request.
func (p *put) whole(ctx context.Context) error {
	r, opt := p.s.request("put", p.key, p.src)
	encryption, kms := p.s.encryption()
	_, err := p.s.client.PutObject(ctx, &awss3.PutObjectInput{
		Bucket: &p.s.opts.Bucket, Key: p.s.name(p.key),
		Body: io.NewSectionReader(p.src, 0, p.size), ContentLength: &p.size,
		IfNoneMatch: p.ifNoneMatch, Metadata: map[string]string{tokenName: p.token},
		StorageClass: p.s.storageClass(), ServerSideEncryption: encryption, SSEKMSKeyId: kms,
		ObjectLockMode: p.lock.mode, ObjectLockRetainUntilDate: p.lock.until, ChecksumAlgorithm: p.lock.checksum,
	}, opt)
	if err == nil {
		return nil
	}
	if _, status := answer(err); status == http.StatusPreconditionFailed && r.retried.Load() && p.ours(ctx) {
		return nil
	}
	return p.s.translate(ctx, "put", p.key, err)
}

// ours reports whether the object is what this Put stored in an attempt whose
// answer was lost. In doubt it is not.
func (p *put) ours(ctx context.Context) bool {
	_, opt := p.s.request("put", p.key, nil)
	head, err := p.s.client.HeadObject(ctx, &awss3.HeadObjectInput{Bucket: &p.s.opts.Bucket, Key: p.s.name(p.key)}, opt)
	return err == nil && head.Metadata[tokenName] == p.token && aws.ToInt64(head.ContentLength) == p.size
}

// upload stores the object in parts. Where the server dropped the upload,
// again asks for a new one.
func (p *put) upload(ctx context.Context) (err error, again bool) {
	_, opt := p.s.request("put", p.key, p.src)
	encryption, kms := p.s.encryption()
	created, err := p.s.client.CreateMultipartUpload(ctx, &awss3.CreateMultipartUploadInput{
		Bucket: &p.s.opts.Bucket, Key: p.s.name(p.key), Metadata: map[string]string{tokenName: p.token},
		StorageClass: p.s.storageClass(), ServerSideEncryption: encryption, SSEKMSKeyId: kms,
		ObjectLockMode: p.lock.mode, ObjectLockRetainUntilDate: p.lock.until, ChecksumAlgorithm: p.lock.checksum,
	}, opt)
	if err != nil {
		return p.s.translate(ctx, "put", p.key, err), false
	}
	parts, err := p.parts(ctx, created.UploadId)
	if err != nil {
		p.s.abort(ctx, p.s.name(p.key), created.UploadId)
		code, _ := answer(err)
		return p.s.translate(ctx, "put", p.key, err), code == "NoSuchUpload"
	}
	// The last moment at which nothing is visible yet.
	if done := storage.ContextError(ctx); done != nil {
		p.s.abort(ctx, p.s.name(p.key), created.UploadId)
		return fmt.Errorf("put %s: %w", p.key, done), false
	}
	r, opt := p.s.request("put", p.key, p.src)
	r.conflictIsFinal = true
	_, err = p.s.client.CompleteMultipartUpload(ctx, &awss3.CompleteMultipartUploadInput{
		Bucket: &p.s.opts.Bucket, Key: p.s.name(p.key), UploadId: created.UploadId, IfNoneMatch: p.ifNoneMatch,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	}, opt)
	if err == nil {
		return nil, false
	}
	code, status := answer(err)
	// A repeated completion of what was completed finds no upload any more,
	// or its own object.
	if r.retried.Load() && (code == "NoSuchUpload" || status == http.StatusPreconditionFailed) && p.ours(ctx) {
		return nil, false
	}
	p.s.abort(ctx, p.s.name(p.key), created.UploadId)
	return p.s.translate(ctx, "put", p.key, err), code == "NoSuchUpload" || code == conflict
}

// parts uploads all parts, a few at a time.
func (p *put) parts(ctx context.Context, upload *string) ([]types.CompletedPart, error) {
	step := max(p.s.opts.PartSize, (p.size+maxParts-1)/maxParts)
	done := make([]types.CompletedPart, (p.size+step-1)/step)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(p.s.opts.Parts)
	for i := range done {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			off, number := int64(i)*step, int32(i+1)
			n := min(step, p.size-off)
			_, opt := p.s.request("put", p.key, p.src)
			out, err := p.s.client.UploadPart(gctx, &awss3.UploadPartInput{
				Bucket: &p.s.opts.Bucket, Key: p.s.name(p.key), UploadId: upload, PartNumber: &number,
				Body: io.NewSectionReader(p.src, off, n), ContentLength: &n, ChecksumAlgorithm: p.lock.checksum,
			}, opt)
			if err != nil {
				return err
			}
			done[i] = types.CompletedPart{
				PartNumber: &number, ETag: out.ETag,
				ChecksumCRC32: out.ChecksumCRC32, ChecksumCRC32C: out.ChecksumCRC32C, ChecksumCRC64NVME: out.ChecksumCRC64NVME,
				ChecksumSHA1: out.ChecksumSHA1, ChecksumSHA256: out.ChecksumSHA256,
			}
			return nil
		})
	}
	return done, g.Wait()
}

// abort drops an upload, even when ctx has ended. Should it fail, Sweep or a
// lifecycle rule of the bucket finds the upload.
func (s *Store) abort(ctx context.Context, name, upload *string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_, err := s.client.AbortMultipartUpload(ctx, &awss3.AbortMultipartUploadInput{Bucket: &s.opts.Bucket, Key: name, UploadId: upload}, once)
	return err
}

// source tells a source that fails from a connection that does: both come out
// of the HTTP client as a failed request.
type source struct {
	src io.ReaderAt

	mu  sync.Mutex
	err error // the first failure; guarded by mu
	at  int64 // where it was; guarded by mu
}

// ReadAt is called for bytes of the object only, so reading less is failing.
func (s *source) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.src.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err, s.at = err, off+int64(n)
	}
	return n, err
}

func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *source) failedAt() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}
