package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// This file is for implementations of Store: what all of them refuse alike.

// CheckPut is the beginning of every Put.
func CheckPut(ctx context.Context, key string, size int64) error {
	if err := CheckCall(ctx, "put", key); err != nil {
		return err
	}
	if size < 0 {
		return &Error{Op: "put", Key: key, Err: fmt.Errorf("negative size %d", size), Permanent: true}
	}
	return nil
}

// CheckGet is the beginning of every Get.
func CheckGet(ctx context.Context, key string, off int64) error {
	if err := CheckCall(ctx, "get", key); err != nil {
		return err
	}
	if off < 0 {
		return &Error{Op: "get", Key: key, Err: fmt.Errorf("negative offset %d", off), Permanent: true}
	}
	return nil
}

// CheckCall is the beginning of every call with a key.
func CheckCall(ctx context.Context, op, key string) error {
	if err := ValidKey(key); err != nil {
		return err
	}
	if err := ContextError(ctx); err != nil {
		return fmt.Errorf("%s %s: %w", op, key, err)
	}
	return nil
}

// SourceError is a Put whose source failed after n of size bytes. That is not
// the store's fault, and no repetition here mends it.
func SourceError(key string, n, size int64, err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("source ended after %d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	} else {
		err = fmt.Errorf("read source at %d of %d bytes: %w", n, size, NotAbsence(err))
	}
	return &Error{Op: "put", Key: key, Err: err, Permanent: true}
}

// NotAbsence keeps an error that is not about an object from matching
// ErrNotExist: a missing credentials file or mount point below some library
// call must never be read as "the object is not there".
func NotAbsence(err error) error {
	if errors.Is(err, ErrNotExist) {
		return errors.New(err.Error())
	}
	return err
}
