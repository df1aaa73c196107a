package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni/hook"
)

type replicaFlags struct {
	backup      string
	tablespaces []string
	waldir      string
	way         string
	plan        bool
	audit       bool
}

func (a *app) createReplicaCmd() *cobra.Command {
	var f replicaFlags
	cmd := a.hookCommand(&cobra.Command{
		Use:   "create-replica",
		Short: "Build this member's data directory, as Patroni's create_replica_methods",
		Long: `Builds the data directory of a new replica, or rebuilds that of an old one, from
the repository. Old data, which Patroni hands over with keep_data: true, is made
valid in place by the cheapest safe way: see catchup. That a backup and the archived WAL lead to what the leader still
has is proved before anything is touched.

Patroni passes --scope, --role, --datadir and --connstring, and the keys of the
method's section; keys that are no flags of this command are ignored. It wipes the
directory after a non-zero exit, so what can pass is waited for: for ever if there
is old data, else for ten minutes after the last gain.

JSON keys with --plan: those of restore.`,
		Example: `  postgresql:
    create_replica_methods: [pgtender, basebackup]
    pgtender:
      command: pgtender create-replica
      keep_data: true`,
	}, func(cmd *cobra.Command, n *node, call hook.Call) error {
		ctx, cancel := whileCalled(cmd.Context())
		defer cancel()
		return a.createReplica(ctx, n, call, f)
	})
	fl := cmd.Flags()
	fl.StringVar(&f.backup, "backup", "", "restore the backup `ID` instead of the newest that serves")
	fl.StringArrayVar(&f.tablespaces, "tablespace", nil, "put the tablespace at OLD into NEW, as `OLD=NEW`; may be repeated")
	fl.StringVar(&f.waldir, "waldir", "", "make pg_wal a link to `DIRECTORY`")
	fl.StringVar(&f.way, "way", "", "insist on one `WAY` to treat old data: replay, maps, hashes or full; see catchup")
	fl.BoolVar(&f.audit, "audit", false, "with block maps, read every page that is kept and prove that it is old enough")
	fl.BoolVar(&f.plan, "plan", false, "say what would be done and why, and do nothing")
	return cmd
}

func (a *app) createReplica(ctx context.Context, n *node, call hook.Call, f replicaFlags) error {
	gather, err := f.options(n, call)
	if err != nil {
		return err
	}
	if _, err := n.dcsSettings(); err != nil {
		return clusterError(err)
	}
	var r *repo.Repo
	err = n.patiently(ctx, gather.Dir, f.plan, func(ctx context.Context) (err error) {
		r, gather.SystemID, err = n.clusterRepository(ctx)
		if errors.Is(err, storage.ErrNoStore) && !hasControl(gather.Dir) && n.firstUse(ctx) == nil {
			// On a cluster's first day nothing was ever stored, and the next of
			// Patroni's methods must not wait for it.
			return &catchup.RefusalError{Reason: err.Error(), Advice: "the repository begins with the first archived WAL; take a backup then with: pgtender backup", Permanent: true}
		}
		return err
	})
	if err != nil {
		return err
	}
	gather.Repo, gather.Leader, gather.Major, gather.Log = r, n.leaderFacts, n.serverMajor(ctx), n.log
	if f.plan {
		gather.Purpose, gather.Stopped = catchup.Replica, true
		plan, err := makePlan(ctx, gather)
		if err != nil {
			return err
		}
		return a.printPlan(restoreResult{Plan: plan})
	}
	m := a.newMeter(n.log)
	defer m.end()
	lessGarbage()
	return catchup.CreateReplica(ctx, catchup.ReplicaOptions{
		Gather: gather,
		Run: catchup.RunOptions{
			Repo: r, Workers: int(n.Restore.Workers), Member: n.member(), Archive: n.archiveOld(r),
			Audit:    f.audit,
			Progress: func(p catchup.Progress) { m.report(p.Phase, p.Done, p.Total) }, Log: n.log,
		},
		Planned: n.tellPlan, Log: n.log,
	})
}

func (f *replicaFlags) options(n *node, call hook.Call) (catchup.GatherOptions, error) {
	o := catchup.GatherOptions{WALDir: f.waldir}
	id, err := n.scope()
	if err != nil {
		return o, err
	}
	configured, err := n.dataDir()
	if err != nil && call.DataDir == "" {
		return o, err
	}
	if o.Dir, err = call.Check(id.Scope, configured); err != nil {
		return o, usageError{err}
	}
	if o.Backup, err = backupFlag(f.backup); err != nil {
		return o, err
	}
	if o.Rung, err = wayFlag(f.way); err != nil {
		return o, err
	}
	o.Tablespaces, err = tablespaceMap(f.tablespaces)
	return o, err
}

// clusterRepository opens the part of the repository that belongs to the cluster
// in the DCS. What lies in the data directory does not count: it may be of
// another cluster.
func (n *node) clusterRepository(ctx context.Context) (*repo.Repo, pg.SystemID, error) {
	c, err := n.cluster(ctx)
	if err != nil {
		return nil, 0, err
	}
	if c.SystemID == 0 {
		return nil, 0, finding.WithHint(fmt.Errorf("cluster %s is not initialised yet", c.Scope), "a replica can be made once its first member runs")
	}
	store, err := n.store(ctx, false)
	if err != nil {
		return nil, 0, err
	}
	r, err := n.openRepo(ctx, n.limited(store), func(context.Context) (pg.SystemID, error) { return c.SystemID, nil })
	return r, c.SystemID, err
}

// patiently opens what create-replica needs before it can look at the directory,
// with the same patience as it has afterwards. once makes a single attempt.
func (n *node) patiently(ctx context.Context, dir string, once bool, open func(context.Context) error) error {
	facts := catchup.Facts{Dir: catchup.DirFacts{State: catchup.DirEmpty}}
	if hasControl(dir) {
		facts.Dir.State = catchup.DirData
	}
	began := time.Now()
	for {
		err := open(ctx)
		if err == nil || once || ctx.Err() != nil || errors.As(err, new(usageError)) {
			return err
		}
		d := catchup.RetryDecision(facts, err, began, time.Now())
		if !d.Again {
			return fmt.Errorf("%w (no further attempt: %s)", err, d.Reason)
		}
		n.log.WarnContext(ctx, "cluster or repository cannot be opened, trying again", "error", err, "after", d.After, "because", d.Reason)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(d.After):
		}
	}
}

func hasControl(dir string) bool {
	return exists(filepath.Join(dir, filepath.FromSlash(pg.ControlPath)))
}

// archiveOld pushes WAL of the old data that was never archived.
func (n *node) archiveOld(r *repo.Repo) func(context.Context, string) error {
	return func(ctx context.Context, path string) error {
		opts, err := n.pushOptions(r, 0)
		if err != nil {
			return err
		}
		opts.Path = path
		_, err = archive.Push(ctx, r, opts)
		return err
	}
}

// tellPlan logs a plan before it is carried out: with Patroni, the log is all
// that there is to see.
func (n *node) tellPlan(p catchup.Plan) {
	for _, rung := range p.Rungs {
		if rung.Name == p.Choice {
			n.log.Info("plan", "way", string(rung.Name), "reason", rung.Reason, "backup", p.Backup.ID.String(), "timeline", p.Timeline.String(),
				"seconds", rung.Seconds, "fetch", size(rung.Fetch), "write", size(rung.Write), "replay", size(rung.Replay))
		} else if !rung.Open && p.Local != nil {
			n.log.Info("way is closed", "way", string(rung.Name), "reason", rung.Reason)
		}
	}
	if l := p.Local; l != nil && l.Lost != nil {
		n.log.Warn("what only this member has is given up", "commits", l.Lost.Commits, "timeline", l.Lost.Timeline.String(),
			"from", l.Lost.From.String(), "to", l.Lost.To.String(), "first", l.Lost.First, "last", l.Lost.Last, "uncounted", l.Lost.Uncounted)
	}
}

// serverMajor asks the server program that Patroni will start for its version,
// 0 if it does not tell.
func (n *node) serverMajor(ctx context.Context) int {
	p, known, err := n.patroni()
	if err != nil || !known {
		return 0
	}
	major, err := pg.ProgramMajor(ctx, filepath.Join(p.Postgres.BinDir, "postgres"))
	if err != nil {
		n.log.DebugContext(ctx, "version of the server programs is not known", "error", err)
	}
	return major
}
