package dcs

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// DefaultTimeout bounds one request to a DCS where the options say nothing
// else; it is Patroni's retry_timeout.
const DefaultTimeout = 10 * time.Second

// Failure is for implementations: the error of a request that brought no
// answer, with what was being done ("read service/batman") and kind,
// [ErrUnavailable], [ErrDenied] or nil for neither. ctx is the caller's. A
// request that the caller took back says nothing about the store, so it is
// neither.
func Failure(ctx context.Context, doing string, kind, err error) error {
	if cancelled := ctx.Err(); errors.Is(cancelled, context.Canceled) {
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
			return fmt.Errorf("%s: %w: %w", doing, cancelled, cause)
		}
		return fmt.Errorf("%s: %w", doing, cancelled)
	}
	if kind == nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w: %w", doing, kind, err)
}
