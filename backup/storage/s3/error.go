package s3

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"

	"github.com/pgtender/pgtender/backup/storage"
)

// code and status of an answer, "" and 0 where there was none.
func answer(err error) (code string, status int) {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		code = api.ErrorCode()
	}
	var http interface{ HTTPStatusCode() int }
	if errors.As(err, &http) {
		status = http.HTTPStatusCode()
	}
	return code, status
}

// verdict on a failed request.
type verdict int

const (
	unknown   verdict = iota // not from the wire: credentials, for example
	passing                  // the same request may succeed in a moment
	permanent                // it will not
)

// judge decides whether a request is worth repeating.
func judge(err error) verdict {
	var canceled interface{ CanceledError() bool }
	if errors.As(err, &canceled) && canceled.CanceledError() {
		return permanent
	}
	if isCertificate(err) || isUnknownHost(err) {
		return permanent
	}
	// The SDK marks what it can mend: it corrects a wrong clock, for one.
	if r := (retry.RetryableError{}).IsErrorRetryable(err); r.Bool() {
		return passing
	}
	code, status := answer(err)
	switch code {
	case "ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException":
		return passing
	}
	var sent interface{ ConnectionError() bool }
	var garbled *smithy.DeserializationError
	switch {
	case errors.As(err, &sent) && sent.ConnectionError():
		return passing
	case errors.As(err, &garbled), errors.Is(err, io.ErrUnexpectedEOF):
		return passing // an answer was cut, an error's too
	case status == http.StatusNotImplemented:
		return permanent
	case status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		return passing
	case status >= 300:
		return permanent
	}
	return unknown
}

func isCertificate(err error) bool {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid)
}

func isUnknownHost(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound
}

// translate says in the words of package storage what a failed request means.
func (s *Store) translate(ctx context.Context, op, key string, err error) error {
	if done := storage.ContextError(ctx); done != nil {
		return fmt.Errorf("%s %s: %w", op, key, done)
	}
	code, status := answer(err)
	switch {
	case code == "NoSuchKey" && status == http.StatusNotFound:
		return fmt.Errorf("%s %s: %w", op, key, storage.ErrNotExist)
	case status == http.StatusPreconditionFailed && op == "put":
		return fmt.Errorf("%s %s: %w", op, key, storage.ErrExists)
	case status == http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("%s %s: %w", op, key, storage.ErrShort)
	}
	e := &storage.Error{Op: op, Key: key, Err: storage.NotAbsence(err), Permanent: judge(err) == permanent}
	switch {
	case code == "NoSuchBucket":
		e.Err = fmt.Errorf("%w: %w", storage.ErrNoStore, e.Err)
		e.Advice = "create the bucket " + s.opts.Bucket + ", or correct the repository's URL"
	case code == "InvalidAccessKeyId", code == "SignatureDoesNotMatch", code == "ExpiredToken", code == "InvalidToken":
		e.Err = fmt.Errorf("%w: %w", storage.ErrForbidden, e.Err)
		e.Advice = "check the access key and its secret"
	case op == "delete" && isLocked(code, err.Error()):
		e.Err = fmt.Errorf("%w: %w", storage.ErrForbidden, e.Err)
		e.Advice = "the object is locked until its retention ends (s3.object_lock); it can be removed after that"
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		e.Err = fmt.Errorf("%w: %w", storage.ErrForbidden, e.Err)
		e.Advice = "the credentials need s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and, on the bucket, " +
			"s3:ListBucket, without which S3 answers \"forbidden\" for an object that is not there"
	case code == "PermanentRedirect", code == "AuthorizationHeaderMalformed", status == http.StatusMovedPermanently:
		e.Advice = "the bucket is in another region: set the repository's region"
	case status == http.StatusNotFound:
		e.Advice = "this is no S3 server's answer for an object: check the endpoint and the path style"
	case status == http.StatusNotImplemented:
		e.Advice = "if it is conditional create that the server lacks, tell so in the repository's options"
	case isCertificate(err):
		e.Advice = "name the server's certificate authority in the repository's CA file"
	case isUnknownHost(err):
		e.Advice = "check the endpoint; a server other than Amazon's wants the path style as a rule"
	}
	return e
}
