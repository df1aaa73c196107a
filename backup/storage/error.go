package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// Error is a failed operation with what the store knows about it. Stores use
// it where they have advice to give or know that a retry is of no use.
type Error struct {
	Op        string // the verb: put, get, list, delete, open
	Key       string // "" where no single object is meant
	Err       error
	Advice    string // what to do about it, a sentence without full stop, or ""
	Permanent bool   // the same call will fail again, whatever Err looks like
}

func (e *Error) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s %s: %v", e.Op, e.Key, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Hint is the advice, to be shown on a line of its own.
func (e *Error) Hint() string { return e.Advice }

// permanent lists what no repetition mends.
var permanent = []error{
	ErrNotExist, ErrForbidden, ErrNoStore, ErrExists, ErrConflict, ErrShort, ErrTooLarge, ErrInvalidKey,
	context.Canceled,
	syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EFBIG,
	syscall.ENAMETOOLONG, syscall.EISDIR, syscall.ENOTDIR, syscall.ELOOP,
	syscall.EINVAL, syscall.ENOSYS, syscall.EOPNOTSUPP,
}

// Retryable reports whether the same call may succeed later without anybody
// mending anything: everything not known to be permanent. Cancellation is
// never retryable. A deadline may have been one of the network's, so a caller
// asks its own context first.
func Retryable(err error) bool {
	if err == nil {
		return false
	}
	var e *Error
	if errors.As(err, &e) && e.Permanent {
		return false
	}
	return !slices.ContainsFunc(permanent, func(p error) bool { return errors.Is(err, p) })
}

// ContextError is nil while ctx goes on. Afterwards it is an error that
// matches both ctx.Err() and context.Cause(ctx), such as a lost lease.
func ContextError(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != err {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}
