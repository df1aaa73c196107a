package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
	"github.com/pgtender/pgtender/patroni/rest"
)

type catchupFlags struct {
	dir         string
	backup      string
	tablespaces []string
	way         string
	plan        bool
	audit       bool

	member string
	force  bool
	noWait bool
}

// ways are the names of the rungs on the command line.
var ways = map[string]catchup.RungName{"replay": catchup.ByReplay, "maps": catchup.ByMaps, "hashes": catchup.ByHashes, "full": catchup.FullRestore}

// wayFlag reads --way; "" leaves the choice to the plan.
func wayFlag(s string) (catchup.RungName, error) {
	way, ok := ways[s]
	if s != "" && !ok {
		return "", usagef("--way %q is none of replay, maps, hashes, full", s)
	}
	return way, nil
}

func (a *app) catchupCmd() *cobra.Command {
	var f catchupFlags
	cmd := &cobra.Command{
		Use:   "catchup",
		Short: "Bring a member back that lags or has diverged, by fetching only what differs",
		Long: `Makes the stopped data directory of a member one that can follow the leader again,
in place, by the cheapest safe way:

  replay   the data is on the leader's history, and all WAL it lacks is there
  maps     fetch the pages that WAL block maps name, of both branches
  hashes   compare every page with the hashes in the repository, fetch those that differ
  full     remove the data and restore

--plan prints them all with what they cost, or why they are closed, and for each
backup that serves what they would cost with that. It may be asked for while the
server runs, and then says what would be done if it stopped now. That a backup
and the archived WAL lead to what the leader has is proved before anything is
touched, and WAL that only this member has is saved. What is killed in the middle
goes on with the same command; until it is complete no server can start there.

With --member the member's Patroni is asked to do it (reinitialise), which runs
create-replica there: for this, create_replica_methods must have it with
keep_data: true. The command follows until the member streams from the leader.

JSON keys: those of restore; the plan has snapshot, lower and local (state,
timeline, redo, end, standby, hints_logged, diverged, hint_redo, lost, unknown) too, its
rungs have backup, may_pass and seconds, its candidates rungs, the result kept_files. With --member: member, state, role, timeline, lag_bytes.`,
		Example: `  pgtender catchup --plan
  systemctl stop patroni && pgtender catchup && systemctl start patroni
  pgtender catchup --member pg3`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			if f.member != "" {
				return a.catchupMember(cmd.Context(), n, f)
			}
			return a.catchup(cmd.Context(), n, f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.dir, "data-dir", "", "the stopped data `DIRECTORY`; default: this member's")
	fl.StringVar(&f.backup, "backup", "", "lean on the backup `ID` instead of the newest that serves")
	fl.StringArrayVar(&f.tablespaces, "tablespace", nil, "put the tablespace at OLD into NEW, as `OLD=NEW`; may be repeated")
	fl.StringVar(&f.way, "way", "", "insist on one `WAY`: replay, maps, hashes or full")
	fl.BoolVar(&f.plan, "plan", false, "say what would be done and why, and do nothing")
	fl.BoolVar(&f.audit, "audit", false, "with block maps, read every page that is kept and prove that it is old enough")
	fl.StringVar(&f.member, "member", "", "have the Patroni of the `MEMBER` rebuild it, and wait until it streams")
	fl.BoolVar(&f.force, "force", false, "with --member: end what the member is busy with, which loses its data directory")
	fl.BoolVar(&f.noWait, "no-wait", false, "with --member: return once Patroni has accepted")
	return cmd
}

func (f *catchupFlags) options(n *node) (catchup.GatherOptions, error) {
	o := catchup.GatherOptions{Purpose: catchup.Replica, Dir: f.dir, Log: n.log}
	var err error
	if o.Dir == "" {
		if o.Dir, err = n.dataDir(); err != nil {
			return o, err
		}
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

func (a *app) catchup(ctx context.Context, n *node, f catchupFlags) error {
	gather, err := f.options(n)
	if err != nil {
		return err
	}
	if err := n.notLeader(ctx, gather.Dir); err != nil {
		return err
	}
	if !f.plan {
		if err := n.patroniAway(ctx, gather.Dir); err != nil {
			return err
		}
	}
	if gather.Repo, gather.SystemID, err = n.clusterRepository(ctx); err != nil {
		return err
	}
	gather.Leader, gather.Major, gather.Stopped = n.leaderFacts, n.serverMajor(ctx), f.plan
	plan, err := makePlan(ctx, gather)
	if err != nil {
		return err
	}
	if f.plan {
		return a.printPlan(restoreResult{Plan: plan})
	}
	n.tellPlan(plan)
	m := a.newMeter(n.log)
	defer m.end()
	lessGarbage()
	result, err := catchup.Run(ctx, plan, catchup.RunOptions{
		Repo: gather.Repo, Workers: int(n.Restore.Workers), Member: n.member(), Archive: n.archiveOld(gather.Repo), Audit: f.audit,
		Progress: func(p catchup.Progress) { m.report(p.Phase, p.Done, p.Total) }, Log: n.log,
	})
	if err != nil {
		return err
	}
	m.end()
	if a.json {
		return a.printJSON(restoreResult{Plan: plan, Result: &result})
	}
	printCaughtUp(a.out, plan, result)
	return nil
}

func printCaughtUp(w io.Writer, p catchup.Plan, r catchup.Result) {
	fmt.Fprintf(w, "%s can follow the leader on timeline %s: %s: %d files written, %d kept, %s, in %s\n", r.Dir, p.Timeline, r.Rung, r.Files, r.Kept, size(r.Bytes), span(r.Duration))
	if p.Local != nil && p.Local.Lost != nil {
		fmt.Fprintf(w, "given up: %s\n", p.Local.Lost)
	}
	for _, saved := range r.Saved {
		fmt.Fprintf(w, "kept aside, since it was never archived: %s\n", saved)
	}
}

// patroniAway refuses to work under a Patroni that would start the server in the
// middle of it.
func (n *node) patroniAway(ctx context.Context, dir string) error {
	p, own := n.ownPatroni(dir)
	if !own || p.RESTAPI.URL() == "" {
		return nil // there is none, or it is not about this directory
	}
	c, err := rest.New(p.Ctl, 0)
	if err != nil {
		return nil // what cannot be asked is no reason to refuse
	}
	defer c.Close()
	s, err := c.Status(ctx, p.RESTAPI.URL())
	if err != nil || s.ClusterPaused || s.Name != "" && s.Name != p.Name {
		return nil
	}
	return finding.WithHint(fmt.Errorf("Patroni runs on this member (%s) and would start the server in the middle of it", s.RawState),
		"run: pgtender catchup --member %s; or stop Patroni first", p.Name)
}

// ownPatroni gives the configuration of this member's Patroni, if the directory is
// that member's.
func (n *node) ownPatroni(dir string) (patroni.Config, bool) {
	p, known, err := n.patroni()
	if err != nil || !known {
		return p, false
	}
	return p, filepath.Clean(p.Postgres.DataDir) == filepath.Clean(dir) || pg.SameDir(p.Postgres.DataDir, dir)
}

// notLeader refuses the directory of whoever leads the cluster: there is nobody for
// it to follow.
func (n *node) notLeader(ctx context.Context, dir string) error {
	p, own := n.ownPatroni(dir)
	if !own {
		return nil
	}
	c, err := n.cluster(ctx)
	if err != nil {
		return err
	}
	if c.Leader == "" || c.Leader != p.Name {
		return nil
	}
	return finding.WithHint(fmt.Errorf("%s is the directory of %s, which leads the cluster %s and follows nobody", dir, p.Name, c.Scope),
		"run it on the member that is to come back, or: pgtender catchup --member MEMBER")
}

// catchupMember asks a member's Patroni.
func (a *app) catchupMember(ctx context.Context, n *node, f catchupFlags) error {
	if f.dir != "" || f.backup != "" || f.way != "" || f.plan || f.audit || len(f.tablespaces) > 0 {
		return usagef("--member goes with --force and --no-wait only: the member decides for itself how it is brought back")
	}
	follow, end, err := n.reinitialize(ctx, f.member, f.force)
	if err != nil {
		return err
	}
	defer end()
	if f.noWait {
		n.log.Info("the member's Patroni has accepted", "member", f.member)
		return nil
	}
	done, err := follow.run(ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(done)
	}
	fmt.Fprintf(a.out, "%s is %s on timeline %s\n", done.Member, done.State, done.Timeline)
	return nil
}

// reinitialize orders a member's Patroni to rebuild it, and gives what follows
// that. end must be called.
func (n *node) reinitialize(ctx context.Context, member string, force bool) (f *follower, end func(), err error) {
	c, err := n.cluster(ctx)
	if err != nil {
		return nil, nil, err
	}
	m, ok := c.Member(member)
	if !ok || m.APIURL == "" {
		return nil, nil, finding.WithHint(fmt.Errorf("the cluster %s has no member %s whose Patroni can be reached", c.Scope, member), "see the members with: pgtender topology")
	}
	p, known, err := n.patroni()
	if err != nil {
		return nil, nil, err
	}
	if known {
		n.adviseKeepData(p)
	}
	client, err := rest.New(p.Ctl, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := client.Reinitialize(ctx, m.APIURL, force); err != nil {
		client.Close()
		err = fmt.Errorf("have %s rebuilt: %w", member, err)
		var refused *rest.RefusedError
		if errors.As(err, &refused) && strings.Contains(refused.Text, "already in progress") && !force {
			err = finding.WithHint(err, "wait until that has ended, and see the members with: pgtender topology; --force ends it, but then Patroni removes the data directory")
		}
		return nil, nil, err
	}
	return &follower{client: client, name: member, api: m.APIURL, log: n.log}, client.Close, nil
}

// adviseKeepData warns where the configuration makes Patroni remove the data
// before create-replica sees it. The other members' are most likely the same.
func (n *node) adviseKeepData(p patroni.Config) {
	ours := false
	for _, name := range p.Postgres.CreateReplicaMethods {
		m := p.Postgres.Methods[name]
		if !strings.Contains(m.Command, "create-replica") {
			continue
		}
		ours = true
		if !m.KeepData {
			n.log.Warn("without keep_data: true Patroni removes the old data first, and everything is fetched", "method", name)
		}
	}
	if !ours {
		n.log.Warn("create_replica_methods does not have pgtender create-replica: the member is copied by another method")
	}
}

// errNotStreaming means that a rebuild has ended without success.
var errNotStreaming = errors.New("it does not stream from the leader")
