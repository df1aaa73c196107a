package s3

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/pgtender/pgtender/backup/storage"
)

// List asks for a thousand keys at a time.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if err := s.list(ctx, prefix, after, yield); err != nil && err != errLeft {
			yield(storage.Object{}, err)
		}
	}
}

// errLeft ends a listing whose caller has seen enough.
var errLeft = errors.New("left")

func (s *Store) list(ctx context.Context, prefix, after string, yield func(storage.Object, error) bool) error {
	if !begins(prefix) {
		return storage.ContextError(ctx)
	}
	in := &awss3.ListObjectsV2Input{Bucket: &s.opts.Bucket, Prefix: s.name(prefix)}
	if after != "" {
		in.StartAfter = s.name(after)
	}
	last := after
	for {
		if err := storage.ContextError(ctx); err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		_, opt := s.request("list", prefix, nil)
		page, err := s.client.ListObjectsV2(ctx, in, opt)
		if err != nil {
			return s.translate(ctx, "list", prefix, err)
		}
		if last, err = s.page(ctx, page.Contents, prefix, last, yield); err != nil {
			return err
		}
		if !aws.ToBool(page.IsTruncated) {
			return nil
		}
		next := aws.ToString(page.NextContinuationToken)
		if next == "" || next == aws.ToString(in.ContinuationToken) {
			return fmt.Errorf("list %s: the server says that there is more after %q, and not how to go on", prefix, last)
		}
		in.ContinuationToken = &next
	}
}

// begins reports whether a key can begin with a prefix. MinIO refuses to list
// some of those with which none does.
func begins(prefix string) bool {
	return prefix == "" || storage.ValidKey(prefix) == nil || storage.ValidKey(prefix+"x") == nil
}

// page yields the objects of one answer. The promised order is checked, since
// not all servers keep it, and a key that is skipped would be a lost object.
func (s *Store) page(ctx context.Context, contents []types.Object, prefix, last string, yield func(storage.Object, error) bool) (string, error) {
	for _, o := range contents {
		if err := storage.ContextError(ctx); err != nil {
			return "", fmt.Errorf("list %s: %w", prefix, err)
		}
		key, ok := strings.CutPrefix(aws.ToString(o.Key), s.prefix)
		if !ok || !strings.HasPrefix(key, prefix) {
			return "", fmt.Errorf("list %s: the server lists %q", prefix, aws.ToString(o.Key))
		}
		if storage.ValidKey(key) != nil {
			continue // a folder's placeholder ("a/"), or a foreign object
		}
		if key <= last {
			return "", &storage.Error{
				Op: "list", Key: prefix, Err: fmt.Errorf("the server lists %q after %q, out of order", key, last),
				Advice: "S3 Express directory buckets and some servers do not list in order: use another bucket", Permanent: true,
			}
		}
		last = key
		if !yield(storage.Object{Key: key, Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}, nil) {
			return "", errLeft
		}
	}
	return last, nil
}

// Delete removes the object.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := storage.CheckCall(ctx, "delete", key); err != nil {
		return err
	}
	_, opt := s.request("delete", key, nil)
	_, err := s.client.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: &s.opts.Bucket, Key: s.name(key)}, opt)
	if err == nil {
		return nil
	}
	if err = s.translate(ctx, "delete", key, err); errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	return err
}

// Sweep aborts uploads that were begun longer than age ago, by the server's
// clock, and removes what killed probes left.
func (s *Store) Sweep(ctx context.Context, age time.Duration) (removed int, err error) {
	in := &awss3.ListMultipartUploadsInput{Bucket: &s.opts.Bucket, Prefix: &s.prefix}
	for {
		if err := storage.ContextError(ctx); err != nil {
			return removed, fmt.Errorf("sweep %s: %w", s, err)
		}
		_, opt := s.request("sweep", "", nil)
		page, err := s.client.ListMultipartUploads(ctx, in, opt)
		if err != nil {
			return removed, s.translate(ctx, "sweep", "", err)
		}
		now, ok := middleware.GetServerTime(page.ResultMetadata)
		if !ok {
			return removed, fmt.Errorf("sweep %s: the server does not tell its time", s)
		}
		for _, u := range page.Uploads {
			if u.Initiated == nil || now.Sub(*u.Initiated) < age {
				continue
			}
			if err := s.abort(ctx, u.Key, u.UploadId); err != nil {
				if code, _ := answer(err); code == "NoSuchUpload" {
					continue
				}
				return removed, s.translate(ctx, "sweep", aws.ToString(u.Key), err)
			}
			removed++
		}
		if !aws.ToBool(page.IsTruncated) {
			n, err := s.sweepProbes(ctx, now.Add(-age))
			return removed + n, err
		}
		in.KeyMarker, in.UploadIdMarker = page.NextKeyMarker, page.NextUploadIdMarker
	}
}

func (s *Store) sweepProbes(ctx context.Context, before time.Time) (removed int, err error) {
	for o, err := range s.List(ctx, probePrefix, "") {
		if err != nil {
			return removed, err
		}
		if o.Modified.Before(before) {
			if err := s.Delete(ctx, o.Key); err != nil {
				return removed, err
			}
			removed++
		}
	}
	return removed, nil
}
