package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup/archive/receive"
	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/internal/finding"
)

func (a *app) receiveCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "receive",
		Short: "Stream the leader's WAL into the repository as it is written",
		Long: `Runs until it is stopped, and stores WAL within a second or so of its being
written: complete segments as archive-push does, what has come of the next one in
chunks. So a restore reaches within seconds of the end of a leader whose host is
gone for good. It follows the leader through switchover, failover and timeline
changes.

It may run on every node, or elsewhere: one of them streams, the others wait for
its lease. It is never a synchronous standby, whatever synchronous_standby_names
says. The leader's WAL is held by the slot receive.slot, which should be declared
to Patroni:

  patronictl edit-config -s 'slots.pgtender_receive.type=physical'`,
		Example: "  pgtender receive",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			return n.receive(cmd.Context())
		},
	}
}

func (n *node) receive(ctx context.Context) error {
	r, err := n.repositoryToWrite(ctx)
	if err != nil {
		return err
	}
	push, err := n.pushOptions(r, 0)
	if err != nil {
		return err
	}
	stream := &streamed{node: n, repo: r}
	push.CheckOwner = stream.locked(push.CheckOwner)
	opts := receive.Options{
		Repo: r, Push: push, Slot: n.Receive.Slot, Every: time.Duration(n.Receive.Every), Size: int(n.Receive.Size),
		Dir: n.Receive.SpoolDir, Log: n.log,
	}
	run := func(ctx context.Context) error { return receive.Run(ctx, opts) }
	_, err = n.dcsSettings()
	switch {
	case err == nil:
		opts.Leader, opts.Leads, opts.Kept = stream.leader, stream.leads, stream.kept
		err = n.whileReceiver(ctx, run)
	case !errors.Is(err, errNoDCS):
		return err
	case len(n.Receive.Hosts) > 0:
		opts.Leader = n.primaryAmong
		err = run(ctx)
	default:
		return usageError{finding.WithHint(errors.New("where the leader is is not configured"), "name patroni.yml (patroni), a DCS (dcs), or the servers (receive.hosts)")}
	}
	return n.untilSignalled(ctx, "receive", err)
}

// whileReceiver runs f whenever no other receiver of the cluster runs.
func (n *node) whileReceiver(ctx context.Context, f func(context.Context) error) error {
	store, err := n.dcs(ctx)
	if err != nil {
		return err
	}
	prefix, err := n.prefix()
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	holder := fmt.Sprintf("%s on %s pid %d since %s", n.member(), host, os.Getpid(), time.Now().UTC().Format(time.RFC3339))
	return ha.WhileReceiver(ctx, store, prefix, holder, n.log, f)
}
