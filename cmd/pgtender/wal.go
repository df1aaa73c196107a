package main

import (
	"fmt"
	"os"
	"os/user"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
)

func (a *app) walCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "wal",
		Short:   "Look after the archived WAL",
		Example: "  pgtender wal verify\n  pgtender wal acknowledge ID --reason 'old leader pushed past the fork'",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.walVerifyCmd(), a.walAcknowledgeCmd())
	return cmd
}

func (a *app) walAcknowledgeCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "acknowledge ALARM",
		Short: "Say that an alarm of the archive has been dealt with",
		Long: `Marks an alarm, which pgtender info --json lists with its id, as dealt with: it is
no longer shown. Nothing else changes, and who did it and why is kept.

JSON keys: id, by, reason.`,
		Example: "  pgtender wal acknowledge 20260801T030000Z-0a1b2c --reason 'old leader pushed past the fork'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := repo.ParseBackupID(args[0])
			if err != nil {
				return usageError{err}
			}
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			r, err := n.repository(cmd.Context())
			if err != nil {
				return err
			}
			by := whoami()
			if err := archive.Acknowledge(cmd.Context(), r, id, by, reason); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(acknowledged{ID: id, By: by, Reason: reason})
			}
			fmt.Fprintf(a.out, "alarm %s is acknowledged\n", id)
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` to keep with it")
	return cmd
}

// acknowledged is the command's result; its keys are part of the interface.
type acknowledged struct {
	ID     repo.BackupID `json:"id"`
	By     string        `json:"by"`
	Reason string        `json:"reason"`
}

// whoami names the person as well as the machine knows.
func whoami() string {
	name := fmt.Sprint(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
