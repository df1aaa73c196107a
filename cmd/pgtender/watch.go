package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/ha/watch"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

// watcher makes the agent's watch over this member, nil if it is off.
func (n *node) watcher(ctx context.Context) (*watch.Watcher, error) {
	if n.Watch.Mode == "" || n.Watch.Mode == "off" {
		return nil, nil
	}
	if n.member() == "" {
		return nil, usageError{finding.WithHint(errors.New("watch.mode: this node's member name is not known"), "set patroni, or dcs.member")}
	}
	prefix, err := n.prefix()
	if err != nil {
		return nil, err
	}
	store, err := n.dcs(ctx)
	if err != nil {
		return nil, clusterError(err)
	}
	host, _ := os.Hostname() // for people to read
	return &watch.Watcher{
		Actions: &watched{node: n, prefix: prefix},
		Policy: watch.Policy{
			Rebuild: n.Watch.Mode == "rebuild", Patience: time.Duration(n.Watch.Patience), StartPatience: time.Duration(n.Watch.StartPatience),
			Again: time.Duration(n.Watch.Again), Spacing: time.Duration(n.Watch.Spacing), Settled: time.Duration(n.Watch.Settled),
		},
		DCS: store, Prefix: prefix, Holder: fmt.Sprintf("%s on %s pid %d", n.member(), host, os.Getpid()), Log: n.log,
	}, nil
}

// watched is what the watcher sees with and acts through. It has a node of its
// own.
type watched struct {
	*node
	prefix string
}

// Look implements watch.Actions.
func (w *watched) Look(ctx context.Context) watch.Facts {
	f := watch.Facts{View: ha.View{Self: w.member(), Now: time.Now()}}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if f.View.Cluster, f.View.Err = w.cluster(ctx); f.View.Err != nil {
		return f
	}
	store, err := w.dcs(ctx)
	if err == nil {
		f.Rebuilds, err = watch.ReadRebuilds(ctx, store, w.prefix, f.View.Now)
	}
	if err != nil {
		f.View.Err = err // without it rebuilds cannot be spaced
		return f
	}
	self, ok := f.View.Cluster.Member(f.View.Self)
	if !ok || self.Name == f.View.Cluster.Leader {
		return f
	}
	switch self.State {
	case patroni.StateRunning:
		f.Position = max(self.LSN, self.Received, self.ReplayLSN)
		if self.Replication != patroni.Streaming && !f.Position.IsZero() {
			f.LeaderWAL = w.leaderHolds(ctx, f.Position)
		}
	case patroni.StateStarting:
		f.Position, f.Progress = w.recovery(ctx)
	}
	return f
}

const lookTimeout = 20 * time.Second

// leaderHolds says whether the leader still has the WAL after a position: what
// the member's slot keeps for it, or lies in its pg_wal.
func (w *watched) leaderHolds(ctx context.Context, at pg.LSN) watch.Holding {
	leader, err := w.leaderFacts(ctx)
	switch {
	case err != nil || leader == nil:
		w.log.DebugContext(ctx, "what WAL the leader has is not known", "error", err)
		return watch.HoldingUnknown
	case leader.Oldest > at:
		return watch.HoldingNo
	}
	return watch.HoldingYes
}

// recovery says how far the starting server of this node has come: by pg_control,
// which moves with its restartpoints, and by the title of its startup process,
// which names the segment it reads (postgres: startup recovering ...).
func (w *watched) recovery(ctx context.Context) (pg.LSN, string) {
	dir, err := w.dataDir()
	if err != nil {
		return 0, ""
	}
	var at pg.LSN
	if _, control, err := pg.ReadControl(ctx, dir); err == nil {
		at = max(control.MinRecovery, control.Checkpoint)
	}
	content, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return at, ""
	}
	p, err := pg.ParsePostmaster(content)
	if err != nil {
		return at, ""
	}
	return at, startupTitle(p.PID)
}

// startupTitle gives the title of the startup process among a postmaster's
// children, "" where it cannot be had (proc(5), task/[tid]/children).
func startupTitle(postmaster int) string {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", postmaster, postmaster))
	if err != nil {
		return ""
	}
	for _, pid := range strings.Fields(string(children)) {
		title, err := os.ReadFile("/proc/" + pid + "/cmdline")
		if text := strings.TrimRight(string(title), "\x00 "); err == nil && strings.Contains(text, "startup") {
			return text
		}
	}
	return ""
}

// Plan implements watch.Actions: how create-replica would go about it, were the
// server stopped now.
func (w *watched) Plan(ctx context.Context) (string, error) {
	dir, err := w.dataDir()
	if err != nil {
		return "", err
	}
	// Patroni stops the server first.
	g := catchup.GatherOptions{Purpose: catchup.Replica, Dir: dir, Stopped: true, Log: w.log, Leader: w.leaderFacts, Major: w.serverMajor(ctx)}
	if g.Repo, g.SystemID, err = w.clusterRepository(ctx); err != nil {
		return "", err
	}
	plan, err := makePlan(ctx, g)
	if err != nil {
		return "", err
	}
	return planText(plan), nil
}

// planText is a plan in one line: the way that is taken, and what the others
// would cost or why they are closed.
func planText(plan catchup.Plan) string {
	var chosen string
	var others []string
	for _, r := range plan.Rungs {
		text := fmt.Sprintf("%s: %s", r.Name, r.Reason)
		if r.Open {
			text += fmt.Sprintf("; fetch %s, write %s, replay %s, about %d s", size(r.Fetch), size(r.Write), size(r.Replay), r.Seconds)
		}
		if r.Name == plan.Choice {
			chosen = text
		} else if r.Name != catchup.Nothing {
			others = append(others, text)
		}
	}
	if !plan.Backup.ID.IsZero() && plan.Choice != catchup.ByReplay {
		chosen += ", with backup " + plan.Backup.ID.String()
	}
	return chosen + " (" + strings.Join(others, "; ") + ")"
}

// Rebuild implements watch.Actions: this member's Patroni is asked to
// reinitialise it, and followed until it streams.
func (w *watched) Rebuild(ctx context.Context) error {
	switch _, known, err := w.patroni(); {
	case err != nil:
		return err
	case !known:
		return usageError{finding.WithHint(errors.New("this node's Patroni is not known"), "set patroni in the configuration")}
	}
	follow, end, err := w.reinitialize(ctx, w.member(), false)
	if err != nil {
		return err
	}
	defer end()
	_, err = follow.run(ctx)
	return err
}
