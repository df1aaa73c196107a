package s3

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
)

// retryer is the SDK's retryer of a single request.
type retryer struct {
	opts    *Options
	op, key string
	src     *source // of a Put; nil otherwise
	began   time.Time
	retried atomic.Bool

	// conflictIsFinal is for the completion of an upload: after a conflict
	// with a conditional request S3 wants a new upload, not a repetition.
	conflictIsFinal bool
}

// conflict is S3's code for it.
const conflict = "ConditionalRequestConflict"

var _ aws.RetryerV2 = (*retryer)(nil)

// request makes the retryer for one request and the option that installs it.
func (s *Store) request(op, key string, src *source) (*retryer, func(*awss3.Options)) {
	r := &retryer{opts: &s.opts, op: op, key: key, src: src, began: time.Now()}
	return r, func(o *awss3.Options) { o.Retryer = r }
}

// once is for requests whose failure does not matter.
func once(o *awss3.Options) { o.Retryer = aws.NopRetryer{} }

func (r *retryer) MaxAttempts() int { return r.opts.Attempts }

func (r *retryer) IsErrorRetryable(err error) bool {
	if r.src != nil && r.src.failure() != nil {
		return false
	}
	if code, _ := answer(err); code == conflict && r.conflictIsFinal {
		return false
	}
	return judge(err) == passing && time.Since(r.began) < r.opts.Budget
}

func (r *retryer) RetryDelay(attempt int, err error) (time.Duration, error) {
	r.retried.Store(true)
	wait := backoff(attempt, r.opts.MaxBackoff)
	r.opts.Log.Warn("storage request failed, repeating it", slog.String("store", "s3://"+r.opts.Bucket),
		slog.String("op", r.op), slog.String("key", r.key), slog.Int("attempt", attempt), slog.Duration("wait", wait), slog.Any("error", err))
	return wait, nil
}

// backoff is the wait after the given attempt (1, 2, …): doubled each time,
// and between half and the whole of it, so that many clients do not come back
// at the same moment.
func backoff(attempt int, limit time.Duration) time.Duration {
	whole := min(100*time.Millisecond<<min(attempt, 20), limit)
	return whole/2 + rand.N(whole/2+1)
}

// The budget is counted in attempts and time alone, not in tokens shared with
// other requests.

func (r *retryer) GetRetryToken(context.Context, error) (func(error) error, error) {
	return noToken, nil
}
func (r *retryer) GetInitialToken() func(error) error { return noToken }
func (r *retryer) GetAttemptToken(context.Context) (func(error) error, error) {
	return noToken, nil
}

func noToken(error) error { return nil }

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
