package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/agent"
	"github.com/pgtender/pgtender/backup/archive/agent/early"
	"github.com/pgtender/pgtender/internal/finding"
)

func (a *app) agentCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run beside PostgreSQL: archive faster, and hold WAL on standbys until it is archived",
		Long: `Runs until it is stopped, one on each node, as PostgreSQL's user. It
 - answers archive-push and archive-get over a unix socket (agent.socket), and
   archives and fetches ahead of them;
 - holds this member's WAL by a temporary replication slot until it is archived,
   so that a standby still has what a dead leader had not archived;
 - archives from this member what the leader is late with (agent.grace);
 - notices that this member fell behind the leader's WAL, diverged or hangs, and
   tells, or has Patroni rebuild it (watch.mode).

Nothing depends on it: the commands work without it, slower.`,
		Example: "  pgtender agent\n  pgtender agent status",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			return n.runAgent(cmd.Context())
		},
	}
	cmd.AddCommand(a.agentStatusCmd())
	return cmd
}

func (a *app) agentStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show whether this node's agent works, and what it holds",
		Long: `Asks the agent of this node.

JSON keys: pid, version, fingerprint, started, wal_dir, current (it runs with the
present configuration), push (archived, answered, failed, error, last), keeper
(slot, since, held, held_bytes, lapsed, lapsed_from, lapsed_to, missing, late, assisted, role, why, error, at).`,
		Example: "  pgtender agent status --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			s, err := agent.ReadStatus(cmd.Context(), n.Agent.Socket)
			if err != nil {
				return finding.WithHint(fmt.Errorf("ask the agent at %s: %w", n.Agent.Socket, err), "start it: pgtender agent, or the service pgtender-agent")
			}
			current := s.Fingerprint == n.fingerprint()
			if a.json {
				return a.printJSON(agentStatus{Status: s, Current: current})
			}
			a.printAgent(s, current)
			return nil
		},
	}
}

// agentStatus is the command's result; its keys are part of the interface.
type agentStatus struct {
	agent.Status
	Current bool `json:"current"`
}

func (a *app) printAgent(s agent.Status, current bool) {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "agent\tpid %d, %s, since %s\n", s.PID, s.Version, clock(s.Started))
	if !current {
		fmt.Fprint(w, "configuration\tnot the present one: restart the agent\n")
	}
	fmt.Fprintf(w, "WAL of\t%s\n", s.WALDir)
	fmt.Fprintf(w, "archived\t%d segments, last %s; %d requests answered, %d attempts failed\n", s.Push.Archived, orNone(s.Push.Last), s.Push.Answered, s.Push.Failed)
	if s.Push.Error != "" {
		fmt.Fprintf(w, "last failure\t%s\n", s.Push.Error)
	}
	k := s.Keeper
	switch {
	case k == nil:
		return
	case k.Slot == "":
		fmt.Fprintf(w, "held\tnothing, since %s\n", clock(k.Since))
	default:
		fmt.Fprintf(w, "held\tfrom %s on (%s) by slot %s, since %s\n", k.Held, size(k.HeldSize), k.Slot, clock(k.Since))
	}
	if k.Lapsed {
		fmt.Fprintf(w, "not held\tfrom %s to %s, not all of which is known to be archived\n", k.From, k.To)
	}
	if k.Error != "" {
		fmt.Fprintf(w, "trouble\t%s\n", strings.ReplaceAll(k.Error, "\n\t", " ")) // a server may have several addresses
	} else {
		fmt.Fprintf(w, "state\t%s; %d late, %d archived from here\n", k.Why, k.Late, k.Assisted)
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// runAgent is the daemon.
func (n *node) runAgent(ctx context.Context) error {
	fingerprint := n.fingerprint() // before anything is found out
	dir, err := n.dataDir()
	if err != nil {
		return err
	}
	if _, err := n.scope(); err != nil {
		return err
	}
	if n.Agent.Socket == "" {
		return usageError{finding.WithHint(errors.New("agent.socket is empty"), "leave it out for the default")}
	}
	l, release, err := agent.Listen(ctx, n.Agent.Socket)
	if err != nil {
		return err
	}
	defer release()
	s := &shared{node: n, dataDir: dir}
	walDir := filepath.Join(dir, "pg_wal")
	daemon := s.agent(walDir, fingerprint)
	apart := n.apart()
	defer apart.close()
	watcher, err := apart.watcher(ctx)
	if err != nil {
		return err
	}
	defer spareProcessors()()
	n.log.InfoContext(ctx, "agent runs", "socket", n.Agent.Socket, "data_dir", dir)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return daemon.Run(ctx, l) })
	g.Go(func() error { archive.Tidy(ctx, walDir); return nil })
	if n.file != "" { // or there is nothing to compare configurations by
		hint := early.Hint{Socket: n.Agent.Socket, Config: n.file}
		g.Go(func() error {
			agent.KeepHint(ctx, walDir, hint, time.Duration(n.Agent.Interval), n.log)
			return nil
		})
	}
	if watcher != nil {
		g.Go(func() error { return watcher.Run(ctx) })
	}
	err = g.Wait()
	return n.untilSignalled(ctx, "agent", err)
}

// untilSignalled gives the outcome of a daemon: to end by a signal is success.
func (n *node) untilSignalled(ctx context.Context, daemon string, err error) error {
	if signal := (signalled{}); errors.As(context.Cause(ctx), &signal) {
		n.log.Info(daemon+" ends", "because", signal.Error())
		return nil
	}
	return err
}

// agent puts the daemon together.
func (s *shared) agent(walDir, fingerprint string) *agent.Agent {
	pusher := &agent.Pusher{
		WALDir: walDir, Archive: s.archive, Ahead: s.node.ahead(""), Timeout: time.Duration(s.node.Archive.PushTimeout),
		Pacer: &s.pacer,
	}
	fetches := &fetching{walDir: walDir}
	earlier := &standIn{
		socket: s.node.Agent.Socket, fingerprint: fingerprint, walDir: walDir, push: pusher.Push, handOver: fetches.handOver,
	}
	return &agent.Agent{
		Fingerprint: fingerprint, Version: toolVersion(), Pusher: pusher, Early: earlier.answer, Get: s.get(fetches), Log: s.node.log,
		Keeper: &agent.Keeper{
			WALDir: walDir, Repo: s.repository, Connect: s.connect, Role: s.role, Pusher: pusher,
			Interval: time.Duration(s.node.Agent.Interval), Grace: time.Duration(s.node.Agent.Grace), MaxHold: int64(s.node.Agent.MaxHold), Log: s.node.log,
		},
	}
}
