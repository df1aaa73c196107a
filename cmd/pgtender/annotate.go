package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
)

func (a *app) annotateCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "annotate BACKUP NAME=VALUE...",
		Short: "Note something about a backup",
		Long: `Adds notes to a backup, which pgtender info shows. An empty value takes a note off.

JSON keys: backup, annotations (all that the backup has now).`,
		Example: "  pgtender annotate 20260801T030000Z-0a1b2c ticket=OPS-4711 release=",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := backupID(args[0])
			if err != nil {
				return err
			}
			notes := make(map[string]string)
			for _, arg := range args[1:] {
				name, value, ok := strings.Cut(arg, "=")
				if !ok || name == "" {
					return usagef("%q is not NAME=VALUE", arg)
				}
				if err := oneLine("note", arg); err != nil {
					return err
				}
				notes[name] = value
			}
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			return a.annotate(cmd.Context(), n, id, notes)
		},
	}
}

// annotated is the command's result; its keys are part of the interface.
type annotated struct {
	Backup      repo.BackupID     `json:"backup"`
	Annotations map[string]string `json:"annotations"`
}

func (a *app) annotate(ctx context.Context, n *node, id repo.BackupID, notes map[string]string) error {
	r, err := n.repository(ctx)
	if err != nil {
		return err
	}
	if err := backup.Annotate(ctx, r, id, notes); err != nil {
		return err
	}
	all, err := backup.ReadMarks(ctx, r)
	if err != nil {
		return err
	}
	now := all[id].Annotations
	if now == nil {
		now = map[string]string{}
	}
	if a.json {
		return a.printJSON(annotated{id, now})
	}
	fmt.Fprintf(a.out, "backup %s: %s\n", id, notesText(now))
	return nil
}
