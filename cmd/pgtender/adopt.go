package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
)

func (a *app) adoptCmd() *cobra.Command {
	var yes bool
	var reason string
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Make this cluster the owner of its part of the repository",
		Long: `A cluster's part of the repository belongs to the cluster whose DCS holds the same
random owner id; any other writer is refused. After the DCS was lost, or after a
restore became the cluster that counts, this command makes the present cluster
the owner. The one before can no longer write.

JSON keys: before, owner (id, created, where, reason).`,
		Example: "  pgtender adopt --reason 'DCS rebuilt'\n  pgtender adopt --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			return a.adopt(cmd.Context(), n, yes, reason)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().StringVar(&reason, "reason", "pgtender adopt", "`TEXT` to keep with the new owner")
	return cmd
}

// adoption is the command's result; its keys are part of the interface.
type adoption struct {
	Before string     `json:"before"`
	Owner  repo.Owner `json:"owner"`
}

func (a *app) adopt(ctx context.Context, n *node, yes bool, reason string) error {
	if !yes && !a.canAsk() {
		return usagef("adopt asks before it acts, and there is no terminal to ask on: use --yes")
	}
	store, err := n.store(ctx, true)
	if err != nil {
		return err
	}
	r, err := n.openRepo(ctx, store, n.systemID)
	if err != nil {
		return err
	}
	before, seq, err := r.CurrentOwner(ctx)
	was := describeOwner(before)
	switch {
	case errors.Is(err, repo.ErrCorrupt) && seq > 0:
		was = "not known: " + err.Error()
		n.log.WarnContext(ctx, "the owner is stored anew", "error", err)
	case err != nil:
		return err
	}
	if !yes {
		if err := a.confirm(fmt.Sprintf("The owner of %s in %s is %s. Make this cluster the owner?", r.Cluster(), store, was)); err != nil {
			return err
		}
	}
	owner, err := n.takeOwnership(ctx, r, reason)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(adoption{Before: before.ID, Owner: owner})
	}
	if owner.ID == before.ID {
		fmt.Fprintf(a.out, "nothing to do: this cluster is the owner already (%s)\n", describeOwner(owner))
		return nil
	}
	fmt.Fprintf(a.out, "the owner of %s is now %s\n", r.Cluster(), describeOwner(owner))
	return nil
}

// takeOwnership makes this cluster the owner.
func (n *node) takeOwnership(ctx context.Context, r *repo.Repo, reason string) (repo.Owner, error) {
	dcs, err := n.ownerDCS()
	if err != nil {
		return repo.Owner{}, err
	}
	return archive.Adopt(ctx, r, dcs, reason)
}

func describeOwner(o repo.Owner) string {
	switch {
	case o.ID == "":
		return "nobody yet"
	case o.Where == "":
		return o.ID + ", without a DCS"
	}
	return o.ID + ", in " + o.Where
}

// canAsk reports whether somebody is there to answer.
func (a *app) canAsk() bool {
	f, ok := a.in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// confirm asks on a terminal; anything but yes is a refusal.
func (a *app) confirm(question string) error {
	fmt.Fprintf(a.err, "%s [yes/no] ", question)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil {
		return err
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "yes" && answer != "y" {
		return fmt.Errorf("not confirmed, nothing was changed")
	}
	return nil
}
