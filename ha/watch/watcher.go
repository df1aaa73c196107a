package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pgtender/pgtender/dcs"
)

// Actions is what the watcher sees with and acts through; the command fills it
// in. Its methods are called by one goroutine.
type Actions interface {
	// Look gathers the facts of this moment. What cannot be had is left
	// unknown in them.
	Look(ctx context.Context) Facts
	// Plan says in words how the member would be rebuilt, for the log.
	Plan(ctx context.Context) (string, error)
	// Rebuild has the member rebuilt and returns once it streams again, or
	// will not. ctx ends if the cluster's rebuild lease is lost.
	Rebuild(ctx context.Context) error
}

// Watcher watches one member. Fields are set before Run.
type Watcher struct {
	Actions Actions
	Policy  Policy
	// DCS keeps rebuilds one at a time and remembers them.
	DCS interface {
		dcs.Locker
		dcs.Registry
	}
	Prefix string // of the cluster's keys
	Holder string // tells others who rebuilds
	// Every is the time between two looks; 0 means DefaultEvery.
	Every time.Duration
	Log   *slog.Logger // nil discards
}

// DefaultEvery is Patroni's loop_wait: its keys change no faster.
const DefaultEvery = 10 * time.Second

// leaseTTL is how long the rebuild lease outlives a watcher that died.
const leaseTTL = 60 * time.Second

// Run watches until ctx ends. Nothing that goes wrong ends it: it is logged, and
// looked at again.
func (w *Watcher) Run(ctx context.Context) error {
	if w.Log == nil {
		w.Log = slog.New(slog.DiscardHandler)
	}
	ticker := time.NewTicker(or(w.Every, DefaultEvery))
	defer ticker.Stop()
	var (
		trail Trail
		told  Decision
	)
	for {
		facts := w.Actions.Look(ctx)
		trail = trail.Next(facts)
		decision := Decide(facts, trail, w.Policy)
		if w.tell(told, decision) && decision.Symptom.ill() && !decision.Rebuild {
			w.tellPlan(ctx, facts.View.Self)
		}
		told = decision
		if decision.Rebuild {
			w.rebuild(ctx, trail, decision)
			trail = Trail{}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// tell logs what is new. Reasons hold times that change with every look, so
// what counts as new is the symptom and whether it is acted on. It reports
// whether anything was.
func (w *Watcher) tell(before, now Decision) bool {
	if before.Symptom == now.Symptom && before.Rebuild == now.Rebuild && len(before.Against) == len(now.Against) {
		return false
	}
	level := slog.LevelInfo
	switch {
	case now.Symptom == Waiting:
		level = slog.LevelDebug
	case now.Symptom != Well:
		level = slog.LevelWarn
	}
	w.Log.Log(context.Background(), level, "watch", "symptom", now.Symptom, "reason", now.Reason, "against", now.Against)
	return true
}

// planPatience is how long a plan may take that is made for the log alone.
const planPatience = 5 * time.Minute

// tellPlan logs how the member would be rebuilt where that is left to the
// operator, or to later.
func (w *Watcher) tellPlan(ctx context.Context, member string) {
	ctx, cancel := context.WithTimeout(ctx, planPatience)
	defer cancel()
	plan, err := w.Actions.Plan(ctx)
	if err != nil {
		w.Log.WarnContext(ctx, "how the member would be rebuilt is not known", "member", member, "error", err)
		return
	}
	w.Log.WarnContext(ctx, "the member could be rebuilt", "member", member, "plan", plan)
}

// rebuild has the member rebuilt under the cluster's lease, if it is still
// right once the lease is held.
func (w *Watcher) rebuild(ctx context.Context, trail Trail, decision Decision) {
	held, release, err := dcs.Hold(ctx, w.DCS, dcs.HoldOptions{
		Key: LeaseKey(w.Prefix), Value: w.Holder, TTL: leaseTTL, Log: w.Log,
	})
	if err != nil {
		var taken *dcs.HeldError
		if errors.As(err, &taken) {
			w.Log.Info("another member is being rebuilt", "by", taken.Value)
			return
		}
		w.Log.Warn("the rebuild waits", "error", err)
		return
	}
	defer release()
	facts := w.Actions.Look(held)
	if again := Decide(facts, trail.Next(facts), w.Policy); !again.Rebuild {
		w.Log.Info("no rebuild after all", "decision", again.String())
		return
	}
	if err := w.act(held, facts, decision); err != nil {
		w.Log.Error("the rebuild failed", "member", facts.View.Self, "error", err)
	}
}

// act plans, writes down and rebuilds, in this order: what cannot be planned is
// not begun, and what was not written down would not be spaced.
func (w *Watcher) act(ctx context.Context, facts Facts, decision Decision) error {
	plan, err := w.Actions.Plan(ctx)
	if err != nil {
		return fmt.Errorf("plan the rebuild: %w", err)
	}
	member := facts.View.Self
	if err := recordRebuild(ctx, w.DCS, w.Prefix, member, facts.View.Now); err != nil {
		return err
	}
	w.Log.Warn("rebuilding", "member", member, "reason", decision.Reason, "plan", plan)
	started := time.Now()
	if err := w.Actions.Rebuild(ctx); err != nil {
		return err
	}
	w.Log.Info("rebuilt, and streaming again", "member", member, "took", time.Since(started).Round(time.Second))
	return nil
}
