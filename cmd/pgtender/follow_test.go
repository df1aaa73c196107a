package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/patroni"
	"github.com/pgtender/pgtender/patroni/rest"
)

// member is what a Patroni answers, one after the other; the last one for ever.
type member []rest.Status

func (m *member) Status(context.Context, string) (rest.Status, error) {
	s := (*m)[0]
	if len(*m) > 1 {
		*m = (*m)[1:]
	}
	if s.RawState == "" {
		return s, errors.New("connection refused")
	}
	return s, nil
}

func (m *member) Cluster(context.Context, string) (rest.Cluster, error) { return rest.Cluster{}, nil }

// TestAMemberThatIsGoneIsNotAwaitedForEver: whoever asked for a rebuild should know
// that the node has died in the middle of it.
func TestAMemberThatIsGoneIsNotAwaitedForEver(t *testing.T) {
	creating := rest.Status{RawState: "creating replica", State: patroni.StateCreatingReplica}
	failed := rest.Status{RawState: "start failed", State: patroni.StateStartFailed}
	for name, test := range map[string]struct {
		answers member
		want    string
	}{
		"it does not answer any more": {member{creating, {}}, "does not answer"},
		"it never answered":           {member{{}}, "does not answer"},
		"it cannot be started":        {member{creating, failed}, `is "start failed"`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &follower{client: &test.answers, name: "pg1", log: slog.New(slog.DiscardHandler)}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				_, err := f.run(ctx)
				if !errors.Is(err, errNotStreaming) || !strings.Contains(err.Error(), test.want) || finding.Hint(err) == "" {
					t.Errorf("got %v", err)
				}
				if took := time.Since(f.started); took > 10*time.Minute {
					t.Errorf("after %s", took)
				}
			})
		})
	}
}

func TestAMemberMayBeSilentForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silence := make(member, 500)
		answers := append(silence, rest.Status{RawState: "creating replica", State: patroni.StateCreatingReplica})
		f := &follower{client: &answers, name: "pg1", log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := f.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
