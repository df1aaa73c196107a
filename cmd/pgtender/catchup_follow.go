package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
	"github.com/pgtender/pgtender/patroni/rest"
)

// memberAPI is what a follower asks of Patroni.
type memberAPI interface {
	Status(ctx context.Context, apiURL string) (rest.Status, error)
	Cluster(ctx context.Context, apiURL string) (rest.Cluster, error)
}

// follower waits until a member that is being rebuilt streams again.
type follower struct {
	client memberAPI
	name   string
	api    string
	log    *slog.Logger

	began   bool      // the member was seen doing something else than running
	broken  time.Time // since when it has been neither rebuilt nor running
	state   string    // the last one that was logged
	started time.Time
}

// caughtUp is the result of catchup --member; its keys are part of the interface.
type caughtUp struct {
	Member   string      `json:"member"`
	State    string      `json:"state"`
	Role     string      `json:"role"`
	Timeline pg.Timeline `json:"timeline"`
	Lag      *int64      `json:"lag_bytes"` // null: not known
}

const (
	askEvery = 500 * time.Millisecond
	// unseen is after how long a member that was never seen being rebuilt has been
	// so between two looks.
	unseen = 30 * time.Second
	// given is how long a member may be neither rebuilt nor running: Patroni tries
	// again, but whoever waits should know.
	given = 5 * time.Minute
)

func (f *follower) run(ctx context.Context) (caughtUp, error) {
	f.started = time.Now()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		done, err := f.look(ctx)
		switch {
		case err != nil:
			return caughtUp{}, err
		case done != nil:
			return *done, nil
		}
		select {
		case <-ctx.Done():
			return caughtUp{}, fmt.Errorf("stopped waiting for %s, which goes on being rebuilt: %w", f.name, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// look asks once; it gives a result when the member streams.
func (f *follower) look(ctx context.Context) (*caughtUp, error) {
	s, err := f.client.Status(ctx, f.api)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil
		}
		f.tell(ctx, "does not answer: "+err.Error())
		return nil, f.patience("does not answer", "see whether its node is up and its Patroni runs; whatever it does goes on without this command")
	}
	f.tell(ctx, s.RawState)
	switch s.State {
	case patroni.StateRunning:
		f.broken = time.Time{}
		if !f.began && time.Since(f.started) < unseen {
			return nil, nil // Patroni has not stopped it yet
		}
		return f.streams(ctx, &s), nil
	case patroni.StateCreatingReplica, patroni.StateStarting, patroni.StateStopping, patroni.StateRestarting:
		f.began, f.broken = true, time.Time{}
		return nil, nil
	}
	f.began = true
	return nil, f.patience(fmt.Sprintf("is %q", s.RawState), "its Patroni's log has the output of create-replica")
}

// patience is an error once the member has been neither rebuilt nor running for too
// long.
func (f *follower) patience(is, hint string) error {
	if f.broken.IsZero() {
		f.broken = time.Now()
	}
	if time.Since(f.broken) <= given {
		return nil
	}
	return finding.WithHint(fmt.Errorf("member %s %s: %w", f.name, is, errNotStreaming), "%s", hint)
}

// streams says whether a running member receives WAL from the leader. Patroni
// says so since 3.0.4; of an older one its lag is as good.
func (f *follower) streams(ctx context.Context, s *rest.Status) *caughtUp {
	out := &caughtUp{Member: f.name, State: patroni.Streaming, Role: s.Role.String(), Timeline: s.Timeline}
	c, err := f.client.Cluster(ctx, f.api)
	if err != nil {
		return nil
	}
	for _, m := range c.Members {
		if m.Name != f.name {
			continue
		}
		if m.LagKnown {
			out.Lag = &m.Lag
		}
		if s.Replication == patroni.Streaming || s.Replication == "" && m.LagKnown && m.Lag <= smallLag {
			return out
		}
	}
	return nil
}

// smallLag is less than a member has that only reads whole archived segments.
const smallLag = 1 << 20

// tell logs each change of what the member is doing.
func (f *follower) tell(ctx context.Context, state string) {
	if state != f.state {
		f.state = state
		f.log.InfoContext(ctx, "member", "member", f.name, "state", state, "after", time.Since(f.started).Round(time.Second).String())
	}
}
