package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/patroni/hook"
)

type bootstrapFlags struct {
	replicaFlags
	target targetFlags
}

func (a *app) bootstrapCmd() *cobra.Command {
	var f bootstrapFlags
	cmd := a.hookCommand(&cobra.Command{
		Use:   "bootstrap",
		Short: "Restore the first member of a new cluster, as Patroni's custom bootstrap",
		Long: `Restores a backup into the data directory of a cluster's first member, to any
point in time, and makes the new cluster the owner of its part of the repository
(see adopt). The server ends recovery by its promotion, on a new timeline; Patroni
must keep the recovery settings (keep_existing_recovery_conf).

--cluster names the cluster whose backup is restored, where that is not the scope
in patroni.yml. Patroni passes --scope and --datadir, and the keys of the method's
section, in which flags may be written with underscores.

JSON keys: those of restore.`,
		Example: `  bootstrap:
    method: pgtender
    pgtender:
      command: pgtender bootstrap --target-time '2026-08-01 03:00:00+02:00'
      keep_existing_recovery_conf: true`,
	}, func(cmd *cobra.Command, n *node, call hook.Call) error { return a.bootstrap(cmd.Context(), n, call, f) })
	fl := cmd.Flags()
	fl.StringVar(&f.backup, "backup", "", "restore the backup `ID` instead of the newest that leads to the target")
	f.target.declare(fl)
	fl.StringArrayVar(&f.tablespaces, "tablespace", nil, "put the tablespace at OLD into NEW, as `OLD=NEW`; may be repeated")
	fl.StringVar(&f.waldir, "waldir", "", "make pg_wal a link to `DIRECTORY`")
	fl.BoolVar(&f.plan, "plan", false, "say what would be done and why, and do nothing")
	return cmd
}

func (a *app) bootstrap(ctx context.Context, n *node, call hook.Call, f bootstrapFlags) error {
	own := n.own()
	gather, err := f.options(own, call)
	if err != nil {
		return err
	}
	gather.Purpose, gather.NoScan, gather.Log = catchup.Bootstrap, f.target.noScan, n.log
	gather.Major = n.serverMajor(ctx)
	if gather.Target, err = f.target.target(); err != nil {
		return err
	}
	if gather.Repo, err = n.repositoryToRestore(ctx); err != nil {
		return err
	}
	plan, err := makePlan(ctx, gather)
	if err != nil {
		return err
	}
	if f.plan {
		return a.printPlan(restoreResult{Plan: plan})
	}
	n.tellPlan(plan)
	result, err := a.carryOut(ctx, n, gather.Repo, plan)
	if err != nil {
		return err
	}
	if err := own.adoptAfter(ctx, plan); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(restoreResult{Plan: plan, Result: &result})
	}
	fmt.Fprintf(a.out, "backup %s is restored into %s; a server started there recovers to %s and goes on on a new timeline\n", result.Backup, result.Dir, plan.Target)
	return nil
}

// adoptAfter makes the new cluster the owner of its part of the repository: its
// first server archives as soon as it is promoted.
func (n *node) adoptAfter(ctx context.Context, plan catchup.Plan) error {
	if _, err := n.dcsSettings(); errors.Is(err, errNoDCS) {
		return nil
	}
	id, err := n.scope()
	if err != nil {
		return err
	}
	id.SystemID = plan.Backup.SystemID
	r := repo.Open(n.objects, id, n.repoOptions())
	owner, err := n.takeOwnership(ctx, r, fmt.Sprintf("bootstrap from backup %s", plan.Backup.ID))
	if err != nil {
		return fmt.Errorf("make the new cluster the owner of its part of the repository: %w", err)
	}
	n.log.InfoContext(ctx, "this cluster owns its part of the repository", "cluster", id.String(), "owner", owner.ID)
	return nil
}
