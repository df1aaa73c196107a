package watch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgtender/pgtender/dcs"
)

// Keys of ours below the cluster's prefix: the lease that keeps rebuilds one at
// a time, and for each member when it was last rebuilt. A lease ends with its
// holder, so it cannot tell the time of a rebuild that is over.
const (
	leaseKey   = "pgtender/rebuild"
	rebuiltDir = "pgtender/rebuilt"
)

// LeaseKey is the key of the lease under which a member is rebuilt.
func LeaseKey(prefix string) string { return prefix + "/" + leaseKey }

// ReadRebuilds reads when members were last rebuilt by a watcher, by name. A
// time that cannot be read counts as the moment now: nothing is rebuilt until
// somebody looked at it or it has aged.
func ReadRebuilds(ctx context.Context, r dcs.Reader, prefix string, now time.Time) (map[string]time.Time, error) {
	dir := prefix + "/" + rebuiltDir
	snapshot, err := r.Read(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("read when members were rebuilt: %w", err)
	}
	out := map[string]time.Time{}
	for key, value := range snapshot.Keys {
		at, err := time.Parse(time.RFC3339, value.Data)
		if err != nil || at.After(now) {
			at = now
		}
		out[strings.TrimPrefix(key, dir+"/")] = at
	}
	return out, nil
}

// recordRebuild writes that a member is being rebuilt. It is written before the
// rebuild: one that fails at once must not be tried again at once.
func recordRebuild(ctx context.Context, r dcs.Registry, prefix, member string, now time.Time) error {
	key, value := prefix+"/"+rebuiltDir+"/"+member, now.UTC().Format(time.RFC3339)
	existing, created, err := r.Create(ctx, key, value)
	if err == nil && !created && existing != value {
		err = r.Replace(ctx, key, existing, value)
	}
	if errors.Is(err, dcs.ErrChanged) {
		return fmt.Errorf("another watcher rebuilds %s: %w", member, err)
	}
	if err != nil {
		return fmt.Errorf("write that %s is rebuilt: %w", member, err)
	}
	return nil
}
