package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/pgtender/pgtender/backup/storage"
)

// Get asks for the range with one request. HTTP has no empty ranges and S3
// refuses one that begins at the very end of an object, so where one of those
// is possible the byte before is asked for as well.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := storage.CheckGet(ctx, key, off); err != nil {
		return nil, err
	}
	switch {
	case n < 0 && off == 0:
		return s.open(ctx, key, 0, -1, nil)
	case n < 0:
		r, err := s.open(ctx, key, off-1, -1, nil)
		if err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
			return nil, errors.Join(err, r.Close())
		}
		return r, nil
	case n == 0:
		return s.nothing(ctx, key, off)
	}
	return s.open(ctx, key, off, min(n, math.MaxInt64-off), nil)
}

// nothing is a Get of no bytes: only whether the object reaches to off.
func (s *Store) nothing(ctx context.Context, key string, off int64) (io.ReadCloser, error) {
	r, err := s.open(ctx, key, max(off-1, 0), 1, nil)
	if err == nil {
		_, err = io.Copy(io.Discard, r) // lets the connection be used again
		err = errors.Join(err, r.Close())
	}
	if err != nil && !(off == 0 && errors.Is(err, storage.ErrShort)) { // short: an empty object
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(nil)), nil
}

// open asks for n bytes (n < 0: all) from off on, of the version of the object
// that has the given ETag if there is one.
func (s *Store) open(ctx context.Context, key string, off, n int64, etag *string) (*reader, error) {
	in := &awss3.GetObjectInput{Bucket: &s.opts.Bucket, Key: s.name(key), IfMatch: etag}
	switch {
	case n >= 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	case off > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", off))
	}
	_, opt := s.request("get", key, nil)
	out, err := s.client.GetObject(ctx, in, opt)
	if _, status := answer(err); etag != nil && status == http.StatusPreconditionFailed {
		return nil, fmt.Errorf("get %s: %w", key, storage.ErrReplaced)
	}
	if err != nil {
		return nil, s.translate(ctx, "get", key, err)
	}
	got, size, err := answered(out, off)
	if err == nil && got < n {
		err = fmt.Errorf("%w: %d of %d bytes from %d", storage.ErrShort, got, n, off)
	}
	if err != nil {
		out.Body.Close()
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	if n < 0 {
		n = got
	}
	return &reader{s: s, ctx: ctx, key: key, body: out.Body, etag: out.ETag, size: size, off: off, end: off + n}, nil
}

// answered gives the length of the range in an answer, which must begin at off,
// and the size of the whole object, -1 if the answer does not tell it.
func answered(out *awss3.GetObjectOutput, off int64) (n, size int64, err error) {
	if out.ContentRange == nil { // the whole object
		if off > 0 {
			return 0, 0, errors.New("the server ignores the Range header")
		}
		if out.ContentLength == nil || *out.ContentLength < 0 {
			return 0, 0, errors.New("the server does not tell the object's length")
		}
		return *out.ContentLength, *out.ContentLength, nil
	}
	first, last, err := parseContentRange(*out.ContentRange)
	if err != nil {
		return 0, 0, err
	}
	if first != off {
		return 0, 0, fmt.Errorf("the server answers range %s instead of one from %d", *out.ContentRange, off)
	}
	return last - first + 1, sizeIn(*out.ContentRange, last), nil
}

// parseContentRange parses "bytes FIRST-LAST/TOTAL" (RFC 9110, 14.4).
func parseContentRange(text string) (first, last int64, err error) {
	bounds, ok := strings.CutPrefix(text, "bytes ")
	bounds, _, slash := strings.Cut(bounds, "/")
	a, b, dash := strings.Cut(bounds, "-")
	first, errA := parseOffset(a)
	last, errB := parseOffset(b)
	if !ok || !slash || !dash || errA != nil || errB != nil || last < first || last == math.MaxInt64 {
		return 0, 0, fmt.Errorf("invalid Content-Range %q", text)
	}
	return first, last, nil
}

// sizeIn gives the TOTAL of a range that ends at last, -1 where it is "*" or wrong.
func sizeIn(contentRange string, last int64) int64 {
	_, total, _ := strings.Cut(contentRange, "/")
	size, err := parseOffset(total)
	if err != nil || size <= last {
		return -1
	}
	return size
}

func parseOffset(digits string) (int64, error) {
	n, err := strconv.ParseUint(digits, 10, 63) // refuses a sign
	return int64(n), err
}

// reader yields a range, over as many connections as it takes.
type reader struct {
	s        *Store
	ctx      context.Context
	key      string
	body     io.ReadCloser
	etag     *string
	size     int64 // of the object, -1 if not known
	off, end int64

	failures int       // since the last byte
	failed   time.Time // the first of them
}

// ObjectSize is what the answer said.
func (r *reader) ObjectSize() int64 { return r.size }

func (r *reader) Read(p []byte) (int, error) {
	for {
		if err := storage.ContextError(r.ctx); err != nil {
			return 0, fmt.Errorf("get %s: %w", r.key, err)
		}
		if r.off == r.end {
			return 0, io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, err := r.body.Read(p[:min(int64(len(p)), r.end-r.off)])
		if n > 0 {
			r.off, r.failures = r.off+int64(n), 0
			return n, nil // an error comes again with the next Read
		}
		if err != nil {
			if err := r.resume(err); err != nil {
				return 0, err
			}
		}
	}
}

// resume opens the rest of the range anew after the connection broke.
func (r *reader) resume(broke error) error {
	if broke == io.EOF {
		broke = io.ErrUnexpectedEOF
	}
	broke = storage.NotAbsence(broke)
	r.body.Close()
	r.body = http.NoBody
	if r.failures == 0 {
		r.failed = time.Now()
	}
	r.failures++
	if r.etag == nil || r.failures >= r.s.opts.Attempts || time.Since(r.failed) > r.s.opts.Budget {
		return &storage.Error{Op: "get", Key: r.key, Err: fmt.Errorf("body broke at %d of %d, %d times: %w", r.off, r.end, r.failures, broke)}
	}
	wait := backoff(r.failures, r.s.opts.MaxBackoff)
	r.s.opts.Log.WarnContext(r.ctx, "storage read broke, resuming it", "store", r.s.String(), "key", r.key,
		"offset", r.off, "attempt", r.failures, "wait", wait, "error", broke)
	sleep(r.ctx, wait)
	if err := storage.ContextError(r.ctx); err != nil {
		return fmt.Errorf("get %s: %w", r.key, err)
	}
	rest, err := r.s.open(r.ctx, r.key, r.off, r.end-r.off, r.etag)
	if err != nil {
		return fmt.Errorf("resume at %d after %q: %w", r.off, broke, err)
	}
	r.body = rest.body
	return nil
}

// Close lets the connection be used again if the range was read to its end.
func (r *reader) Close() error {
	if r.off == r.end && r.ctx.Err() == nil {
		io.CopyN(io.Discard, r.body, 1)
	}
	r.body.Close() // an abandoned body's error concerns nobody
	return nil
}
