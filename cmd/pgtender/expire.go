package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/dcs"
)

type expireFlags struct {
	dryRun, yes, elect bool
}

func (a *app) expireCmd() *cobra.Command {
	var f expireFlags
	cmd := &cobra.Command{
		Use:   "expire",
		Short: "Remove backups and WAL that the retention policy does not keep",
		Long: `Removes what the policy (section expire of the configuration) does not keep, and
what killed runs have left behind. It goes in two steps: a run condemns, from when
on nobody begins to use the backup; a later run, after the grace period, removes
what is still condemned and still not needed. So it may run while backups and
restores run elsewhere, and pgtender pin brings a condemned backup back.

Never removed are the newest good backup, pinned ones, parts of old backups that
others lean on, WAL that a backup needs to become consistent or the recovery window
spans, and anything at all when the repository cannot be read whole.

JSON keys: dry_run, items (kind, name, action (keep, condemn, wait, remove, pardon),
reason, objects, bytes), blocked, condemned, pardoned, removed, removed_bytes, swept.`,
		Example: "  pgtender expire --dry-run\n  pgtender expire --yes --elect",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			return a.expire(cmd.Context(), n, f)
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what becomes of each object and why, and change nothing")
	fl.BoolVar(&f.yes, "yes", false, "do not ask")
	fl.BoolVar(&f.elect, "elect", false, "exit 0 where another member is at it, or takes a backup")
	return cmd
}

// expiry is the command's result; its keys are part of the interface.
type expiry struct {
	DryRun       bool                `json:"dry_run"`
	Items        []backup.ExpiryItem `json:"items"`
	Blocked      string              `json:"blocked"`
	Condemned    int                 `json:"condemned"`
	Pardoned     int                 `json:"pardoned"`
	Removed      int                 `json:"removed"`
	RemovedBytes int64               `json:"removed_bytes"`
	Swept        int                 `json:"swept"`
}

// retention is the configured policy.
func (n *node) retention() backup.Policy {
	e := n.Expire
	p := backup.Policy{KeepBackups: int(e.KeepBackups), KeepFor: time.Duration(e.KeepFor), RecoveryWindow: time.Duration(e.RecoveryWindow), Grace: time.Duration(e.Grace)}
	if p.Grace == 0 {
		p.Grace = -1 // said so
	}
	return p
}

func (a *app) expire(ctx context.Context, n *node, f expireFlags) error {
	if !f.dryRun && !f.yes && !a.canAsk() {
		return usagef("expire asks before it removes anything, and there is no terminal to ask on: use --yes, or --dry-run")
	}
	r, err := n.repository(ctx)
	if err != nil {
		return err
	}
	o := backup.ExpireOptions{Repo: r, Policy: n.retention(), Lineage: archive.LineageOptions{Leader: n.leaderHistory()}, Log: n.log}
	if f.dryRun || !f.yes {
		plan, err := backup.PlanExpiry(ctx, o)
		switch {
		case err != nil:
			return err
		case f.dryRun:
			return a.printExpiry(expiry{DryRun: true, Items: plan.Items, Blocked: plan.Blocked})
		}
		objects, bytes := plan.Count(backup.Remove)
		condemned, _ := plan.Count(backup.Condemn)
		if objects+condemned > 0 {
			printItems(a.err, plan.Items)
			if err := a.confirm(fmt.Sprintf("Remove %d objects (%s) and condemn %d of %s?", objects, size(bytes), condemned, r.Cluster())); err != nil {
				return err
			}
		}
	}
	held, release, err := n.holdExpiry(ctx)
	switch taken := (*dcs.HeldError)(nil); {
	case f.elect && errors.As(err, &taken):
		n.log.DebugContext(ctx, "nothing to do: another member is at it", "error", err)
		return nil
	case err != nil:
		return err
	}
	defer release()
	if err := n.checkOwner(held, r); err != nil {
		return err
	}
	x, err := backup.Expire(held, o)
	if err != nil {
		return err
	}
	return a.printExpiry(expiry{
		Items: x.Items, Blocked: x.Blocked, Condemned: x.Condemned, Pardoned: x.Pardoned, Removed: x.Removed, RemovedBytes: x.RemovedBytes, Swept: x.Swept,
	})
}

// holdExpiry takes the cluster's backup lease where there is a DCS: a backup and
// an expiry then keep out of each other's way. Without it both are right, too.
func (n *node) holdExpiry(ctx context.Context) (context.Context, func(), error) {
	if _, err := n.dcsSettings(); errors.Is(err, errNoDCS) {
		return ctx, func() {}, nil
	}
	return n.holdBackup(ctx)
}

// checkOwner refuses to change a part of the repository that is another
// cluster's.
func (n *node) checkOwner(ctx context.Context, r *repo.Repo) error {
	push, err := n.pushOptions(r, 0)
	if err != nil {
		return err
	}
	return push.CheckOwner(ctx)
}

func (a *app) printExpiry(x expiry) error {
	if x.Items == nil {
		x.Items = []backup.ExpiryItem{}
	}
	if a.json {
		return a.printJSON(x)
	}
	printItems(a.out, x.Items)
	if x.Blocked != "" {
		fmt.Fprintf(a.out, "no packs can be removed now: %s\n", x.Blocked)
	}
	if !x.DryRun {
		fmt.Fprintf(a.out, "removed %d objects (%s), condemned %d, pardoned %d\n", x.Removed, size(x.RemovedBytes), x.Condemned, x.Pardoned)
	}
	return nil
}

func printItems(w io.Writer, items []backup.ExpiryItem) {
	rows := [][]string{{"WHAT", "NAME", "ACTION", "OBJECTS", "SIZE", "REASON"}}
	for _, it := range items {
		rows = append(rows, []string{it.Kind, it.Name, string(it.Action), fmt.Sprint(it.Objects), size(it.Bytes), it.Reason})
	}
	table(w, rows)
}
