package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
)

// catchingUp are the jobs that bring a member back: against an incremental
// backup that was taken after the pages had changed, or a full one.
var catchingUp = []string{"catchup, incremental", "catchup, full"}

// catcher is a tool that can make old data follow the leader again.
type catcher interface {
	tool
	// catchup makes the directory follow; the leader's WAL goes to a position.
	catchup(ctx context.Context, dir string, flush string) (job, error)
}

// catchup measures how a member comes back that lags by some changed pages and
// whose WAL is gone. All of it happens in one tool's turn, as with incremental.
func (c *comparison) catchup(ctx context.Context, round int, t tool, kind string) error {
	x, ok := t.(catcher)
	inc, builds := t.(incrementer)
	if !ok {
		return nil
	}
	incremental := kind == catchingUp[0]
	archive, err := t.prepare(ctx)
	if err == nil {
		err = c.server.archiveWith(ctx, archive)
	}
	if err != nil {
		return fmt.Errorf("prepare %s: %w", t.name(), err)
	}
	if incremental && builds {
		c.say("round %d: full backup by %s, to build on", round+1, t.name())
		if _, err := c.measure(ctx, t.backup()); err != nil {
			return err
		}
	}
	dir := c.path("member")
	defer os.RemoveAll(dir)
	if err := c.leaveMember(ctx, dir); err != nil {
		return err
	}
	pages, err := c.server.touch(ctx, c.opts.pages)
	if err == nil {
		err = c.server.archiveWith(ctx, archive)
	}
	if err != nil {
		return err
	}
	if builds {
		newer := t.backup()
		if incremental {
			newer = inc.incremental()
		}
		if _, err := c.measure(ctx, newer); err != nil {
			return err
		}
		if err := c.server.archiveWith(ctx, archive); err != nil {
			return err
		}
	}
	flush, err := c.server.sql(ctx, "SELECT pg_current_wal_flush_lsn()")
	if err != nil {
		return err
	}
	j, err := x.catchup(ctx, dir, flush)
	if err != nil {
		return err
	}
	if err := settleDisk(c.opts.cold, c.dir); err != nil {
		return err
	}
	c.say("round %d: %s of %d changed pages by %s", round+1, kind, pages, t.name())
	u, err := c.measure(ctx, j)
	if err != nil {
		return err
	}
	c.report.add(round, t.name(), kind, u)
	if round > 0 {
		return nil
	}
	if err := c.verifyMember(ctx, t, dir); err != nil {
		return fmt.Errorf("what %s brought back: %w", t.name(), err)
	}
	return nil
}

// leaveMember leaves a copy of the source as it is now, which then goes on
// without it.
func (c *comparison) leaveMember(ctx context.Context, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	c.server.stop()
	_, copyErr := c.output(ctx, "/bin/cp", "-a", c.server.dataDir, dir)
	var err error
	if c.server, err = c.startPostgres(ctx, c.server.dataDir, sourcePort); err != nil {
		return err
	}
	return copyErr
}

// verifyMember starts what a tool brought back, with recovery to the end of the
// archive instead of streaming, and compares its tables.
func (c *comparison) verifyMember(ctx context.Context, t tool, dir string) error {
	standby := filepath.Join(dir, "standby.signal")
	if _, err := os.Stat(standby); err == nil {
		if err := os.Rename(standby, filepath.Join(dir, "recovery.signal")); err != nil {
			return err
		}
	}
	var settings []string
	if t, ok := t.(*pgtender); ok {
		settings = append(settings, "restore_command="+t.run("pgtender-repo", "archive-get", "--timeline", "1", "--streamed").String()+" %f %p")
	}
	return c.verify(ctx, dir, settings...)
}

// catchupChild is what this program is told when it is started as a member that
// catches up: the bench has no DCS in which the command would find a leader.
type catchupChild struct {
	Repository, Dir, Flush string
	Workers                int
}

// asCatchup is the first argument of such a start.
const asCatchup = "catch-up-a-member"

func (t *pgtender) catchup(_ context.Context, dir, flush string) (job, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = t.m.copyProgram(self, "bench")
	}
	if err != nil {
		return job{}, err
	}
	options, err := json.Marshal(catchupChild{t.m.path("pgtender-repo"), dir, flush, t.workers})
	return job{argv: []string{self, asCatchup, string(options)}}, err
}

// runCatchup is such a start. It goes by block maps, although the archive has
// all WAL: what is measured is a member for which that would take too long.
func runCatchup(ctx context.Context, options string, out io.Writer) error {
	var c catchupChild
	if err := json.Unmarshal([]byte(options), &c); err != nil {
		return err
	}
	_, control, err := pg.ReadControl(ctx, c.Dir)
	if err != nil {
		return err
	}
	flush, err := pg.ParseLSN(c.Flush)
	if err != nil {
		return err
	}
	store, err := file.Open(ctx, file.Options{Dir: c.Repository})
	if err != nil {
		return err
	}
	r := repo.Open(store, repo.ClusterID{Scope: scope, SystemID: control.SystemID}, repo.Options{})
	facts, err := catchup.Gather(ctx, catchup.GatherOptions{
		Repo: r, Purpose: catchup.Replica, Dir: c.Dir, Rung: catchup.ByMaps,
		Leader: func(context.Context) (*catchup.LeaderFacts, error) {
			return &catchup.LeaderFacts{Member: "source", History: pg.FirstTimeline(), Flush: flush}, nil
		},
	})
	if err != nil {
		return err
	}
	plan, err := catchup.Decide(facts)
	if err != nil {
		return err
	}
	result, err := catchup.Run(ctx, plan, catchup.RunOptions{Repo: r, Workers: c.Workers})
	if err != nil {
		return err
	}
	for _, rung := range plan.Rungs {
		if rung.Name == plan.Choice {
			fmt.Fprintf(out, "fetched about %d bytes in %d requests\n", rung.Fetch, rung.Requests)
		}
	}
	return json.NewEncoder(out).Encode(result)
}

func (t *pgbackrest) catchup(_ context.Context, dir, _ string) (job, error) {
	return t.run(t.repository(), "--pg1-path="+dir, "--delta", "restore"), nil
}

func (t *basebackup) catchup(_ context.Context, dir, _ string) (job, error) {
	return job{argv: []string{"/bin/sh", "-c", `rm -rf "$1" && exec "$0" -D "$1" -h "$2" -p "$3" -U postgres -c fast -X stream`,
		t.m.program("pg_basebackup"), dir, t.m.dir, strconv.Itoa(sourcePort)}}, nil
}
