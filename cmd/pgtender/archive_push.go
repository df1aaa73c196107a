package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

func (a *app) archivePushCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "archive-push PATH",
		Short: "Store one WAL file in the repository, as archive_command",
		Long: `Stores a WAL segment, a timeline history or a backup history file, given as
PostgreSQL's %p. It succeeds only when the file is in the repository, verified;
PostgreSQL repeats whatever fails. A file that is there already with the same
content is success. Segments that wait behind it are stored along with it, in
parallel; when PostgreSQL asks for them, one small request confirms each.

On a standby (archive_mode=always) it asks first whether the segment is there,
and leaves it to the leader for up to 5 s, or agent.grace if that is less, after
it was written. What waits longer than that, and what a server archives that is
promoted or shuts down, is stored at once.`,
		Example: "  archive_command = 'pgtender archive-push %p'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			if n.pushedByAgent(cmd.Context(), args[0]) {
				return nil
			}
			return n.archivePush(cmd.Context(), args[0])
		},
	}
}

func (n *node) archivePush(ctx context.Context, path string) error {
	limit := time.Duration(n.Archive.PushTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("archive.push_timeout of %s is over", limit))
	defer cancel()
	n.breaker = breakerFor(path)
	if dir := dataDirOf(path); dir != "" {
		if err := n.refuseCopy(dir); err != nil {
			return err
		}
		n.DataDir, n.foreign = dir, false
		archive.Sweep(filepath.Dir(path)) // where no agent does
	}
	r, err := n.repositoryToWrite(ctx)
	if err != nil {
		return err
	}
	var timeline pg.Timeline
	if name, err := repo.ParseWALName(filepath.Base(path)); err == nil {
		timeline = name.Timeline()
	}
	opts, err := n.pushOptions(r, timeline)
	if err != nil {
		return err
	}
	opts.Path, opts.Grace = path, n.standbyGrace()
	_, err = archive.PushAhead(ctx, r, opts, n.ahead(path))
	return err
}

// standbyGrace is how long a standby with archive_mode=always leaves a segment to
// its upstream. A push must not come to its own end before that.
func (n *node) standbyGrace() time.Duration {
	return min(archive.StandbyGrace, time.Duration(n.Agent.Grace), time.Duration(n.Archive.PushTimeout)/2)
}

// ahead says how much of a backlog is archived with one file.
func (n *node) ahead(path string) archive.AheadOptions {
	return archive.AheadOptions{
		Segments: maxAhead, Bytes: int64(n.Archive.PushAhead), Workers: int(n.Archive.Workers), NotesFile: besideWAL(path, ".pgtender-archived"),
	}
}

// maxAhead is how many segments are archived ahead at once, however small.
const maxAhead = 64

// refuseCopy refuses WAL of a data directory that is not the member's: a copy
// restored beside it has the same configuration, and once promoted it would put
// its own timeline into the cluster's archive.
func (n *node) refuseCopy(dir string) error {
	configured, err := n.dataDir()
	if err != nil {
		return nil // there is nothing to compare with
	}
	const control = "global/pg_control"
	own, err := os.Stat(filepath.Join(configured, control))
	if err != nil {
		return nil
	}
	if its, err := os.Stat(filepath.Join(dir, control)); err != nil || os.SameFile(own, its) {
		return err
	}
	return finding.WithHint(fmt.Errorf("%s is not the member's data directory, which is %s", dir, configured),
		"a restored copy must not archive into the cluster's repository: set archive_mode = off there")
}
