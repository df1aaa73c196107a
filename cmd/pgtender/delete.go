package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
)

func (a *app) deleteCmd() *cobra.Command {
	var yes bool
	var reason string
	cmd := &cobra.Command{
		Use:   "delete BACKUP",
		Short: "Give up one backup, whatever the retention policy says",
		Long: `Condemns one backup: from now on nobody begins to use it. The next expire after the
grace period removes it, but for the parts that other backups lean on; until then
pgtender pin brings it back. Refused for a pinned backup, the newest good one, and
one that is in use.

JSON keys: backup, reason.`,
		Example: "  pgtender delete 20260801T030000Z-0a1b2c --reason 'taken of a test'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := backupID(args[0])
			if err != nil {
				return err
			}
			if err := oneLine("--reason", reason); err != nil {
				return err
			}
			if !yes && !a.canAsk() {
				return usagef("delete asks before it acts, and there is no terminal to ask on: use --yes")
			}
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			return a.delete(cmd.Context(), n, id, yes, reason)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` to keep with it")
	return cmd
}

// deletion is the command's result; its keys are part of the interface.
type deletion struct {
	Backup repo.BackupID `json:"backup"`
	Reason string        `json:"reason"`
}

func backupID(s string) (repo.BackupID, error) {
	id, err := repo.ParseBackupID(s)
	if err != nil {
		return 0, usageError{err}
	}
	return id, nil
}

func (a *app) delete(ctx context.Context, n *node, id repo.BackupID, yes bool, reason string) error {
	r, err := n.repository(ctx)
	if err != nil {
		return err
	}
	if err := n.checkOwner(ctx, r); err != nil {
		return err
	}
	if !yes {
		if err := a.confirm(fmt.Sprintf("Delete backup %s of %s?", id, r.Cluster())); err != nil {
			return err
		}
	}
	o := backup.DeleteOptions{By: whoami(), Reason: reason, Lineage: archive.LineageOptions{Leader: n.leaderHistory()}}
	if err := backup.Delete(ctx, r, id, o); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(deletion{id, reason})
	}
	fmt.Fprintf(a.out, "backup %s is condemned; expire removes it after the grace period, until then pgtender pin %s brings it back\n", id, id)
	return nil
}
