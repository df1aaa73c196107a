package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/catchup/drill"
)

// drills is the result of verify --restore; its keys are part of the interface.
type drills struct {
	OK     bool           `json:"ok"`
	Drills []drill.Result `json:"drills"`
}

// drill restores backups on trial: those named, or the newest.
func (a *app) drill(ctx context.Context, n *node, ids []repo.BackupID) error {
	r, err := n.repositoryToRestore(ctx)
	if err != nil {
		return err
	}
	o, err := n.drillOptions(a, r)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		ids = []repo.BackupID{0}
	}
	out := drills{OK: true, Drills: []drill.Result{}}
	for _, id := range ids {
		m := a.newMeter(n.log)
		o.Backup, o.Progress = id, func(p catchup.Progress) { m.report(p.Phase, p.Done, p.Total) }
		result, err := drill.Run(ctx, o)
		m.end()
		if err != nil {
			return err
		}
		out.Drills, out.OK = append(out.Drills, result), out.OK && result.OK
		if !a.json {
			printDrill(a.out, result)
		}
	}
	if a.json {
		if err := a.printJSON(out); err != nil {
			return err
		}
	}
	if !out.OK {
		return exitError{code: exitFailed}
	}
	return nil
}

func (n *node) drillOptions(a *app, r *repo.Repo) (drill.Options, error) {
	p, _, err := n.patroni()
	if err != nil && !errors.As(err, new(usageError)) {
		return drill.Options{}, err
	}
	o := drill.Options{
		Repo: r, ScratchDir: n.Verify.ScratchDir, BinDir: cmp.Or(n.Verify.BinDir, p.Postgres.BinDir), User: n.Verify.User,
		Role: cmp.Or(n.Server.User, p.Postgres.Superuser.Username), Workers: int(n.Restore.Workers), By: whoami(), Log: n.log,
		RestoreCommand: func(plan catchup.Plan) (string, error) { return n.restoreCommand(a.configRead, r.Cluster(), plan) },
	}
	for _, c := range n.Verify.Checks {
		o.Checks = append(o.Checks, drill.Check{Database: c.Database, SQL: c.SQL, Expect: c.Expect})
	}
	return o, nil
}

func printDrill(w io.Writer, d drill.Result) {
	if d.OK {
		fmt.Fprintf(w, "ok     backup %s: consistent at %s; restored in %s, recovered in %s\n", d.Backup, d.Consistent, span(d.Restore), span(d.Recovery))
	}
	for _, fault := range d.Faults {
		fmt.Fprintf(w, "error  backup %s: %s\n", d.Backup, fault)
	}
	for _, c := range d.Checks {
		if c.OK {
			fmt.Fprintf(w, "ok     %s: %s\n", c.SQL, firstLineOf(c.Got))
		}
	}
	for _, s := range d.Skipped {
		fmt.Fprintf(w, "warn   not done: %s\n", s)
	}
}
