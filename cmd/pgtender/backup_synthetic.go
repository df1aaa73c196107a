package main

import (
	"context"
	"fmt"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
)

// backupResult is the result of backup; its keys are part of the interface.
type backupResult struct {
	backup.Result
	Synthetic *repo.Backup `json:"synthetic,omitempty"` // made after it, because it was due
}

// synthesisResult is the result of backup --kind synthetic; its keys are part of
// the interface.
type synthesisResult struct {
	Backup repo.Backup `json:"backup"`
}

func (n *node) synthesizeOptions(r *repo.Repo, progress func(backup.Progress)) backup.SynthesizeOptions {
	return backup.SynthesizeOptions{
		Repo: r, Member: n.member(), ToolVersion: toolVersion(), Workers: int(n.Backup.Workers), MaxRate: int64(n.Backup.MaxRate), Log: n.log, Progress: progress,
	}
}

// synthesize makes a synthetic full backup of the newest one. No server is asked.
func (a *app) synthesize(ctx context.Context, n *node, d source) error {
	r, err := n.repositoryToWrite(ctx)
	if err != nil {
		return err
	}
	if !d.alone {
		held, release, err := n.holdBackup(ctx)
		if err != nil {
			return err
		}
		defer release()
		ctx = held
	}
	if err := n.checkOwner(ctx, r); err != nil {
		return err
	}
	m := a.newMeter(n.log)
	defer m.end()
	lessGarbage()
	b, err := backup.Synthesize(ctx, n.synthesizeOptions(r, func(p backup.Progress) { m.report(string(p.Phase), p.Done, p.Total) }))
	m.end()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(synthesisResult{b})
	}
	a.printSynthetic(b)
	return nil
}

func (a *app) printSynthetic(b repo.Backup) {
	fmt.Fprintf(a.out, "backup %s is complete: all of %s in one, %s in %d packs; no older backup is needed for it\n", b.ID, b.Parent, size(b.StoredBytes), b.Packs)
}

// synthesizeIfDue makes a synthetic full backup of one that was just taken, if
// the policy wants it. It gives nil if there is nothing to do.
func (n *node) synthesizeIfDue(ctx context.Context, r *repo.Repo, taken *repo.Backup, progress func(backup.Progress)) (*repo.Backup, error) {
	policy := backup.SyntheticPolicy{After: time.Duration(n.Backup.SyntheticAfter), Share: int(n.Backup.SyntheticShare)}
	if taken.Kind != repo.Incremental || policy == (backup.SyntheticPolicy{}) {
		return nil, nil
	}
	m, err := r.OpenManifest(ctx, taken.ID)
	if err != nil {
		return nil, err
	}
	why := policy.Due(backup.WeightOf(m), taken.ID, time.Now())
	if why == "" {
		return nil, nil
	}
	n.log.InfoContext(ctx, "making a synthetic full backup", "backup", taken.ID.String(), "why", why)
	o := n.synthesizeOptions(r, progress)
	o.Backup = taken.ID
	lessGarbage()
	b, err := backup.Synthesize(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("backup %s is complete, but making a synthetic full one of it failed: %w", taken.ID, err)
	}
	return &b, nil
}
