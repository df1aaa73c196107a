package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage/file"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
)

// comeback is one case of a member whose data is old: the leader has changed some
// pages meanwhile, and no longer has the WAL that the member would need.
type comeback struct {
	name, job   string
	incremental bool // the backup taken after the change: incremental, or full
	lose        bool // the archive lacks that WAL too
	diverged    bool // the member was the leader and has gone on alone
}

var comebacks = []comeback{
	{name: "catchup, incremental", job: "catchup", incremental: true},
	{name: "catchup, full", job: "catchup"},
	{name: "catchup, WAL lost", job: "catchup", incremental: true, lose: true},
	{name: "rewind", job: "rewind", incremental: true, diverged: true},
}

// catcher is a tool that can make old data follow the leader again.
type catcher interface {
	tool
	// catchup makes the directory follow.
	catchup(ctx context.Context, dir string, k comeback) (job, error)
	// repository is the folder of its archive, "" if it has none.
	repository() string
}

// comeBack measures one case. All of it happens in one tool's turn, as with
// incremental.
func (c *comparison) comeBack(ctx context.Context, round int, t tool, k comeback) error {
	x, ok := t.(catcher)
	if _, only := t.(*rewind); !ok || only && !k.diverged {
		return nil
	}
	archive, err := t.prepare(ctx)
	if err == nil {
		err = c.server.archiveWith(ctx, archive)
	}
	if err != nil {
		return fmt.Errorf("prepare %s: %w", t.name(), err)
	}
	dir := c.path("member")
	defer func() {
		os.RemoveAll(dir)
		os.RemoveAll(dir + ".pgtender-wal") // WAL that only the member had
	}()
	pages, err := c.leaveBehind(ctx, round, x, k, archive, dir)
	if err != nil {
		return err
	}
	j, err := x.catchup(ctx, dir, k)
	if err != nil {
		return err
	}
	if err := settleDisk(c.opts.cold, c.dir); err != nil {
		return err
	}
	c.say("round %d: %s of %d changed pages by %s", round+1, k.name, pages, t.name())
	u, err := c.measure(ctx, j)
	if err != nil {
		return err
	}
	c.report.add(round, t.name(), k.name, u)
	c.say("  %.2f s; %.1f MB read and %.1f MB written by the tool, %.1f MB read by the source's server", u.wall.Seconds(), float64(u.io.read)/1e6, float64(u.io.wrote)/1e6, float64(u.served.read)/1e6)
	if t.name() == ours {
		c.say("  %s", strings.TrimSpace(string(u.out)))
	}
	if round > 0 {
		return nil
	}
	if err := c.verifyMember(ctx, t, dir); err != nil {
		return fmt.Errorf("what %s brought back: %w", t.name(), err)
	}
	return nil
}

// leaveBehind copies the source into dir, has it go on without that member, and
// takes the backup of what is then there.
func (c *comparison) leaveBehind(ctx context.Context, round int, x catcher, k comeback, archive, dir string) (pages int, err error) {
	inc, builds := x.(incrementer)
	if k.incremental && builds {
		c.say("round %d: full backup by %s, to build on", round+1, x.name())
		if _, err := c.measure(ctx, inc.backup()); err != nil {
			return 0, err
		}
	}
	if err := c.keepWAL(ctx, "0"); err != nil {
		return 0, err
	}
	if err := c.server.archiveWith(ctx, archive); err != nil { // its checkpoints let go of WAL
		return 0, err
	}
	if err := c.leaveMember(ctx, dir, k.diverged); err != nil {
		return 0, err
	}
	if k.diverged {
		// pg_rewind is of use only as long as the source has its WAL.
		if err := c.keepWAL(ctx, "4GB"); err != nil {
			return 0, err
		}
	}
	if pages, err = c.server.touch(ctx, c.opts.pages); err != nil {
		return 0, err
	}
	// What touch changes shows in no row. In a folder that is kept the turns of
	// earlier runs are there.
	turn, err := c.server.sql(ctx, "CREATE TABLE IF NOT EXISTS turn (n int); INSERT INTO turn SELECT coalesce(max(n), 0) + 1 FROM turn RETURNING n")
	if err != nil {
		return 0, err
	}
	if c.turn, err = strconv.Atoi(turn); err != nil {
		return 0, err
	}
	if err := c.server.archiveWith(ctx, archive); err != nil {
		return 0, err
	}
	last, err := c.server.sql(ctx, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
	if err != nil {
		return 0, err
	}
	if builds {
		newer := inc.backup()
		if k.incremental {
			newer = inc.incremental()
		}
		if _, err := c.measure(ctx, newer); err != nil {
			return 0, err
		}
		if err := c.server.archiveWith(ctx, archive); err != nil {
			return 0, err
		}
	}
	if k.diverged {
		return pages, nil
	}
	first, err := c.walIsGone(ctx, dir)
	if err == nil && k.lose && x.repository() != "" {
		err = loseWAL(c.path(x.repository()), first, last)
	}
	return pages, err
}

// keepWAL sets how much WAL the source keeps for standbys.
func (c *comparison) keepWAL(ctx context.Context, size string) error {
	if _, err := c.server.sql(ctx, "ALTER SYSTEM SET wal_keep_size = '"+size+"'"); err != nil {
		return err
	}
	if _, err := c.server.sql(ctx, "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	return c.server.wait(ctx, "SELECT current_setting('wal_keep_size') = '"+size+"'")
}

// walIsGone makes sure that the source no longer has the segment in which a member
// would go on, and gives its name.
func (c *comparison) walIsGone(ctx context.Context, dir string) (string, error) {
	_, control, err := pg.ReadControl(ctx, dir)
	if err != nil {
		return "", err
	}
	name, err := c.server.sql(ctx, "SELECT pg_walfile_name('"+control.Checkpoint.String()+"')")
	if err != nil {
		return "", err
	}
	_, err = os.Stat(filepath.Join(c.server.dataDir, "pg_wal", name))
	if errors.Is(err, fs.ErrNotExist) {
		return name, nil
	}
	return "", errors.Join(err, fmt.Errorf("the source still has segment %s, in which the member would go on", name))
}

// loseWAL removes a repository's segments from first to before last.
func loseWAL(repository, first, last string) error {
	lost := 0
	err := filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		name := d.Name()
		if err != nil || d.IsDir() || len(name) < len(first) {
			return err
		}
		if segment := name[:len(first)]; pg.IsSegmentName(segment) && first <= segment && segment < last {
			lost++
			return os.Remove(path)
		}
		return nil
	})
	if err == nil && lost == 0 {
		err = fmt.Errorf("%s has no WAL from %s to %s that could be lost", repository, first, last)
	}
	return err
}

// leaveMember leaves a copy of the source as it is now, which then goes on
// without it: on a timeline of its own if the copy goes on too.
func (c *comparison) leaveMember(ctx context.Context, dir string, diverged bool) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	c.server.stop()
	if _, err := c.output(ctx, "/bin/cp", "-a", c.server.dataDir, dir); err != nil {
		return err
	}
	var settings []string
	if diverged {
		// Recovery of nothing, which ends on a new timeline.
		if err := c.writeFile(filepath.Join(c.server.dataDir, "recovery.signal"), "", 0o600); err != nil {
			return err
		}
		settings = []string{"restore_command=/bin/false"}
	}
	source, err := c.startPostgres(ctx, c.server.dataDir, sourcePort, settings...)
	if err != nil {
		return err
	}
	c.server = source
	if !diverged {
		return nil
	}
	member, err := c.startPostgres(ctx, dir, restoredPort, "archive_mode=off")
	if err != nil {
		return err
	}
	defer member.stop()
	if _, err := member.touch(ctx, max(2, c.opts.pages/10)); err != nil { // which is lost
		return err
	}
	_, err = member.sql(ctx, "CREATE TABLE IF NOT EXISTS turn (n int); INSERT INTO turn VALUES (1000000)")
	return err
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
		h, err := t.m.server.history(ctx)
		if err != nil {
			return err
		}
		settings = append(settings, "restore_command="+t.run(t.repository(), "archive-get", "--timeline", h.Timeline.String(), "--streamed").String()+" %f %p")
	}
	return c.verify(ctx, dir, settings...)
}

// history gives the history of the server's timeline.
func (p *postgres) history(ctx context.Context) (pg.History, error) {
	name, err := p.sql(ctx, "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)")
	if err != nil {
		return pg.History{}, err
	}
	timeline, err := pg.ParseTimeline(name)
	if err != nil || timeline == 1 {
		return pg.FirstTimeline(), err
	}
	content, err := os.ReadFile(filepath.Join(p.dataDir, "pg_wal", pg.HistoryName(timeline)))
	if err != nil {
		return pg.History{}, err
	}
	return pg.ParseHistory(timeline, content)
}

// catchupChild is what this program is told when it is started as a member that
// catches up: the bench has no DCS in which the command would find a leader.
type catchupChild struct {
	Repository, Dir string
	Flush           pg.LSN
	History         pg.History // of the leader
	Rung            catchup.RungName
	Workers         int
}

// asCatchup is the first argument of such a start.
const asCatchup = "catch-up-a-member"

// catchup goes by block maps where the archive has all WAL: what is measured is a
// member for which replaying it would take too long. Where the archive lacks some,
// pages are compared.
func (t *pgtender) catchup(ctx context.Context, dir string, k comeback) (job, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = t.m.copyProgram(self, "bench")
	}
	if err != nil {
		return job{}, err
	}
	c := catchupChild{Repository: t.m.path(t.repository()), Dir: dir, Rung: catchup.ByMaps, Workers: t.workers}
	if k.lose {
		c.Rung = "" // the plan is to find out
	}
	flush, err := t.m.server.sql(ctx, "SELECT pg_current_wal_flush_lsn()")
	if err != nil {
		return job{}, err
	}
	if c.Flush, err = pg.ParseLSN(flush); err != nil {
		return job{}, err
	}
	if c.History, err = t.m.server.history(ctx); err != nil {
		return job{}, err
	}
	options, err := json.Marshal(c)
	return job{argv: []string{self, asCatchup, string(options)}}, err
}

// runCatchup is such a start. It prints in a line what it has done.
func runCatchup(ctx context.Context, options string, out io.Writer) error {
	var c catchupChild
	if err := json.Unmarshal([]byte(options), &c); err != nil {
		return err
	}
	_, control, err := pg.ReadControl(ctx, c.Dir)
	if err != nil {
		return err
	}
	store, err := file.Open(ctx, file.Options{Dir: c.Repository})
	if err != nil {
		return err
	}
	r := repo.Open(store, repo.ClusterID{Scope: scope, SystemID: control.SystemID}, repo.Options{})
	facts, err := catchup.Gather(ctx, catchup.GatherOptions{
		Repo: r, Purpose: catchup.Replica, Dir: c.Dir, Rung: c.Rung,
		Leader: func(context.Context) (*catchup.LeaderFacts, error) {
			return &catchup.LeaderFacts{Member: "source", History: c.History, Flush: c.Flush}, nil
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
			fmt.Fprintf(out, "%s: about %.1f MB in %d requests planned; wrote %.1f MB, kept %d of %d files\n",
				plan.Choice, float64(rung.Fetch)/1e6, rung.Requests, float64(result.Bytes)/1e6, result.Kept, result.Kept+result.Files)
		}
	}
	return nil
}

func (t *pgtender) repository() string { return "pgtender-repo" }

func (t *pgbackrest) catchup(_ context.Context, dir string, _ comeback) (job, error) {
	return t.run(t.repository(), "--pg1-path="+dir, "--delta", "restore"), nil
}

func (t *basebackup) catchup(_ context.Context, dir string, _ comeback) (job, error) {
	return job{argv: []string{"/bin/sh", "-c", `rm -rf "$1" && exec "$0" -D "$1" -h "$2" -p "$3" -U postgres -c fast -X stream`,
		t.m.program("pg_basebackup"), dir, t.m.dir, strconv.Itoa(sourcePort)}}, nil
}

func (t *basebackup) repository() string { return "" }
