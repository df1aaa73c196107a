package main

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

func (a *app) archiveGetCmd() *cobra.Command {
	var timeline string
	var streamed bool
	cmd := &cobra.Command{
		Use:   "archive-get SEGMENT DEST",
		Short: "Fetch one WAL file from the repository, as restore_command",
		Long: `Fetches a WAL segment or a timeline history, given as PostgreSQL's %f, and puts
it at %p once every byte of it is verified. Which timelines' WAL is served
follows --timeline, else the current leader's history, else the repository's.
While a server recovers, what it will ask for next is fetched ahead, into a folder
in pg_wal (archive.prefetch), by the agent or by a process that ends by itself.

Exit status:
  0    the file is at DEST
  1    the file is proved not to be in the archive
  255  anything else: the repository does not answer, the object is damaged,
       wrong usage or configuration. Recovery stops instead of ending early.
       Where standby.signal is in force it is 1 (2 for usage and configuration),
       because a standby can stream what the archive does not give; and at the
       end of a recovery, for the history that the server has in pg_wal itself:
       a promotion must not depend on the repository
  143  ended by SIGTERM (128 and its number for any other signal)`,
		Example: "  restore_command = 'pgtender archive-get %f %p'",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			t, err := timelineFlag(timeline)
			if err != nil {
				return err
			}
			return n.archiveGet(cmd.Context(), getRequest{name: args[0], dest: args[1], timeline: t, streamed: streamed, spawn: a.spawnPrefetch})
		},
	}
	cmd.Flags().StringVar(&timeline, "timeline", "", "follow the history of timeline `NUMBER`, whatever the leader's is")
	cmd.Flags().BoolVar(&streamed, "streamed", false, "give a segment that is not complete as far as receive has stored it, for a recovery that ends there; never under standby.signal")
	return cmd
}

// getRequest is what one archive-get is asked.
type getRequest struct {
	name, dest string
	timeline   pg.Timeline // to follow; 0: the cluster decides
	streamed   bool        // also what is not complete, see [archive.GetOptions]
	// spawn starts a process that fetches ahead into the spool of dest's pg_wal.
	spawn func(dest string, t pg.Timeline) error
}

func (n *node) archiveGet(ctx context.Context, q getRequest) error {
	name, dest := q.name, q.dest
	if ownHistory(name, dest) {
		n.log.DebugContext(ctx, "not asked of the archive: the server has it where it is needed", "file", name)
		return exitError{code: exitFailed}
	}
	opts := archive.GetOptions{Name: name, Dest: dest, Log: n.log, SeenFile: besideWAL(dest, ".pgtender-seen"), Streamed: q.streamed}
	if n.wantsAhead(q) {
		if n.fromSpool(ctx, q) {
			return nil
		}
		opts.More = n.fetchAhead(ctx, q)
	}
	n.breaker = breakerFor(dest)
	if dir := dataDirOf(dest); dir != "" {
		n.DataDir, n.foreign = dir, false
		opts.Standby = standbyMode(dir)
		if _, control, err := pg.ReadControl(ctx, dir); err == nil {
			opts.SegmentSize = control.SegmentSize
		}
	}
	r, err := n.repository(ctx)
	if err != nil {
		return err
	}
	opts.Lineage = n.lineage(r, q.timeline, dataDirOf(dest))
	n.log.DebugContext(ctx, "asking the archive", "file", name, "standby", opts.Standby)
	err = archive.Get(ctx, r, opts)
	if absent := (*archive.AbsentError)(nil); errors.As(err, &absent) {
		// A standby asks for the next segment every few seconds: no error.
		n.log.DebugContext(ctx, "not in the archive", "file", name, "why", absent.Reason)
		return exitError{code: exitFailed}
	}
	return err
}

// lineage finds the history to follow. dataDir is that of the server which the
// WAL is for, "" if that is not known.
func (n *node) lineage(r *repo.Repo, t pg.Timeline, dataDir string) func(context.Context) (archive.Lineage, error) {
	return func(ctx context.Context) (archive.Lineage, error) {
		return archive.ResolveLineage(ctx, r, archive.LineageOptions{Timeline: t, Leader: n.leaderHistory(), Follower: n.follower(ctx, dataDir)})
	}
}

// isArchiveGet reports whether the command line was meant to be an archive-get,
// misspelt ones included: in a restore_command that exits 2, recovery would take
// the misspelling for the end of the archive.
func isArchiveGet(root, cmd *cobra.Command, args []string) bool {
	const name = "archive-get"
	if cmd != root {
		return cmd.Name() == name
	}
	root.SuggestionsMinimumDistance = 2 // letters to exchange
	return slices.ContainsFunc(args, func(arg string) bool {
		return len(arg) > len(name)/2 && slices.Contains(root.SuggestionsFor(arg), name)
	})
}

// archiveGetCode is [exitCode] for archive-get, which has to say that something
// failed in a way that recovery does not take for the end of the archive, unless
// the server can do without it: see standbyMode and ownHistory.
func archiveGetCode(ctx context.Context, err error, spared bool) int {
	code := exitCode(ctx, err)
	if chosen := (exitError{}); code == exitOK || code > exitSignal || spared || errors.As(err, &chosen) {
		return code
	}
	return exitStop
}
